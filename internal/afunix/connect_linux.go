package afunix

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	slice    = 100 * time.Millisecond // of a blocking connect, between looks at its context
	retry    = 10 * time.Millisecond  // of a connect for which no thread is free
	patients = 64
)

// waiting bounds the threads that stand in a blocking connect. Connects beyond
// it try again from time to time: a place in the kernel's queue is worth a
// thread only while few want one.
var waiting = make(chan struct{}, patients)

// ConnectWait connects fd, which is non-blocking and stays so. A full backlog
// gives EAGAIN, after the time that w grants. There is no event that tells a
// socket that is not connected yet of room in a backlog, so it is the kernel's
// own wait, in slices (SO_SNDTIMEO bounds connect, man 7 socket).
func ConnectWait(ctx context.Context, fd int, name string, w Wait) error {
	err := Connect(fd, name)
	if err != unix.EAGAIN || w.Never {
		return err
	}
	var deadline time.Time
	if w.Limit > 0 {
		deadline = time.Now().Add(w.Limit)
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := slice
		if !deadline.IsZero() {
			part = min(part, time.Until(deadline))
			if part <= 0 {
				return unix.EAGAIN
			}
		}
		select {
		case waiting <- struct{}{}:
			err = connectSlice(fd, name, part)
			<-waiting
		default:
			if !sleep(ctx, min(part, retry)) {
				return context.Cause(ctx)
			}
			err = Connect(fd, name)
		}
		if err != unix.EAGAIN {
			return err
		}
	}
}

// DialFrom is ConnectFrom with fd, which it owns, for a connection of package net.
func DialFrom(ctx context.Context, fd int, path string, w Wait) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	if err := ConnectFrom(ctx, fd, path, w); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f) // a duplicate
	if err != nil {
		return nil, fmt.Errorf("adopt connection: %w", err)
	}
	return c.(*net.UnixConn), nil
}

// ConnectFrom connects fd as ConnectWait does: to path, of whatever length, or to an
// abstract name, which begins with NUL.
func ConnectFrom(ctx context.Context, fd int, path string, w Wait) error {
	name := path
	if len(path) > MaxName && path[0] != 0 {
		// The magic link leads to the very file, whatever its path's length.
		// O_PATH asks for search permission alone, as connect does; write
		// permission for the socket is checked by connect.
		target, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("connect %s: %w", path, err)
		}
		defer unix.Close(target)
		name = MagicLink(target)
	}
	if err := ConnectWait(ctx, fd, name, w); err != nil {
		return fmt.Errorf("connect %s: %w", strings.Replace(path, "\x00", "@", 1), err)
	}
	return nil
}

// MagicLink is a path of the file that fd is open on, for a call in this process
// (man 5 proc_pid_fd).
func MagicLink(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// connectSlice is a blocking connect of at most d.
func connectSlice(fd int, name string, d time.Duration) error {
	tv := unix.NsecToTimeval(max(d, time.Millisecond).Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		return err
	}
	err := Connect(fd, name)
	if e := unix.SetNonblock(fd, true); err == nil {
		err = e
	}
	return err
}

// sleep waits for d and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
