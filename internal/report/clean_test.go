package report

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
)

func TestClean(t *testing.T) {
	tests := []struct{ in, line, text string }{
		{`C:\tmp\ü.sock "x" — ok`, `C:\tmp\ü.sock "x" — ok`, `C:\tmp\ü.sock "x" — ok`},
		{"\x1b[31mred\x07\x7f", `\x1b[31mred\a\x7f`, `\x1b[31mred\a\x7f`},
		{"a\nb\tc\rd", `a\nb\tc\rd`, "a\nb\tc\\rd"},
		{"\u009b31m \u202egnp", `\u009b31m \u202egnp`, `\u009b31m \u202egnp`},
		{"\x9b31m\xff", `\x9b31m\xff`, `\x9b31m\xff`},
		{"a\uf03ab\ufffd", "a\\uf03ab\ufffd", "a\\uf03ab\ufffd"},
	}
	for _, tt := range tests {
		if got := Line(tt.in); got != tt.line {
			t.Errorf("Line(%q): got %q, want %q", tt.in, got, tt.line)
		}
		if got := Text(tt.in); got != tt.text {
			t.Errorf("Text(%q): got %q, want %q", tt.in, got, tt.text)
		}
	}
}

// TestForeign: words of others give a terminal no orders, and the log no lines.
func TestForeign(t *testing.T) {
	var b bytes.Buffer
	evil := "\x1b]0;x\x07\ndrvsock: hint: rm -rf"
	Error(&b, Hint(errors.New("at\x1b[2J\n  ^"), "last words: %s", evil))
	want := "drvsock: error: at\\x1b[2J\n  ^\ndrvsock: hint: last words: \\x1b]0;x\\a\\ndrvsock: hint: rm -rf\n"
	if got := b.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	b.Reset()
	NewLog(&b, slog.LevelInfo).Warn("says", "line", "\x1b[2J", "err", errors.New(evil))
	want = "drvsock: warning: says line=\"\\x1b[2J\": \\x1b]0;x\\a\\ndrvsock: hint: rm -rf\n"
	if got := b.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
