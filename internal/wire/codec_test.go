package wire

import (
	"bytes"
	"strings"
	"testing"

	"drvsock/internal/errno"

	"github.com/google/go-cmp/cmp"
)

var requests = []Request{
	{Kind: KindConnect, Path: []byte(`C:\tmp\server.sock`), Name: []byte("server.sock"), From: 7, Nonblock: true, Timeout: 1500,
		Caller: Caller{UID: 1000, GID: 1000, PID: 4711, Program: "client"}},
	{Kind: KindBind, Path: []byte(`D:\x`), Mode: 0o755},
	{Kind: KindListen, From: 3, Backlog: 128},
	{Kind: KindAccepted, From: 3, Peer: bytes.Repeat([]byte("p"), MaxPath)},
	{Kind: KindStat, Path: []byte{0xff, 0, 1}},
	{Kind: KindConnect, Network: NetPageant},
	{Kind: KindBind, Path: []byte(`\\.\pipe\x`), Network: NetPipe, Replace: true, Message: true, Access: []byte("BOX\\bob\nS-1-1-0\n")},
	{Kind: KindAccepted, From: 9, Caller: Caller{PID: 12, Program: "putty.exe", User: `BOX\alice`}},
	{Kind: 200},
	{Kind: KindLink, Path: []byte("{8f2e1d0c-1111-4222-8333-444455556666}"), Secret: bytes.Repeat([]byte{7}, SecretSize)},
}

var hellos = []Hello{
	{Version: 1, MinVersion: 1, Role: RoleGuest, Window: 1},
	{Version: 9, MinVersion: 2, Features: 3, Role: RoleAgent, Window: MaxWindow, Build: "v1.2.3", OS: "windows", Arch: "arm64"},
}

var answers = []Answer{{}, {Stat: &Stat{}}, {Stat: &Stat{Socket: true}}, {Stat: &Stat{Dir: true, Size: 1 << 40}}, {Address: []byte("127.0.0.1:4711")}}

var refusals = []Refusal{
	{Errno: errno.EACCES, Layer: errno.LayerHost, System: 10013, Text: "Der Zugriff wurde verweigert – ä"},
	{Errno: errno.EIO},
}

func TestRoundTrip(t *testing.T) {
	for _, want := range requests {
		b, err := want.Append([]byte("x"))
		if err != nil {
			t.Fatalf("append %s: %v", want.Kind, err)
		}
		got, err := ParseRequest(b[1:])
		if err != nil {
			t.Fatalf("parse %s: %v", want.Kind, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("request (-want +got):\n%s", d)
		}
	}
	for _, want := range hellos {
		got, err := ParseHello(want.Append(nil))
		if err != nil {
			t.Fatalf("parse hello: %v", err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("hello (-want +got):\n%s", d)
		}
	}
	for _, want := range answers {
		got, err := ParseAnswer(want.Append(nil))
		if err != nil {
			t.Fatalf("parse answer: %v", err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("answer (-want +got):\n%s", d)
		}
	}
	for _, want := range refusals {
		got, err := ParseRefusal(AppendRefusal(nil, &want))
		if err != nil {
			t.Fatalf("parse refusal: %v", err)
		}
		if d := cmp.Diff(&want, got); d != "" {
			t.Errorf("refusal (-want +got):\n%s", d)
		}
	}
}

// Bad messages, each with words that its error must hold.
func TestRefused(t *testing.T) {
	parse := map[string]func([]byte) error{
		"request": func(b []byte) error { _, err := ParseRequest(b); return err },
		"answer":  func(b []byte) error { _, err := ParseAnswer(b); return err },
		"refusal": func(b []byte) error { _, err := ParseRefusal(b); return err },
		"hello":   func(b []byte) error { _, err := ParseHello(b); return err },
		"header":  func(b []byte) error { _, err := ParseHeader(b); return err },
	}
	for _, tt := range []struct{ what, in, want string }{
		{"request", "", "without a kind"},
		{"request", "\x01\x00\x01\x01", "without a path"},
		{"request", "\x01\x00\x01\x03", "without a stream"},
		{"request", "\x01\x00\x01\x05\x01\x00\x01\x05", "field 1 after field 1"},
		{"request", "\x02\x00\x01x\x01\x00\x01\x05", "field 1 after field 2"},
		{"request", "\x01\x00\x01\x05\x02\x00\x09x", "cut short"},
		{"request", "\x01\x00\x01\x05\x02", "cut short"},
		{"request", "\x01\x00\x01\x05\x02\x00\x00", "limits 1 to 4096"},
		{"request", "\x01\x00\x01\x05\x02\x00\x01x\x03\x00\x6d" + strings.Repeat("n", 109), "limits 1 to 108"},
		{"request", "\x01\x00\x01\x05\x02\x00\x01x\x04\x00\x04\x00\x00\x00\x00", "is zero"},
		{"request", "\x01\x00\x01\x05\x02\x00\x01x\x04\x00\x02\x00\x01", "want 4"},
		{"request", "\x01\x00\x01\x05\x02\x00\x01x\x07\x00\x01\x02", "want 1"},
		{"request", "\x01\x00\x01\x07", "secret of 0 bytes, want 32"},
		{"request", "\x01\x00\x01\x07\x13\x00\x02xx", "secret of 2 bytes, want 32"},
		{"request", "\x00\x00\x00", "field 0 after field 0"},
		{"answer", "\x01\x00\x01\x04", "limit 3"},
		{"answer", "\x02\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01", "size without"},
		{"refusal", "", "without a number"},
		{"refusal", "\x04\x00\x01x", "without a number"},
		{"hello", "drvsock\n", "hello of 8 bytes"},
		{"hello", "drvsocks\x00\x01\x00\x01\x01\x00\x00\x00", "no drvsock hello"},
		{"hello", "drvsock\n\x00\x01\x00\x01\x01\x00\x00\x00", "window 0"},
		{"hello", "drvsock\n\x00\x01\x00\x01\x01\x00\xff\x00", "limit 1024"},
		{"hello", "drvsock\n\x00\x01\x00\x01\x01\x00\x00\x01", "want 17"},
		{"hello", "drvsock\n\x00\x01\x00\x02\x01\x00\x00\x00", "versions 2 to 1"},
		{"hello", "drvsock\n\x00\x01\x00\x01\x03\x00\x00\x00", "role 3"},
		{"hello", "drvsock\n\x00\x01\x00\x01\x01\x01\x00\x00", "reserved"},
		{"hello", "drvsock\n\x00\x01\x00\x01\x01\x00\x00\x07\x02\x00\x04\xff\x00\x00\x00", "limits 1 to"},
		{"header", "\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00", "unknown type 0"},
		{"header", "\x0c\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00", "unknown type 12"},
		{"header", "\x04\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01", "flags 01"},
		{"header", "\x04\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x01", "65537 bytes"},
		{"header", "\x04\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00", "0 bytes"},
		{"header", "\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", "stream 0"},
		{"header", "\x09\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x08", "stream 1"},
	} {
		err := parse[tt.what]([]byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %q: got error %v, want one with %q", tt.what, tt.in, err, tt.want)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	b, err := requests[0].Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRequest(append(b, 99, 0, 2, 'h', 'i'))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(requests[0], got); d != "" {
		t.Errorf("request (-want +got):\n%s", d)
	}
}

func TestTooLongIsNotSent(t *testing.T) {
	long := make([]byte, MaxPath+1)
	for _, r := range []Request{
		{Kind: KindStat, Path: long},
		{Kind: KindStat, Path: []byte("x"), Name: long[:MaxName+1]},
		{Kind: KindAccepted, From: 1, Peer: long},
	} {
		if _, err := r.Append(nil); err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("append %s: got error %v, want one with the limit", r.Kind, err)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "abc"},
		{"abä", 3, "ab"},
		{"a€", 3, "a"},
		{"\x80\x80\x80\x80\x80\x80", 5, "\x80\x80\x80\x80\x80"},
	} {
		if got := cut(tt.in, tt.n); got != tt.want {
			t.Errorf("cut(%q, %d) = %q, want %q", tt.in, tt.n, got, tt.want)
		}
	}
}

func TestAgree(t *testing.T) {
	h := func(v, least uint16, r Role) *Hello { return &Hello{Version: v, MinVersion: least, Role: r} }
	for _, tt := range []struct {
		ours, theirs *Hello
		want         uint16
		err          string
	}{
		{h(1, 1, RoleGuest), h(1, 1, RoleAgent), 1, ""},
		{h(3, 1, RoleGuest), h(2, 2, RoleAgent), 2, ""},
		{h(1, 1, RoleGuest), h(3, 2, RoleAgent), 0, "of this side"},
		{h(3, 2, RoleGuest), h(1, 1, RoleAgent), 0, "of the other side"},
		{h(1, 1, RoleGuest), h(1, 1, RoleGuest), 0, "both sides of the link are the guest"},
	} {
		got, err := Agree(tt.ours, tt.theirs)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("Agree(%v, %v) = %d, %v, want %d, %q", *tt.ours, *tt.theirs, got, err, tt.want, tt.err)
		}
	}
}
