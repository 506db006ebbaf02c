package portfile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"drvsock/internal/errno"
)

// aliveTime is how long a listener may take to close a connection with the wrong
// secret. One that keeps it open is taken for the file's own.
const aliveTime = 300 * time.Millisecond

// claim puts text at cfg.Path, whole and at once, and only where nothing is or
// where a stand-in is left over from a listener that is gone.
func claim(cfg *Config, text []byte) error {
	temp, err := write(cfg, text)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp) }() // gone already if all went well
	for range 3 {
		if err = place(temp, cfg.Path); !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := clear(cfg, temp); err != nil {
			return err
		}
	}
	if err = place(temp, cfg.Path); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return taken(cfg.Path, "others make it at the same time")
}

func taken(path, why string) error {
	return errno.Errorf(errno.EADDRINUSE, errno.LayerUnknown, "%s is taken: %s", path, why)
}

// clear removes a stale stand-in at cfg.Path, of the owner of temp or of this process.
// It leaves one that another process is removing, or has replaced.
func clear(cfg *Config, temp string) error {
	ctx := context.Background()
	st, err := os.Lstat(cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !st.Mode().IsRegular() {
		return taken(cfg.Path, "what is there is no regular file")
	}
	old, err := Read(ctx, cfg.Path)
	if err != nil {
		return taken(cfg.Path, err.Error())
	}
	port, secret, err := cfg.Parse(old)
	if err != nil {
		return taken(cfg.Path, "what is there stands for no socket")
	}
	if alive(port, secret) {
		return taken(cfg.Path, "someone listens")
	}
	if owner := stranger(st, temp); owner != "" {
		return taken(cfg.Path, "it belongs to "+owner+", though nobody listens there")
	}
	if err := removeIf(cfg.Path, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// alive reports whether the one who wrote the file with this port and secret may
// still listen. The port may have gone to another program: a stand-in's listener
// hangs up on a secret that isn't its own, which tells it apart from the file's
// own. Of any other program the file is thought to be its own.
func alive(port uint16, secret Secret) bool {
	conn, err := net.DialTimeout("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))), greetTime)
	if err != nil {
		return !errors.Is(errno.FromSystem(err, errno.LayerHost), errno.ECONNREFUSED)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(aliveTime)); err != nil {
		return true
	}
	if _, err := conn.Write(secret[:]); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// release removes the file at path if it still is text. On Windows whoever has it
// open may keep it from that, as GnuPG's clients do for the moment that they take
// to read it, so it is tried for as long as Read waits.
func release(path string, text []byte) error {
	for give := time.Now().Add(settleTime); ; time.Sleep(10 * time.Millisecond) {
		now, err := readOnce(path)
		if err == nil && bytes.Equal(now, text) {
			err = os.Remove(path)
		} else if !sharing(err) {
			return nil // gone, or another's
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !sharing(err) || time.Now().After(give) {
			return err
		}
	}
}

// readFull reads until b is full or r ends.
func readFull(r io.Reader, b []byte) (int, error) {
	n, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return n, err
}
