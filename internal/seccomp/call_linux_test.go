package seccomp

import (
	"encoding/binary"
	"errors"
	"testing"

	"drvsock/internal/errno"

	"github.com/google/go-cmp/cmp"
)

// TestDecodeAll decodes every call that is ours, of every table.
func TestDecodeAll(t *testing.T) {
	for name, w := range wanted {
		compat := name != "x86-64" && name != "aarch64"
		narrow := name == "i386" || name == "arm"
		for nr, op := range w.plain {
			n := Notif{nr: int32(nr), arch: w.arch, args: [6]uint64{high | 5, high | 0x1000, high | 0xfffffffe}}
			want := Call{Op: op, FD: 5, Compat: compat}
			if op == OpListen {
				n.args[1] = high | 0xfffffffd
				want.Backlog = -3
			} else {
				want.Addr, want.Len = high|0x1000, -2
				if narrow {
					want.Addr = 0x1000
				}
			}
			checkDecode(t, name, n, nil, want)
		}
		checkDecode(t, name, Notif{nr: int32(w.prctl), arch: w.arch, args: [6]uint64{4}}, nil, Call{Op: OpDumpable, Compat: compat})
		cred := Call{Op: OpPeerCred, FD: 5, Addr: high | 0x1000, LenAddr: high | 0x2000, Compat: compat}
		if narrow {
			cred.Addr, cred.LenAddr = 0x1000, 0x2000
		}
		checkDecode(t, name, Notif{nr: int32(w.getsockopt), arch: w.arch, args: [6]uint64{high | 5, 1, 17, high | 0x1000, high | 0x2000}}, nil, cred)
		checkDecode(t, name, Notif{nr: 1, arch: w.arch}, nil, Call{Compat: name == "i386" || name == "arm"})
	}
	checkDecode(t, "unknown", Notif{nr: 42, arch: 7}, nil, Call{})
}

func TestDecodeSocketcall(t *testing.T) {
	words := []uint32{9, 0xfffff000, 0xffffffff}
	for _, tt := range []struct {
		call uint64
		want Call
	}{
		{2, Call{Op: OpBind, FD: 9, Addr: 0xfffff000, Len: -1, Compat: true}},
		{3, Call{Op: OpConnect, FD: 9, Addr: 0xfffff000, Len: -1, Compat: true}},
		{high | 3, Call{Op: OpConnect, FD: 9, Addr: 0xfffff000, Len: -1, Compat: true}},
		{4, Call{Op: OpListen, FD: 9, Backlog: -4096, Compat: true}},
		{1, Call{Compat: true}},
	} {
		n := Notif{nr: 102, arch: abiI386.audit, args: [6]uint64{tt.call, high | 0x8000}}
		checkDecode(t, "socketcall", n, words, tt.want)
	}
	n := Notif{nr: 102, arch: abiI386.audit, args: [6]uint64{3, 16}}
	if _, err := n.decode(memory(nil)); !errors.Is(err, errno.EFAULT) {
		t.Errorf("socketcall with a bad pointer: %v, want EFAULT", err)
	}
}

// memory is a task's memory with words at 0x8000 and nothing else.
func memory(words []uint32) func(uint64, []byte) error {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return func(addr uint64, buf []byte) error {
		if addr != 0x8000 || len(buf) > len(b) {
			return errno.Errorf(errno.EFAULT, errno.LayerGuest, "at %#x", addr)
		}
		copy(buf, b)
		return nil
	}
}

func checkDecode(t *testing.T, name string, n Notif, words []uint32, want Call) {
	t.Helper()
	got, err := n.decode(memory(words))
	if err != nil {
		t.Errorf("%s: %+v: %v", name, n, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %+v (-want +got):\n%s", name, n, diff)
	}
}

// TestNoListenMemory: listen takes two words, so a page may end after them.
func TestNoListenMemory(t *testing.T) {
	n := Notif{nr: 102, arch: abiI386.audit, args: [6]uint64{4, 0x8000}}
	checkDecode(t, "two words", n, []uint32{1, 2}, Call{Op: OpListen, FD: 1, Backlog: 2, Compat: true})
}

func FuzzParseTgid(f *testing.F) {
	f.Add([]byte("Name:\ta\\nTgid:\t1\nTgid:\t12\nPid:\t13\n"))
	f.Add([]byte("Tgid:\t-1\n"))
	f.Add([]byte("Tgid:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := parseTgid(b); err == nil && n <= 0 {
			t.Errorf("process %d without an error", n)
		}
	})
}
