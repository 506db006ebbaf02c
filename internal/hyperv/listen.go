package hyperv

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// listenAll listens for all of these machines on one port.
func listenAll(ids []ID, port uint32, listen func(ID, uint32) (net.Listener, error)) (net.Listener, error) {
	a := &all{conns: make(chan net.Conn), done: make(chan struct{})}
	var errs []error
	for _, id := range ids {
		ln, err := listen(id, port)
		if err != nil {
			if inUse(err) {
				_ = a.Close()
				return nil, err
			}
			// One of another account, or that ended just now.
			errs = append(errs, err)
			continue
		}
		a.lns = append(a.lns, ln)
	}
	switch len(a.lns) {
	case 0:
		return nil, errors.Join(errs...)
	case 1:
		return a.lns[0], nil
	}
	a.left.Store(int32(len(a.lns)))
	for _, ln := range a.lns {
		a.work.Go(func() { a.accept(ln) })
	}
	return a, nil
}

// maxUntaken is how many times in a row Accept may fail before its listener has ended:
// it does too for one who left before he was taken.
const maxUntaken = 8

// all are several listeners as one. It ends with the last that fails: one does when
// its machine ends, which says nothing of the others.
type all struct {
	lns   []net.Listener
	conns chan net.Conn
	done  chan struct{} // closed by Close, or since all have failed
	once  sync.Once
	err   error
	work  sync.WaitGroup

	left atomic.Int32 // listeners that have not failed
}

func (a *all) accept(ln net.Listener) {
	for untaken := 0; ; {
		c, err := ln.Accept()
		if err != nil {
			if untaken++; untaken < maxUntaken {
				continue
			}
			_ = ln.Close() // or its backlog goes on taking connections
			if a.left.Add(-1) == 0 {
				a.end(err)
			}
			return
		}
		untaken = 0
		select {
		case a.conns <- c:
		case <-a.done:
			_ = c.Close()
			return
		}
	}
}

func (a *all) end(err error) {
	a.once.Do(func() {
		a.err = err
		close(a.done)
		for _, ln := range a.lns {
			_ = ln.Close()
		}
	})
}

func (a *all) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, a.err
	}
}

func (a *all) Close() error {
	a.end(net.ErrClosed)
	a.work.Wait()
	return nil
}

func (a *all) Addr() net.Addr { return a.lns[0].Addr() }
