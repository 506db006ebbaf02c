package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/afunix"
	"drvsock/internal/report"
)

// maxConns bounds the connections that are served at once; sessions have one
// each for as long as they last.
const maxConns = 1024

// Listen makes the control socket in place of one that a killed daemon left. The
// caller has the lock, closes the listener, and calls Remove before it gives the
// lock up.
func (f *Folder) Listen() (*net.UnixListener, error) {
	switch err := f.removable(socketName); {
	case err == nil:
		if err := unix.Unlinkat(f.fd, socketName, 0); err != nil {
			return nil, &os.PathError{Op: "remove", Path: f.Socket(), Err: err}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), f.Socket())
	defer file.Close()
	// The file gets its mode from the socket, so it never has another one.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		if err = unix.Bind(fd, &unix.SockaddrUnix{Name: f.at(socketName)}); err == nil {
			err = unix.Listen(fd, 128)
		}
	}
	if err == nil {
		f.made, err = afunix.Identify(f.fd, socketName)
	}
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", f.Socket(), err)
	}
	ln, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	return ln.(*net.UnixListener), nil
}

// Restore looks after the control socket that Listen made. It returns nil if it is
// there, or another's in its place as in Remove, and a new listener in its place if somebody has removed it: the old one,
// which nobody can connect to any more, is the caller's to close. The error says that
// there is nothing to mend, as the folder was removed, or the lock, so that another
// daemon may have the folder.
func (f *Folder) Restore(l *Lock) (*net.UnixListener, error) {
	var held, there unix.Stat_t
	if err := unix.Fstatat(f.fd, socketName, &there, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
		return nil, nil
	}
	if err := unix.Fstat(int(l.file.Fd()), &held); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	err := unix.Fstatat(f.fd, lockName, &there, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || held.Dev != there.Dev || held.Ino != there.Ino {
		return nil, fmt.Errorf("%s was removed", f.path)
	}
	return f.Listen()
}

// Remove removes the control socket that Listen made. A service manager puts its
// own in the place of one that is there; that stays.
func (f *Folder) Remove() {
	if now, err := afunix.Identify(f.fd, socketName); err == nil && f.made.Known() && now == f.made {
		_ = unix.Unlinkat(f.fd, socketName, 0)
	}
}

// A Peer is the process at the other end of a control connection.
type Peer struct {
	UID uint32
	PID int
}

// peerOf asks the kernel who connected, or listened (SO_PEERCRED of unix(7)).
func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return Peer{}, fmt.Errorf("ask who is at the other end: %w", err)
	}
	return Peer{UID: cred.Uid, PID: int(cred.Pid)}, nil
}

// trusted tells whether this user may deal with p.
func (p Peer) trusted() bool { return p.UID == 0 || p.UID == uint32(os.Geteuid()) }

// A Call is one request and its connection.
type Call struct {
	Request Request
	Peer    Peer

	conn     *net.UnixConn
	answered bool
}

// Answer sends the response, with files if there are any, which stay the
// caller's. A call is answered once.
func (c *Call) Answer(r *Response, files ...*os.File) error {
	c.answered = true
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if err := c.conn.SetWriteDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		// Descriptors travel with the first byte.
		n, _, err := c.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	_, err = c.conn.Write(b)
	return err
}

// Refuse answers with an error and its hint.
func (c *Call) Refuse(err error) {
	_ = c.Answer(&Response{Error: err.Error(), Hint: report.HintOf(err), Ending: errors.Is(err, ErrEnding)})
}

// Serve takes calls until ctx ends, and returns when the last one is over. It
// closes ln. handle is called in a goroutine for each call; its context ends with
// ctx, or when the client is gone. Connections of other users are closed.
func Serve(ctx context.Context, ln *net.UnixListener, log *slog.Logger, handle func(context.Context, *Call)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := ln.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, or a client that has gone already.
			log.Warn("accept on the control socket", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			log.Warn("control connection refused", "reason", fmt.Sprintf("%d are open", maxConns))
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			serveConn(ctx, conn, log, handle)
		})
	}
}

func serveConn(ctx context.Context, conn *net.UnixConn, log *slog.Logger, handle func(context.Context, *Call)) {
	defer conn.Close()
	p, err := peerOf(conn)
	if err != nil || !p.trusted() {
		log.Warn("control connection refused", "uid", p.UID, "pid", p.PID, "err", err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call := &Call{Peer: p, conn: conn}
	// What waits for the client must not outlast the daemon.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(requestWait))
	if ctx.Err() != nil {
		return
	}
	r := bufio.NewReaderSize(conn, maxRequest)
	line, err := r.ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &call.Request)
	}
	if err != nil {
		if errors.Is(err, bufio.ErrBufferFull) {
			err = fmt.Errorf("more than %d bytes", maxRequest)
		}
		if len(line) > 0 { // else it was only looked if somebody is here
			log.Warn("control request refused", "pid", p.PID, "err", err)
			call.Refuse(fmt.Errorf("request: %w", err))
		}
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if ctx.Err() != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = r.ReadByte() // nothing more is to come
		cancel()
	}()
	handle(ctx, call)
	if !call.answered {
		call.Refuse(ErrEnding)
	}
	cancel()
	<-gone
}
