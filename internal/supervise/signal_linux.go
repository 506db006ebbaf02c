package supervise

import (
	"bytes"
	"os"
	"strconv"
	"strings"

	"drvsock/internal/errno"
)

// restartSys is ERESTARTSYS of include/linux/errno.h: where a signal is pending
// for the thread, the kernel restarts the call or turns this into EINTR, as the
// signal's handler wants it. A thread for which none is would see the number.
const restartSys errno.Errno = 512

// interruption tells how a call of the thread tid is to end because of a signal:
// 0 not at all, restartSys if the thread itself is to take it, or EINTR if that
// is likely but can't be told.
func interruption(tid int) errno.Errno {
	return interruptionOf(tid, func(tid int) []byte {
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
		return b
	})
}

func interruptionOf(tid int, status func(tid int) []byte) errno.Errno {
	own := parseSignals(status(tid))
	if own.thread&^own.held != 0 {
		return restartSys
	}
	shared := own.process &^ own.held
	switch {
	case shared == 0:
		return 0
	case own.tgid == tid:
		return restartSys
	}
	// A signal for the whole process goes to its main thread if that doesn't
	// block it and lives (complete_signal of kernel/signal.c), else to any other.
	main := parseSignals(status(own.tgid))
	if !main.dead {
		shared &= main.blocked
	}
	if shared != 0 {
		return errno.EINTR
	}
	return 0
}

// signals are what proc_pid_status(5) says about them, as sets.
type signals struct {
	tgid            int
	dead            bool
	thread, process uint64 // pending
	blocked, held   uint64 // held: blocked or ignored
}

func parseSignals(status []byte) (s signals) {
	for line := range bytes.Lines(status) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":\t")
		set := func() uint64 {
			v, _ := strconv.ParseUint(value, 16, 64)
			return v
		}
		switch key {
		case "Tgid":
			s.tgid, _ = strconv.Atoi(value)
		case "State":
			s.dead = strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X")
		case "SigPnd":
			s.thread = set()
		case "ShdPnd":
			s.process = set()
		case "SigBlk":
			s.blocked = set()
			s.held |= s.blocked
		case "SigIgn":
			s.held |= set()
		}
	}
	return s
}
