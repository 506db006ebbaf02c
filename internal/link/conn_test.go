package link

import (
	"net"
	"testing"

	"golang.org/x/net/nettest"
)

func TestNettest(t *testing.T) {
	for _, tr := range []transport{netPipe, osPipes, plainPipes, socketPair} {
		for _, window := range []uint32{0, 1000} {
			t.Run(tr.name, func(t *testing.T) {
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					a, b := streams(t, tr, Config{Window: window})
					return a, b, func() {
						_ = a.l.Close()
						_ = b.l.Close()
					}, nil
				})
			})
		}
	}
}
