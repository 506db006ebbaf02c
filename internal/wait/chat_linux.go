package wait

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// awakeFor is how long a Chat waits awake: a turn of the other processes of a
	// conversation through a link takes less.
	awakeFor = 80 * time.Microsecond
	// promptWithin is in what time an answer is one of a conversation.
	promptWithin = 2 * awakeFor
	// computing is longer than those who talk take the processor. If it is away
	// for so long it went to somebody who computes.
	computing = 200 * time.Microsecond
	// promptStreak is how many prompt answers make a conversation.
	promptStreak = 8

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
	streak    int           // prompt answers, less promptStreak for each that was not; at most twice promptStreak
	notBefore time.Time     // when to stay awake again
	backoff   time.Duration // how long not to, the last time
}

// Epoll is Epoll of the package.
func (c *Chat) Epoll(ep int, events []unix.EpollEvent) (int, error) {
	start := time.Now()
	if c.streak >= promptStreak && start.After(c.notBefore) && keep() {
		n := c.stayAwake(start, ep, events)
		keeping.Add(-1)
		if n > 0 {
			return n, nil
		}
	}
	n, err := Epoll(ep, events)
	if time.Since(start) > promptWithin {
		c.Pause()
	} else {
		c.streak = min(c.streak+1, 2*promptStreak)
	}
	return n, err
}

// stayAwake waits for an event, awake; 0 if none came or it was time to stop.
func (c *Chat) stayAwake(now time.Time, ep int, events []unix.EpollEvent) int {
	first, most := idleFirst, idleMost
	for end := now.Add(awakeFor); now.Before(end); {
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), 0, 0, 0)
		if e == 0 && n > 0 {
			c.backoff -= c.backoff / 8
			return int(n)
		}
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		before := now
		if now = time.Now(); now.Sub(before) > computing {
			first, most = busyFirst, busyMost
			break
		}
	}
	c.backoff = max(min(max(2*c.backoff, first), most), c.backoff)
	c.notBefore = now.Add(c.backoff)
	return 0
}

// Pause says that what was last waited for was no word of a conversation.
func (c *Chat) Pause() { c.streak = max(c.streak-promptStreak, 0) }
