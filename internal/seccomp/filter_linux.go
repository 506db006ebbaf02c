package seccomp

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
)

// Options say what [Filter] and [Install] do beyond bind, connect and listen.
type Options struct {
	// NoNewPrivs sets PR_SET_NO_NEW_PRIVS first, which an ordinary user needs
	// to install any filter. It takes sudo and other set-user-ID programs
	// their power, for the thread and all its children, so a caller with
	// CAP_SYS_ADMIN goes without.
	NoNewPrivs bool
	// Dumpable hands over prctl(PR_SET_DUMPABLE, 0) too, after which an
	// unprivileged supervisor could no longer read the task (ptrace(2),
	// "access mode checking").
	Dumpable bool
	// PeerCred hands over getsockopt(SOL_SOCKET, SO_PEERCRED) too, and no other
	// getsockopt. One that comes through socketcall(2) has its arguments in
	// memory, where no filter looks, and is not handed over.
	PeerCred bool
}

// Filter returns the program that Install installs, for this machine's tables
// of system calls. It is empty on machines that aren't known.
//
// What it answers for a call that isn't handed over depends on nothing but its
// number and table, with exceptions (socketcall of i386, prctl if
// o.Dumpable is set, getsockopt if o.PeerCred is). So Linux 5.11 and later run it for none of them: they
// find them in a bitmap made when the filter was installed.
func Filter(o Options) []unix.SockFilter { return assemble(native, o) }

// Offsets in struct seccomp_data. The low half of an argument comes first on
// all machines known here.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

func offArg(i int) uint32     { return uint32(offArgs + 8*i) }
func offArgHigh(i int) uint32 { return offArg(i) + 4 }

// A label is a place that an instruction may jump to.
type label int

const (
	next   label = -1 // the instruction after this one
	allow  label = -2
	notify label = -3
)

type insn struct {
	code   uint16
	k      uint32
	jt, jf label // of a conditional jump
}

// An assembler collects instructions and resolves labels. All jumps go
// forward, as BPF demands.
type assembler struct {
	insns []insn
	marks map[label]int
	free  label
}

func (a *assembler) label() label { a.free++; return a.free }
func (a *assembler) mark(l label) { a.marks[l] = len(a.insns) }
func (a *assembler) load(off uint32) {
	a.insns = append(a.insns, insn{code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, k: off})
}
func (a *assembler) and(k uint32) {
	a.insns = append(a.insns, insn{code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, k: k})
}
func (a *assembler) ret(k uint32) {
	a.insns = append(a.insns, insn{code: unix.BPF_RET | unix.BPF_K, k: k})
}
func (a *assembler) jump(op uint16, k uint32, jt, jf label) {
	a.insns = append(a.insns, insn{code: unix.BPF_JMP | op | unix.BPF_K, k: k, jt: jt, jf: jf})
}

// assemble makes the program for the tables set, in the order given.
func assemble(set []abi, o Options) []unix.SockFilter {
	if len(set) == 0 {
		return nil
	}
	a := &assembler{marks: map[label]int{}}
	a.load(offArch)
	for i, t := range set {
		other := a.label()
		if i == len(set)-1 {
			// A table that isn't known is none that this kernel offers.
			other = allow
		}
		a.jump(unix.BPF_JEQ, t.audit, next, other)
		a.table(t, o)
		if other != allow {
			a.mark(other)
		}
	}
	a.mark(allow)
	a.ret(unix.SECCOMP_RET_ALLOW)
	a.mark(notify)
	a.ret(unix.SECCOMP_RET_USER_NOTIF)
	return a.resolve()
}

// table emits the part for one table, which ends in a jump in every case.
func (a *assembler) table(t abi, o Options) {
	a.load(offNr)
	if t.ignore != 0 {
		a.and(^t.ignore)
	}
	socketcall, prctl, getsockopt := a.label(), a.label(), a.label()
	if t.socketcall != 0 {
		a.jump(unix.BPF_JEQ, t.socketcall, socketcall, next)
	}
	if o.Dumpable {
		a.jump(unix.BPF_JEQ, t.prctl, prctl, next)
	}
	if o.PeerCred {
		a.jump(unix.BPF_JEQ, t.getsockopt, getsockopt, next)
	}
	a.within([]uint32{t.bind, t.connect, t.listen})
	if t.socketcall != 0 {
		a.mark(socketcall)
		a.load(offArg(0)) // an int: the high half is nothing to the kernel
		a.within([]uint32{sysBind, sysConnect, sysListen})
	}
	if o.Dumpable {
		a.mark(prctl)
		a.load(offArg(0)) // an int too
		a.jump(unix.BPF_JEQ, unix.PR_SET_DUMPABLE, next, allow)
		a.load(offArg(1)) // but this is a long
		a.jump(unix.BPF_JEQ, 0, next, allow)
		a.load(offArgHigh(1))
		a.jump(unix.BPF_JEQ, 0, notify, allow)
	}
	if o.PeerCred {
		a.mark(getsockopt)
		a.load(offArg(1)) // ints, both
		a.jump(unix.BPF_JEQ, unix.SOL_SOCKET, next, allow)
		a.load(offArg(2))
		a.jump(unix.BPF_JEQ, unix.SO_PEERCRED, notify, allow)
	}
}

// within notifies if the loaded word is one of nums and allows it otherwise,
// with a comparison or two for each run of neighbours, from the highest down.
func (a *assembler) within(nums []uint32) {
	nums = slices.Clone(nums)
	slices.SortFunc(nums, func(x, y uint32) int { return cmp.Compare(y, x) })
	for i := 0; i < len(nums); {
		j := i
		for j+1 < len(nums) && nums[j+1]+1 == nums[j] {
			j++
		}
		last := j == len(nums)-1
		otherwise := next
		if last {
			otherwise = allow
		}
		if i == j {
			a.jump(unix.BPF_JEQ, nums[i], notify, otherwise)
		} else {
			// What lies above this run and below the one before is not ours.
			a.jump(unix.BPF_JGT, nums[i], allow, next)
			a.jump(unix.BPF_JGE, nums[j], notify, otherwise)
		}
		i = j + 1
	}
}

// resolve turns labels into distances. The longest program (two tables, all
// options) has about 40 instructions, where a distance may be 255.
func (a *assembler) resolve() []unix.SockFilter {
	out := make([]unix.SockFilter, len(a.insns))
	for i, in := range a.insns {
		out[i] = unix.SockFilter{Code: in.code, K: in.k}
		if in.code&0x07 == unix.BPF_JMP {
			out[i].Jt = a.distance(i, in.jt)
			out[i].Jf = a.distance(i, in.jf)
		}
	}
	return out
}

func (a *assembler) distance(from int, to label) uint8 {
	if to == next {
		return 0
	}
	return uint8(a.marks[to] - from - 1)
}
