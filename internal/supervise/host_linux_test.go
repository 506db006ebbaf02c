package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/errno"
	"drvsock/internal/reaper"
	"drvsock/internal/transport"
	"drvsock/internal/wire"
)

func command(argv []string, r *reaper.Reaper) transport.Dialer {
	return &transport.Command{Argv: argv, Starter: transport.Reaped(r), Log: slog.New(slog.DiscardHandler)}
}

// TestHangingAgent has an agent that never says a word: who waits for it may
// stop waiting, and closing ends it and what it started.
func TestHangingAgent(t *testing.T) {
	r, err := reaper.New()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	file := filepath.Join(t.TempDir(), "pid")
	argv := []string{"/bin/sh", "-c", fmt.Sprintf("sleep 60 & echo $! >%s; wait", file)}
	h := newHost(command(argv, r), slog.New(slog.DiscardHandler), nil, func() { t.Error("a link was lost that never was") })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := h.open(ctx, wire.Request{Kind: wire.KindStat}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("open: %v, want the context's end", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("open took %v", d)
	}
	pid := 0
	for pid == 0 && time.Since(start) < 5*time.Second {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if pid == 0 || unix.Kill(pid, 0) != nil {
		t.Fatalf("the agent's child %d does not run", pid)
	}
	start = time.Now()
	h.close()
	if d := time.Since(start); d > time.Second {
		t.Errorf("close took %v", d)
	}
	for unix.Kill(pid, 0) == nil {
		if time.Since(start) > 5*time.Second {
			t.Fatal("the agent's child is left")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := h.open(context.Background(), wire.Request{Kind: wire.KindStat}); !errors.Is(err, errno.ENETDOWN) {
		t.Errorf("open after close: %v, want ENETDOWN", err)
	}
}

// TestDeadAgent has one that ends at once: everybody who waits is told, and it
// is not started again for each.
func TestDeadAgent(t *testing.T) {
	r, err := reaper.New()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	file := filepath.Join(t.TempDir(), "starts")
	h := newHost(command([]string{"/bin/sh", "-c", "echo x >>" + file}, r), slog.New(slog.DiscardHandler), nil, nil)
	defer h.close()
	got := make(chan error)
	for range 8 {
		go func() {
			_, err := h.open(context.Background(), wire.Request{Kind: wire.KindStat})
			got <- err
		}()
	}
	for range 8 {
		var e *errno.Error
		if err := <-got; !errors.As(err, &e) || e.Layer != errno.LayerLink {
			t.Errorf("open: %v, want an error of the link", err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x\n" {
		t.Errorf("started %q, %v, want once", b, err)
	}
}
