package pageant

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
)

const (
	// maxPipes is how many pipes with Pageant's name are tried: anyone can make some.
	maxPipes = 16
	// pipeTime bounds the wait for a pipe all of whose instances are taken.
	pipeTime = 5 * time.Second
)

func dial(ctx context.Context) (Conn, error) {
	conn, errPipe := dialPipe(ctx)
	if errPipe == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	conn, err := dialWindow()
	if err == nil {
		return conn, nil
	}
	if !errors.Is(errPipe, errAbsent) {
		return nil, fmt.Errorf("pageant: %w", errPipe) // of what there is
	}
	return nil, err
}

// errAbsent is for a Pageant that isn't there: the number that a Unix socket has
// on which nobody listens.
var errAbsent error = errno.Errorf(errno.ECONNREFUSED, errno.LayerHost, "no Pageant runs for this account in this session")

// dialPipe connects to the first of Pageant's pipes that is this account's.
func dialPipe(ctx context.Context) (Conn, error) {
	names, err := pipeNames()
	if err != nil {
		return nil, err
	}
	last := errAbsent
	for _, name := range names {
		conn, err := dialOne(ctx, name)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !errors.Is(err, windows.ERROR_FILE_NOT_FOUND) {
			last = fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil, last
}

func dialOne(ctx context.Context, name string) (Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, pipeTime)
	defer cancel()
	// winio lets the server know nothing of us but that we are there.
	conn, err := winio.DialPipeContext(ctx, name)
	if err != nil {
		return nil, err
	}
	h, ok := conn.(interface{ Fd() uintptr })
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("a pipe without a handle (%T)", conn)
	}
	if err := owned(windows.Handle(h.Fd()), false); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &pipeConn{Conn: conn}, nil
}

// pipeNames returns where Pageant's pipe may be: the name that PuTTY computes, and
// of the pipes that there are those of such a name for this account, since other
// programs in Pageant's place compute the hash in other ways.
func pipeNames() ([]string, error) {
	own, err := pipeName()
	if err != nil {
		return nil, err
	}
	names := []string{own}
	prefix := own[len(pipes) : strings.LastIndexByte(own, '.')+1]
	pattern, err := windows.UTF16PtrFromString(pipes + "*")
	if err != nil {
		return nil, err
	}
	var data windows.Win32finddata
	h, err := windows.FindFirstFile(pattern, &data)
	if err != nil {
		return names, nil // Wine has no list
	}
	defer windows.FindClose(h)
	for ; err == nil && len(names) < maxPipes; err = windows.FindNextFile(h, &data) {
		name := windows.UTF16ToString(data.FileName[:])
		if len(name) <= len(prefix) || !strings.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		if hash, err := hex.DecodeString(name[len(prefix):]); err != nil || len(hash) != 32 {
			continue
		}
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, pipes+name) }) {
			names = append(names, pipes+name)
		}
	}
	return names, nil
}
