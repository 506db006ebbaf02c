// Package report is the voice of drvsock: what a person reads on stderr.
//
// The rules: every line begins with "drvsock: "; an error is one line
// "drvsock: error: …" and what helps, where we know it, "drvsock: hint: …"
// with the command to run; no capitals, no full stops. Answers go to stdout
// and are not the business of this package.
package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// hinted is an error with advice.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// Hint adds advice to err, one line for a person who meets it.
func Hint(err error, format string, args ...any) error {
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// HintOf gives the advice that err carries, or "".
func HintOf(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

// Error writes err, which may have several lines, and its hint to w.
func Error(w io.Writer, err error) {
	fmt.Fprintf(w, "drvsock: error: %s\n", Text(err.Error()))
	if h := HintOf(err); h != "" {
		fmt.Fprintf(w, "drvsock: hint: %s\n", Line(h))
	}
}

// NewLog returns a logger in that voice. It writes each record as one line with
// one call, so that lines of several processes don't mix.
func NewLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(&handler{w: w, level: level, mu: new(sync.Mutex)})
}

type handler struct {
	w      io.Writer
	level  slog.Level
	mu     *sync.Mutex
	prefix string // attributes of With, already formatted
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("drvsock: ")
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	case r.Level < slog.LevelInfo:
		b.WriteString("debug: ")
	}
	b.WriteString(r.Message)
	b.WriteString(h.prefix)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, a)
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		writeAttr(&b, a)
	}
	c := *h
	c.prefix += b.String()
	return &c
}

// WithGroup drops the group's name: no record of ours has two keys alike.
func (h *handler) WithGroup(string) slog.Handler { return h }

func writeAttr(b *strings.Builder, a slog.Attr) {
	v := a.Value.Resolve().String()
	if a.Key == "err" || a.Key == "error" {
		fmt.Fprintf(b, ": %s", Line(v))
		return
	}
	if v == "" || strings.ContainsAny(v, " \"") || Line(v) != v {
		v = fmt.Sprintf("%q", v)
	}
	fmt.Fprintf(b, " %s=%s", a.Key, v)
}
