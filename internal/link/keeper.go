package link

import (
	"fmt"
	"time"

	"drvsock/internal/errno"
)

// keep watches for signs of life. It counts its own ticks and not the clock,
// so that a system or a process that slept doesn't take its own sleep for the
// peer's silence.
func (l *Link) keep() {
	tick := max(min(l.cfg.PingAfter, l.cfg.DeadAfter/3)/2, time.Millisecond)
	ping := ticks(l.cfg.PingAfter, tick)
	dead := ticks(l.cfg.DeadAfter, tick)
	t := time.NewTicker(tick)
	defer t.Stop()
	var silent, stuck int
	var before uint64
	for {
		select {
		case <-l.done:
			return
		case <-t.C:
		}
		silent++
		if l.heard.Swap(false) {
			silent = 0
		}
		stuck++
		if now := l.out.writes.Load(); now != before || now%2 == 0 {
			before, stuck = now, 0
		}
		switch {
		case silent >= dead:
			l.dead(fmt.Sprintf("no sign of life for %v", l.cfg.DeadAfter))
			return
		case stuck >= dead:
			l.dead(fmt.Sprintf("the other side has read nothing for %v", l.cfg.DeadAfter))
			return
		case silent > 0 && silent%ping == 0:
			l.out.sendPing()
		}
	}
}

func ticks(d, tick time.Duration) int { return int((d + tick - 1) / tick) }

func (l *Link) dead(text string) {
	l.shutdown(fmt.Errorf("link is dead: %w", errno.Errorf(errno.ETIMEDOUT, errno.LayerLink, "%s", text)), nil)
}
