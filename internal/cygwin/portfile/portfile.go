// Package portfile does what Cygwin's and GnuPG's stand-ins for Unix sockets have
// in common: a file that holds a port of 127.0.0.1 and a secret of 16 bytes, which
// whoever can read the file sends first. The two differ in the form of the file
// and in what follows the secret; that is their packages' part.
//
// Any account of the machine can connect to a port of 127.0.0.1, so until the
// secret has come a connection is a stranger's, and is treated as one.
package portfile

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// MaxFile is the longest stand-in that is read, in bytes. Real ones have up to 70;
// GnuPG's redirection has up to 511.
const MaxFile = 4096

// SecretLen is the length of the secret in bytes.
const SecretLen = 16

// A Secret is what proves that its sender can read the file.
type Secret [SecretLen]byte

// greetTime bounds all that goes over a connection before its data, both ways.
const greetTime = 5 * time.Second

// settleTime bounds the wait for a file whose maker has not written it yet.
const settleTime = 500 * time.Millisecond

// Options are about the file that Listen makes. Who can read it can connect.
type Options struct {
	Mode     fs.FileMode // permission bits, 0 means 0600; not on Windows
	UID, GID int         // the file's owner, -1 keeps this process's; not on Windows
	// SDDL is the file's DACL on Windows, such as D:P(A;;FA;;;SID). Empty lets in
	// the account of this process and nobody else.
	SDDL string
	Log  *slog.Logger // nil discards
}

// Config is what makes a stand-in one of Cygwin's or GnuPG's.
type Config struct {
	Options
	Path   string
	System bool // Windows: give the file the SYSTEM attribute
	Format func(port uint16, s Secret) []byte
	Parse  func(b []byte) (port uint16, s Secret, err error)
	// Greet does the listener's half of what goes before the data, with exact
	// reads. conn bears the deadline until; who sets another sets it again. An
	// error closes conn.
	Greet func(conn net.Conn, s Secret, until time.Time) (wire.Caller, error)
}

// Read returns what is in the stand-in at path. Folders, devices and FIFOs are not
// opened; symbolic links are followed. A file that is empty, or that its maker
// keeps to itself, is taken for one in the making and looked at again for up to
// half a second.
func Read(ctx context.Context, path string) ([]byte, error) {
	give := time.NewTimer(settleTime)
	defer give.Stop()
	for {
		b, err := readOnce(path)
		if settled := err == nil && len(b) > 0 || err != nil && !sharing(err); settled {
			return b, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-give.C:
			if err == nil {
				err = NoStandIn(path, "it is empty")
			}
			return nil, err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func readOnce(path string) ([]byte, error) {
	// Opening is not harmless to every device, so look first.
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, NoStandIn(path, "it is no regular file")
	}
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, NoStandIn(path, "it is no regular file")
	}
	b := make([]byte, MaxFile+1)
	n, err := readFull(f, b)
	if err != nil {
		return nil, err
	}
	if n > MaxFile {
		return nil, NoStandIn(path, "it is too long")
	}
	return b[:n], nil
}

// NoStandIn is the error for a file that doesn't stand for a socket: the number
// that connect(2) has for such a file.
func NoStandIn(path, why string) error {
	return errno.Errorf(errno.ECONNREFUSED, errno.LayerUnknown, "%s stands for no socket: %s", path, why)
}

// Exclusive is for the Control of a net.ListenConfig: it keeps other processes from
// taking part of the port over. On Windows they could by SO_REUSEADDR ("Using
// SO_REUSEADDR and SO_EXCLUSIVEADDRUSE" in the Winsock documentation); elsewhere it
// has nothing to do.
func Exclusive(_, _ string, c syscall.RawConn) error { return exclusive(c) }

// Connect connects to port and does the client's half of what goes before the
// data by greet, which must read exactly what belongs to it. The end of ctx, or
// five seconds in greet, end the attempt.
func Connect(ctx context.Context, port uint16, greet func(net.Conn) error) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	conn := c.(*net.TCPConn)
	// Closing ends whatever greet does, whatever deadlines it sets.
	closeOn, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	stop := context.AfterFunc(closeOn, func() { _ = conn.Close() })
	err = greet(conn)
	if !stop() {
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, errno.Errorf(errno.ETIMEDOUT, errno.LayerUnknown, "127.0.0.1:%d does not answer the greeting", port)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("greeting to 127.0.0.1:%d: %w", port, err)
	}
	return conn, nil
}
