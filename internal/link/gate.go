package link

import "sync"

// A Gate lets requests for one handle in until it is closed. The stream of the
// handle must not be ended while one is being answered: with it the other side
// gives up what it has asked for it, also a connection that a program here has
// taken and served already. The zero value is open.
type Gate struct {
	mu     sync.Mutex
	closed bool
	inside sync.WaitGroup
}

// Enter tells whether the gate is open; if so, Leave is to follow.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.inside.Add(1)
	}
	return !g.closed
}

// Leave ends what Enter began.
func (g *Gate) Leave() { g.inside.Done() }

// Close closes the gate and waits for those inside.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
}
