//go:build !windows

package agent

import "drvsock/internal/relay"

// reset has nothing to do: a close with unread bytes gives the peer ECONNRESET;
// with none there is only the end of the stream.
func reset(relay.Conn) {}
