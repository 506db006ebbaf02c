package wait

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// awake is how long a Chat waits awake: a turn of the other processes of a
	// conversation through a link takes less.
	awake = 80 * time.Microsecond
	// prompt is within what time an answer is one of a conversation.
	prompt = 2 * awake
	// aside is longer than the processor is given to those who talk. If it is
	// away for so long it went to somebody who computes.
	aside = 200 * time.Microsecond

	enough = 8 // answers that came at once, for the next one to be waited for awake

	// How long not to stay awake after it was of no use, and after the processor
	// was away: at first, and at most.
	idleFirst, idleMost = 500 * time.Microsecond, 20 * time.Millisecond
	busyFirst, busyMost = 20 * time.Millisecond, time.Second
)

// A Chat waits for the next word of a conversation. Where one answer after the other
// has come at once it stays awake for a moment, and lends its processor to whoever
// wants it (sched_yield(2)): to wake a thread up costs more than the rest of a
// message, in a virtual machine most of all. An answer that is not so prompt, or a
// processor that others compute on, ends that for a while, and each time for longer.
// The zero value is ready for use, by one goroutine.
type Chat struct {
	prompt int           // answers that came at once, less enough for each other; at most twice that
	after  time.Time     // not awake before
	pause  time.Duration // that was the last time
}

// Epoll is Epoll of the package.
func (c *Chat) Epoll(ep int, events []unix.EpollEvent) (int, error) {
	start := time.Now()
	if c.prompt >= enough && start.After(c.after) && keep() {
		n := c.stayAwake(start, ep, events)
		keeping.Add(-1)
		if n > 0 {
			return n, nil
		}
	}
	n, err := Epoll(ep, events)
	if time.Since(start) > prompt {
		c.Pause()
	} else {
		c.prompt = min(c.prompt+1, 2*enough)
	}
	return n, err
}

// stayAwake waits for an event, awake; 0 if none came or it was time to stop.
func (c *Chat) stayAwake(now time.Time, ep int, events []unix.EpollEvent) int {
	first, most := idleFirst, idleMost
	for end := now.Add(awake); now.Before(end); {
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), 0, 0, 0)
		if e == 0 && n > 0 {
			c.pause -= c.pause / 8
			return int(n)
		}
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		before := now
		if now = time.Now(); now.Sub(before) > aside {
			first, most = busyFirst, busyMost
			break
		}
	}
	c.pause = max(min(max(2*c.pause, first), most), c.pause)
	c.after = now.Add(c.pause)
	return 0
}

// Pause says that what was last waited for was no word of a conversation.
func (c *Chat) Pause() { c.prompt = max(c.prompt-enough, 0) }
