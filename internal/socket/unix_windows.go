package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/windows"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
)

// backlog is cut by Winsock to what it allows.
const backlog = 4096

func dialUnix(ctx context.Context, path string) (Conn, error) {
	file, err := afunix.CheckWindowsPath([]byte(path))
	if err != nil {
		return nil, err
	}
	c, err := afunix.Dial(ctx, nil, file)
	if err != nil {
		return nil, err
	}
	return unixConn{c}, nil
}

// unixConn is a connection whose end can be a reset.
type unixConn struct{ *net.UnixConn }

// Abort makes Close a reset: without a linger time Windows resets.
func (c unixConn) Abort() {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = windows.SetsockoptLinger(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_LINGER, &windows.Linger{Onoff: 1})
		})
	}
}

type unixListener struct {
	l    *net.UnixListener
	file string
	id   afunix.Identity

	once sync.Once
	err  error
}

func listenUnix(path string, o Options) (Listener, error) {
	file, err := afunix.CheckWindowsPath([]byte(path))
	if err != nil {
		return nil, err
	}
	sddl, err := fileACL(o.Access, fileOthers)
	if err != nil {
		return nil, err
	}
	l, err := bindUnix(file, sddl)
	if errno.Of(err) != errno.EADDRINUSE {
		return l, err
	}
	why, id, err := occupant(file)
	if err != nil || !o.Replace {
		return nil, refuse(errno.EADDRINUSE, "%s is taken: %s", file, why)
	}
	if err := removeFile(file, id); err != nil {
		return nil, err
	}
	if l, err = bindUnix(file, sddl); errno.Of(err) == errno.EADDRINUSE {
		return nil, refuse(errno.EADDRINUSE, "%s is taken: another socket was made there just now", file)
	}
	return l, err
}

// bindUnix makes the socket's file, closes it to others, and listens last, since
// from then on others can connect.
func bindUnix(file, sddl string) (_ Listener, err error) {
	raw, err := afunix.NewSocket()
	if err != nil {
		return nil, err
	}
	err = afunix.WithShort(file, func(name string) error {
		return windows.Bind(raw, &windows.SockaddrUnix{Name: name})
	})
	if err != nil {
		_ = windows.Closesocket(raw)
		return nil, afunix.Refused(errno.OpBind, file, fmt.Errorf("bind %s: %w", file, err))
	}
	f := os.NewFile(uintptr(raw), file)
	defer f.Close()
	id, err := afunix.Identify(file)
	if err == nil {
		err = protect(file, sddl)
	}
	if err == nil {
		err = windows.Listen(raw, backlog)
	}
	var l net.Listener
	if err == nil {
		l, err = net.FileListener(f) // a duplicate
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", file, err), removeFile(file, id))
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	return &unixListener{l: u, file: file, id: id}, nil
}

// protect gives file the DACL and nothing that its folder would add.
func protect(file, sddl string) error {
	sd, err := windows.SecurityDescriptorFromString(sddl)
	if err != nil {
		return fmt.Errorf("ACL %s: %w", sddl, err)
	}
	h, err := openItself(file, windows.READ_CONTROL|windows.WRITE_DAC)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(h)
	// Not SetSecurityInfo, which looks at the folder for more to add.
	err = windows.SetKernelObjectSecurity(h, windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, sd)
	if err != nil {
		return fmt.Errorf("ACL of %s: %w", file, err)
	}
	return nil
}

// openItself opens a file that may be a reparse point, as a socket's is.
func openItself(file string, access uint32) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(afunix.Extended(file))
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", file, err)
	}
	h, err := windows.CreateFile(name, access, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, nil,
		windows.OPEN_EXISTING, windows.FILE_FLAG_OPEN_REPARSE_POINT|windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", file, err)
	}
	return h, nil
}

var errLive = errors.New("not stale")

// occupant looks at the file that has a name which is wanted. The error is nil
// for a socket of ours on which nobody listens, and id is that file's: what is
// there a moment later may be a live one.
func occupant(file string) (why string, id afunix.Identity, err error) {
	if id, err = afunix.Identify(file); err != nil {
		return err.Error(), id, err
	}
	why, err = judge(file)
	return why, id, err
}

// judge is occupant's part that says whether the file is stale.
func judge(file string) (why string, err error) {
	if !isSocket(file) {
		return "it is no socket", errLive
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	// A full backlog refuses as nobody does, so it is asked more than once.
	for range 3 {
		c, err := afunix.Dial(ctx, nil, file)
		if err == nil {
			defer c.Close()
			if pid := unixCaller(c).PID; pid != 0 {
				return describe(pid) + ", listens there", errLive
			}
			return "somebody listens there", errLive
		}
		if errno.Of(err) != errno.ECONNREFUSED {
			return fmt.Sprintf("whether somebody listens there can't be found out (%v)", err), errLive
		}
		time.Sleep(30 * time.Millisecond)
	}
	h, err := openItself(file, windows.READ_CONTROL)
	if err != nil {
		return err.Error(), err
	}
	defer windows.CloseHandle(h)
	sd, err := windows.GetSecurityInfo(h, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return err.Error(), err
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return err.Error(), err
	}
	if !isOwn(owner) {
		return fmt.Sprintf("it belongs to %s, though nobody listens there", accountOf(owner)), errLive
	}
	return "it is a socket on which nobody listens", nil
}

// isSocket looks at a file. Tests under a stand-in for Winsock, whose sockets are
// plain files, have their own.
var isSocket = func(file string) bool { return afunix.KindOf(file) == afunix.KindSocket }

func removeFile(file string, id afunix.Identity) error {
	if now, err := afunix.Identify(file); err != nil || now != id {
		return nil
	}
	return afunix.Remove(file)
}

func (l *unixListener) Accept() (Conn, Peer, error) {
	c, err := l.l.AcceptUnix()
	if err != nil {
		return nil, Peer{}, err
	}
	return unixConn{c}, Peer{Name: afunix.PeerName(c), Caller: unixCaller(c)}, nil
}

func (l *unixListener) Addr() string { return l.file }

// Close removes the file first: as long as the socket is open, no other file can
// get its identity.
func (l *unixListener) Close() error {
	l.once.Do(func() { l.err = errors.Join(removeFile(l.file, l.id), l.l.Close()) })
	return l.err
}
