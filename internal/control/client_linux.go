package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/report"
)

// A Client knows where a daemon answers. Each request has a connection of its own.
type Client struct {
	folder  *Folder
	options Options
	first   *net.UnixConn // made by Dial, nil once used
}

// Dial finds the daemon. Without one, it starts one if o.Start is set, within ten
// seconds; else the error is ErrNone, with a hint. The caller closes the client.
func Dial(ctx context.Context, o Options) (*Client, error) {
	f, err := OpenFolder(o.Start)
	if err != nil {
		return nil, none(err)
	}
	c := &Client{folder: f, options: o}
	if c.first, err = c.connection(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

func none(err error) error {
	if errors.Is(err, ErrNone) {
		return report.Hint(err, "drvsock up")
	}
	return err
}

// Close lets go of the daemon.
func (c *Client) Close() {
	if c.first != nil {
		_ = c.first.Close()
		c.first = nil
	}
	c.folder.Close()
}

// dial connects to the daemon, if one is there: ErrNone else.
func (f *Folder) dial(ctx context.Context) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", f.at(socketName))
	// A full backlog is not waited for in the call, as the socket doesn't block.
	for end := time.Now().Add(answerWait); errors.Is(err, unix.EAGAIN) && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(5 * time.Millisecond)
		conn, err = d.DialContext(ctx, "unix", f.at(socketName))
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return nil, ErrNone
	case err != nil:
		return nil, fmt.Errorf("reach the daemon at %s: %w", f.Socket(), bare(err))
	}
	c := conn.(*net.UnixConn)
	p, err := peerOf(c)
	if err == nil && !p.trusted() {
		err = fmt.Errorf("what answers at %s is of user %d", f.Socket(), p.UID)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// bare takes off what package net says of the address, which is only ours.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Do asks and returns the answer. An answer that says why it was not done is the
// error, with its hint.
func (c *Client) Do(ctx context.Context, req Request) (*Response, error) {
	r, files, conn, err := c.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		_ = f.Close()
	}
	_ = conn.Close()
	return r, nil
}

// A Session is the daemon's answer to OpSession.
type Session struct {
	Response *Response
	R, W     *os.File // the link's two ends; the caller's
	PID      int      // of the daemon
	conn     *net.UnixConn
}

// Session asks for a session. The caller owns R and W, and calls End.
func (c *Client) Session(ctx context.Context, req Request) (*Session, error) {
	req.Op = OpSession
	r, files, conn, err := c.ask(ctx, req)
	if err != nil {
		return nil, err
	}
	if len(files) != 2 {
		for _, f := range files {
			_ = f.Close()
		}
		_ = conn.Close()
		return nil, fmt.Errorf("the daemon's answer came with %d descriptors, not 2", len(files))
	}
	p, err := peerOf(conn)
	if err != nil {
		p.PID = 0
	}
	return &Session{Response: r, R: files[0], W: files[1], PID: p.PID, conn: conn}, nil
}

// End waits until the daemon has let go of what the session had, at most limit.
// The link was closed before.
func (s *Session) End(limit time.Duration) {
	_ = s.conn.SetReadDeadline(time.Now().Add(limit))
	_, _ = s.conn.Read(make([]byte, 1))
	_ = s.conn.Close()
}

// ask makes a request and returns the answer with its connection, which stays
// open. If the daemon was killed or ends just now, another one is asked.
func (c *Client) ask(ctx context.Context, req Request) (*Response, []*os.File, *net.UnixConn, error) {
	for tries := 1; ; tries++ {
		r, files, conn, err := c.askOnce(ctx, req)
		if err == nil || !errors.Is(err, errGone) && !errors.Is(err, ErrEnding) || tries == 5 || ctx.Err() != nil {
			return r, files, conn, err
		}
		time.Sleep(time.Duration(tries) * 10 * time.Millisecond)
	}
}

// errGone says that there was a daemon, which is gone before it could answer.
var errGone = errors.New("the daemon is gone")

func (c *Client) askOnce(ctx context.Context, req Request) (*Response, []*os.File, *net.UnixConn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the daemon gave no answer within %v", patience))
	defer cancel()
	conn, err := c.connection(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	r, files, err := exchange(ctx, conn, req)
	switch {
	case err != nil || r.Error == "":
	case r.Ending:
		err = ErrEnding
	default:
		err = errors.New(r.Error)
		if r.Hint != "" {
			err = report.Hint(err, "%s", r.Hint)
		}
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		_ = conn.Close()
		return nil, nil, nil, err
	}
	return r, files, conn, nil
}

// connection gives the one that Dial made, or a new one.
func (c *Client) connection(ctx context.Context) (*net.UnixConn, error) {
	conn := c.first
	c.first = nil
	if conn != nil {
		return conn, nil
	}
	conn, err := c.folder.dial(ctx)
	if errors.Is(err, ErrNone) && c.options.Start {
		conn, err = c.folder.start(ctx, c.options.Args)
	}
	return conn, none(err)
}

func exchange(ctx context.Context, conn *net.UnixConn, req Request) (*Response, []*os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b, err := json.Marshal(req)
	if err != nil {
		return nil, nil, err
	}
	if len(b) >= maxRequest {
		return nil, nil, fmt.Errorf("a request of %d bytes, at most %d", len(b), maxRequest-1)
	}
	if _, err := conn.Write(append(b, '\n')); err != nil {
		return nil, nil, lost(ctx, err)
	}
	line, files, err := readAnswer(conn)
	var r Response
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return nil, nil, lost(ctx, err)
	}
	return &r, files, nil
}

func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errGone
	}
	return fmt.Errorf("the daemon gave no answer: %w", bare(err))
}

// readAnswer reads a line, and the descriptors that come with its first byte.
func readAnswer(conn *net.UnixConn) ([]byte, []*os.File, error) {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(2*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	files := descriptors(oob[:oobn])
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, files, err
	}
	line := buf[:n]
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		return line[:i], files, nil
	}
	rest, err := bufio.NewReader(io.LimitReader(conn, maxResponse)).ReadBytes('\n')
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return append(line, rest...), files, err
}

func descriptors(oob []byte) (files []*os.File) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "session"))
		}
	}
	return files
}
