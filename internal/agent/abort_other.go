//go:build !windows

package agent

import "net"

// abort closes conn so that the other end sees a failure where the system has a
// way to say so. On Linux a close with unread bytes gives the peer ECONNRESET;
// with none there is only the end of the stream.
func abort(conn *net.UnixConn) { _ = conn.Close() }
