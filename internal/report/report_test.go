package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
)

func TestError(t *testing.T) {
	plain := errors.New("no link")
	tests := []struct {
		err  error
		want string
	}{
		{plain, "drvsock: error: no link\n"},
		{Hint(plain, "try %s", "--link"), "drvsock: error: no link\ndrvsock: hint: try --link\n"},
		{fmt.Errorf("run: %w", Hint(plain, "look")), "drvsock: error: run: no link\ndrvsock: hint: look\n"},
	}
	for _, tt := range tests {
		var b bytes.Buffer
		Error(&b, tt.err)
		if got := b.String(); got != tt.want {
			t.Errorf("Error(%v): got %q, want %q", tt.err, got, tt.want)
		}
	}
	if !errors.Is(Hint(io.EOF, "x"), io.EOF) {
		t.Error("a hint hides the error it is for")
	}
}

func TestLog(t *testing.T) {
	var b bytes.Buffer
	log := NewLog(&b, slog.LevelInfo).With("pid", 7)
	log.Debug("unseen")
	log.Info("link up", "agent", "v 1")
	log.Warn("link lost", "err", io.EOF)
	log.Error("bad", "path", `C:\x`, "empty", "")
	want := "drvsock: link up pid=7 agent=\"v 1\"\n" +
		"drvsock: warning: link lost pid=7: EOF\n" +
		"drvsock: error: bad pid=7 path=C:\\x empty=\"\"\n"
	if got := b.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// countingWriter counts calls: a line must be one, or lines of several
// processes mix.
type countingWriter struct{ calls int }

func (w *countingWriter) Write(p []byte) (int, error) { w.calls++; return len(p), nil }

func TestLogWritesWholeLines(t *testing.T) {
	var w countingWriter
	NewLog(&w, slog.LevelInfo).Info("one", "a", 1, "b", 2)
	if w.calls != 1 {
		t.Errorf("got %d writes for a line, want 1", w.calls)
	}
}
