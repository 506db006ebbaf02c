package link

import (
	"testing"
	"testing/synctest"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		for range 2 {
			if !g.Enter() {
				t.Fatal("an open gate lets nobody in")
			}
		}
		closed := false
		go func() {
			g.Close()
			closed = true
		}()
		g.Leave()
		synctest.Wait()
		if closed {
			t.Error("closed while somebody was inside")
		}
		if g.Enter() {
			t.Error("a gate that is being closed lets somebody in")
		}
		g.Leave()
		synctest.Wait()
		if !closed {
			t.Error("not closed when the last one had left")
		}
	})
}
