package afunix

import (
	"context"
	"net"
	"strings"

	"drvsock/internal/errno"
)

// Dial connects to file, a checked path, from a socket bound to local if that
// isn't nil. Package net leaves a dial of a Unix socket to one blocking call, so
// that is waited for beside ctx.
func Dial(ctx context.Context, local *net.UnixAddr, file string) (*net.UnixConn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.err = WithShort(file, func(name string) (err error) {
			var d net.Dialer
			if local != nil {
				d.LocalAddr = local
			}
			r.conn, err = d.DialContext(ctx, "unix", name)
			return err
		})
		done <- r
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, Refused(errno.OpConnect, file, r.err)
		}
		return r.conn.(*net.UnixConn), nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// PeerName returns the path that the other end of c is bound to, empty for none.
func PeerName(c *net.UnixConn) []byte {
	// Package net shows an unnamed peer as "@" (or nothing); Windows paths
	// don't begin so.
	a, ok := c.RemoteAddr().(*net.UnixAddr)
	if !ok || a == nil || strings.HasPrefix(a.Name, "@") {
		return nil
	}
	name, _, _ := strings.Cut(a.Name, "\x00")
	return []byte(name)
}
