package wait

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// awakeFor is how long a Chat waits awake: a turn of the other processes of a
	// conversation through a link takes a third of it, where nobody comes between.
	awakeFor = 150 * time.Microsecond
	// promptWithin is in what time an answer is one of a conversation.
	promptWithin = 2 * awakeFor
	// computing is longer than those who talk take the processor. If it is away
	// for so long it went to somebody who computes.
	computing = 200 * time.Microsecond
	// promptStreak is how many prompt answers make a conversation.
	promptStreak = 8
	// forgiven is how many answers that came while awake outweigh one that did not:
	// they have saved more than it took.
	forgiven = 16

	// How long not to stay awake after an answer was late, and after the processor
	// was away: at first, and at most.
	lateFirst, lateMost       = backoff(500 * time.Microsecond), backoff(20 * time.Millisecond)
	crowdedFirst, crowdedMost = backoff(20 * time.Millisecond), backoff(time.Second)
)

// A Chat waits for the next word of a conversation. Where one answer after the other
// has come at once it stays awake for a moment, and lends its processor to whoever
// wants it (sched_yield(2)): to wake a thread up costs more than the rest of a
// message, in a virtual machine most of all. An answer that is not so prompt, or a
// processor that others compute on, ends that for a while, and each time for longer;
// but one late answer after many does not. The zero value is ready for use, by one goroutine.
type Chat struct {
	streak    int       // prompt answers, less promptStreak for each that was not; at most twice promptStreak
	notBefore time.Time // when to stay awake again
	late      backoff
	crowded   backoff
	met       int // answers that came while awake, since one did not
}

// A backoff is how long not to stay awake, the last time that it was of no use.
type backoff time.Duration

// up makes it twice as long, within bounds.
func (b *backoff) up(first, most backoff) { *b = min(max(2**b, first), most) }

// down makes it shorter, since it was of use.
func (b *backoff) down() { *b -= *b / 8 }

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
	busy := false
	for end := now.Add(awakeFor); ; {
		// Also after the last time that the processor was lent: maybe to who answers.
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(&events[0])),
			uintptr(len(events)), 0, 0, 0)
		if e == 0 && n > 0 {
			c.late.down()
			c.crowded.down()
			c.met++
			c.streak = min(c.streak+1, 2*promptStreak)
			return int(n)
		}
		if busy || !now.Before(end) {
			break
		}
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		before := now
		now = time.Now()
		busy = now.Sub(before) > computing
	}
	met := c.met
	c.met = 0
	switch {
	case busy:
		c.crowded.up(crowdedFirst, crowdedMost)
		c.notBefore = now.Add(time.Duration(c.crowded))
	case met < forgiven:
		c.late.up(lateFirst, lateMost)
		c.notBefore = now.Add(time.Duration(c.late))
	}
	return 0
}

// Pause says that what was last waited for was no word of a conversation.
func (c *Chat) Pause() { c.streak = max(c.streak-promptStreak, 0) }
