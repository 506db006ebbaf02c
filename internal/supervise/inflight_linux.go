package supervise

import "sync"

// inflight counts what is under way. Unlike a sync.WaitGroup it may rise from
// zero while somebody waits.
type inflight struct {
	mu   sync.Mutex
	zero sync.Cond
	n    int
}

func newInflight() *inflight {
	f := &inflight{}
	f.zero.L = &f.mu
	return f
}

func (f *inflight) add() {
	f.mu.Lock()
	f.n++
	f.mu.Unlock()
}

func (f *inflight) done() {
	f.mu.Lock()
	if f.n--; f.n == 0 {
		f.zero.Broadcast()
	}
	f.mu.Unlock()
}

// wait returns when nothing is under way.
func (f *inflight) wait() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.n > 0 {
		f.zero.Wait()
	}
}
