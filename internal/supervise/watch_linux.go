package supervise

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchPause is how often closed sockets are looked for while any are watched.
const watchPause = 50 * time.Millisecond

// A watch notices that a program's socket was closed for good, without holding
// it open. An epoll instance refers to an open file without counting as a user
// of it, and forgets it when the last real one closes it (epoll(7), question
// 6). Nothing wakes us then, but /proc/self/fdinfo lists what is still there
// (proc_pid_fdinfo(5)).
type watch struct {
	epoll int
	quit  chan struct{}

	mu    sync.Mutex
	gone  map[uint64]func()
	timer bool // a look is due
}

func newWatch() (*watch, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &watch{epoll: fd, quit: make(chan struct{}), gone: map[uint64]func(){}}, nil
}

// add calls gone, once, when the open file that fd refers to is closed
// everywhere else. id is not in use. fd may be closed afterwards.
func (w *watch) add(fd int, id uint64, gone func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	ev := unix.EpollEvent{Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	w.gone[id] = gone
	if !w.timer {
		w.timer = true
		go w.run()
	}
	return nil
}

// run looks now and then, and ends when nothing is watched.
func (w *watch) run() {
	t := time.NewTicker(watchPause)
	defer t.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-t.C:
		}
		ended, more := w.look()
		for _, gone := range ended {
			gone()
		}
		if !more {
			return
		}
	}
}

// look takes those out that are no longer there.
func (w *watch) look() (ended []func(), more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", w.epoll))
	if err == nil {
		there := watched(b)
		for id, gone := range w.gone {
			if !there[id] {
				delete(w.gone, id)
				ended = append(ended, gone)
			}
		}
	}
	w.timer = len(w.gone) > 0
	return ended, w.timer
}

// watched takes the "data:" of each target from an epoll instance's fdinfo.
func watched(b []byte) map[uint64]bool {
	there := map[uint64]bool{}
	for line := range bytes.Lines(b) {
		_, rest, ok := bytes.Cut(line, []byte("data:"))
		if !ok {
			continue
		}
		if f := bytes.Fields(rest); len(f) > 0 {
			if id, err := strconv.ParseUint(string(f[0]), 16, 64); err == nil {
				there[id] = true
			}
		}
	}
	return there
}

func (w *watch) close() {
	close(w.quit)
	_ = unix.Close(w.epoll)
}
