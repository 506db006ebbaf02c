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

	// What it takes to stay awake, in answers that came at once.
	fewPrompt, somePrompt, manyPrompt = 8, 64, 1 << 12
)

// A Chat waits for the next word of a conversation. Where one answer after the other
// has come at once it stays awake for a moment, and lends its processor to whoever
// wants it (sched_yield(2)): to wake a thread up costs more than the rest of a
// message, in a virtual machine most of all. What is not so prompt, or a processor
// that others compute on, ends that for the next answers: each time for more of them.
// The zero value is ready for use, by one goroutine.
type Chat struct {
	prompt int // answers that came at once, less fewPrompt for each other
	want   int // how many it takes to stay awake
}

// Epoll is Epoll of the package.
func (c *Chat) Epoll(ep int, events []unix.EpollEvent) (int, error) {
	start := time.Now()
	if c.want == 0 {
		c.want = fewPrompt
	}
	if c.prompt >= c.want && keep() {
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
		c.prompt = min(c.prompt+1, manyPrompt)
	}
	return n, err
}

// stayAwake waits for an event, awake; 0 if none came or it was time to stop.
func (c *Chat) stayAwake(now time.Time, ep int, events []unix.EpollEvent) int {
	end, most := now.Add(awake), somePrompt
	for now.Before(end) {
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), 0, 0, 0)
		if e == 0 && n > 0 {
			c.want = max(c.want-1, fewPrompt)
			return int(n)
		}
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		before := now
		if now = time.Now(); now.Sub(before) > aside {
			c.want, most = 4*c.want, manyPrompt
			break
		}
	}
	c.prompt = 0
	c.want = min(2*c.want, max(most, c.want-1))
	return 0
}

// Pause says that what was last waited for was no word of a conversation.
func (c *Chat) Pause() { c.prompt = max(c.prompt-fewPrompt, 0) }
