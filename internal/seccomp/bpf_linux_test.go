package seccomp

import (
	"encoding/binary"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// interpret runs a seccomp program over d as net/core/filter.c would, and
// returns its verdict and how many instructions it took. It knows the
// instructions that the assembler emits and refuses others.
func interpret(prog []unix.SockFilter, d seccompData) (verdict uint32, steps int, err error) {
	mem := d.bytes()
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		steps++
		jump := func(cond bool) {
			if cond {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || int(in.K)+4 > len(mem) {
				return 0, steps, fmt.Errorf("load at %d", in.K)
			}
			acc = binary.LittleEndian.Uint32(mem[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= in.K)
		case unix.BPF_RET | unix.BPF_K:
			return in.K, steps, nil
		default:
			return 0, steps, fmt.Errorf("instruction %#x", in.Code)
		}
	}
	return 0, steps, fmt.Errorf("ran off the end")
}

// seccompData is struct seccomp_data.
type seccompData struct {
	nr   uint32
	arch uint32
	args [6]uint64
}

func (d seccompData) bytes() []byte {
	b := binary.LittleEndian.AppendUint32(nil, d.nr)
	b = binary.LittleEndian.AppendUint32(b, d.arch)
	b = binary.LittleEndian.AppendUint64(b, 0x123456789abc)
	for _, a := range d.args {
		b = binary.LittleEndian.AppendUint64(b, a)
	}
	return b
}

const high = 0xffff_ffff_0000_0000 // bits that a 32-bit argument leaves to chance

// wanted are all calls that are ours, by table, written down from the kernel's
// tables and not from those of the package.
var wanted = map[string]struct {
	arch       uint32
	plain      map[uint32]Op
	prctl      uint32
	getsockopt uint32
}{
	"x86-64":  {0xc000003e, map[uint32]Op{49: OpBind, 42: OpConnect, 50: OpListen}, 157, 55},
	"x32":     {0xc000003e, map[uint32]Op{0x40000031: OpBind, 0x4000002a: OpConnect, 0x40000032: OpListen}, 0x4000009d, 0x40000037},
	"i386":    {0x40000003, map[uint32]Op{361: OpBind, 362: OpConnect, 363: OpListen}, 172, 365},
	"aarch64": {0xc00000b7, map[uint32]Op{200: OpBind, 203: OpConnect, 201: OpListen}, 167, 209},
	"arm":     {0x40000028, map[uint32]Op{282: OpBind, 283: OpConnect, 284: OpListen}, 172, 295},
}

func TestFilter(t *testing.T) {
	machines := map[string]struct {
		set    []abi
		tables []string
	}{
		"amd64": {[]abi{abiX8664, abiI386}, []string{"x86-64", "x32", "i386"}},
		"arm64": {[]abi{abiAArch64, abiARM}, []string{"aarch64", "arm"}},
		"i386":  {[]abi{abiI386}, []string{"i386"}},
	}
	for machine, m := range machines {
		for _, o := range []Options{{}, {Dumpable: true}, {PeerCred: true}, {Dumpable: true, PeerCred: true}} {
			t.Run(fmt.Sprintf("%s/dumpable=%v,peercred=%v", machine, o.Dumpable, o.PeerCred), func(t *testing.T) {
				prog := assemble(m.set, o)
				t.Logf("%d instructions", len(prog))
				for _, name := range m.tables {
					checkTable(t, prog, name, o)
				}
				// A table of another machine, with numbers of ours.
				for _, nr := range []uint32{42, 49, 102, 200, 283, 362} {
					check(t, prog, seccompData{nr: nr, arch: 0xc00000f3}, false)
				}
			})
		}
	}
}

func checkTable(t *testing.T, prog []unix.SockFilter, name string, o Options) {
	t.Helper()
	w := wanted[name]
	base := uint32(0)
	if name == "x32" {
		base = x32Bit
	}
	for nr := range uint32(1200) {
		nr += base
		_, ours := w.plain[nr]
		for _, a := range []uint64{0, 1, 3, 5, high | 9} {
			if name == "i386" && nr == 102 || nr == w.prctl || nr == w.getsockopt {
				continue
			}
			check(t, prog, seccompData{nr: nr, arch: w.arch, args: [6]uint64{a, 1}}, ours)
		}
	}
	for _, nr := range []uint32{0xffffffff, 0x80000000 | 42, 0x80000000} {
		check(t, prog, seccompData{nr: nr, arch: w.arch}, false)
	}
	if name == "i386" {
		for call := range uint64(25) {
			d := seccompData{nr: 102, arch: w.arch, args: [6]uint64{call, 3}}
			check(t, prog, d, call >= 2 && call <= 4)
			d.args[0] |= high
			check(t, prog, d, call >= 2 && call <= 4)
		}
	}
	for _, p := range []struct {
		option, value uint64
		ours          bool
	}{
		{4, 0, true}, {high | 4, 0, true}, {4, 1, false}, {4, 1 << 32, false}, {3, 0, false}, {22, 0, false}, {0, 0, false},
	} {
		d := seccompData{nr: w.prctl, arch: w.arch, args: [6]uint64{p.option, p.value}}
		check(t, prog, d, p.ours && o.Dumpable)
	}
	for _, p := range []struct {
		level, option uint64
		ours          bool
	}{
		{1, 17, true}, {high | 1, high | 17, true}, {1, 16, false}, {0, 17, false}, {6, 17, false}, {17, 1, false},
	} {
		d := seccompData{nr: w.getsockopt, arch: w.arch, args: [6]uint64{5, p.level, p.option}}
		check(t, prog, d, p.ours && o.PeerCred)
	}
}

func check(t *testing.T, prog []unix.SockFilter, d seccompData, ours bool) {
	t.Helper()
	got, _, err := interpret(prog, d)
	if err != nil {
		t.Fatalf("%+v: %v", d, err)
	}
	want := uint32(unix.SECCOMP_RET_ALLOW)
	if ours {
		want = unix.SECCOMP_RET_USER_NOTIF
	}
	if got != want {
		t.Errorf("%+v: verdict %#x, want %#x", d, got, want)
	}
}

// TestFilterSteps keeps the way of ordinary calls short, for kernels that have
// no bitmap.
func TestFilterSteps(t *testing.T) {
	for _, tt := range []struct {
		set  []abi
		arch uint32
		nrs  []uint32
		max  int
	}{
		{[]abi{abiX8664, abiI386}, 0xc000003e, []uint32{0, 1, 202, 232, 281}, 8},
		{[]abi{abiAArch64, abiARM}, 0xc00000b7, []uint32{63, 64, 98, 22}, 7},
	} {
		prog := assemble(tt.set, Options{})
		for _, nr := range tt.nrs {
			_, steps, err := interpret(prog, seccompData{nr: nr, arch: tt.arch})
			if err != nil || steps > tt.max {
				t.Errorf("call %d of %#x: %d instructions, %v; want at most %d", nr, tt.arch, steps, err, tt.max)
			}
		}
	}
}
