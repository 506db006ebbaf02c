//go:build !linux

package relay

// partySocket is what the system tells of an end beyond net.Conn: here, nothing.
type partySocket struct{ conn Conn }

func newParty(c Conn) *party { return &party{conn: c, partySocket: partySocket{c}} }

func (e *partySocket) read() (*piece, error)       { return readConn(e.conn) }
func (e *partySocket) hangup() bool                { return false }
func (e *partySocket) waitHangup(func() bool) bool { return false }
func (e *partySocket) unread() bool                { return false }

func (e *partySocket) closeRead() {
	if c, ok := e.conn.(interface{ CloseRead() error }); ok {
		_ = c.CloseRead()
	}
}
