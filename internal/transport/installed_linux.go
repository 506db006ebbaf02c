package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"drvsock/internal/drive"
	"drvsock/internal/errno"
	"drvsock/internal/install"
	"drvsock/internal/link"
	"drvsock/internal/report"
	"drvsock/internal/wire"
)

// Installed is the default agent: drvsock.exe, found or put on a Windows drive,
// in this program's build if that can be had. One Installed serves the links of a
// user, one after the other, and remembers what was settled. Know and Dial may be
// called by several goroutines at once.
type Installed struct {
	Store   *install.Store
	Starter Starter
	Log     *slog.Logger
	Door    *Door
	Interop string // as that of Command

	mu    sync.Mutex
	known string // where another process found it
	use   string // settled by an earlier link
}

// NewInstalled returns the default agent of this system.
func NewInstalled(starter Starter, log *slog.Logger) *Installed {
	return &Installed{Store: newStore(), Starter: starter, Log: log, Door: NewDoor()}
}

// newStore is this user's store of the agent's program.
func newStore() *install.Store {
	self, err := os.Executable()
	if err != nil {
		self = ""
	}
	translate := func(mode drive.Mode, path string) (string, error) {
		mounts, err := drive.OpenMounts()
		if err != nil {
			return "", err
		}
		defer mounts.Close()
		return drive.Translate(drive.TranslateOptions{Mode: mode, Mounts: mounts.All(), Dir: "/"}, path)
	}
	return &install.Store{
		Self: self,
		OnDrive: func(path string) bool {
			w, err := translate(drive.ToWindows, path)
			return err == nil && len(w) > 2 && w[1] == ':'
		},
		Guest: func(w string) (string, error) { return translate(drive.ToUnix, w) },
		Run:   runWindows,
	}
}

// runWindows runs a Windows program in dir and returns what it prints.
func runWindows(ctx context.Context, dir string, argv []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.WaitDelay = dir, time.Second
	cmd.Env = (&Command{Argv: argv}).environment(os.Environ())
	var out answer
	cmd.Stdout = &out
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.b, err
}

// An answer is what a program says, if that is no more than one line can be.
type answer struct{ b []byte }

func (a *answer) Write(b []byte) (int, error) {
	const most = 8 << 10
	if len(b) > most-len(a.b) {
		return 0, fmt.Errorf("an answer of more than %d bytes", most)
	}
	a.b = append(a.b, b...)
	return len(b), nil
}

// Know notes where another process found drvsock.exe, and tells whether that is
// news.
func (i *Installed) Know(exe string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !filepath.IsAbs(exe) || exe == i.known {
		return false
	}
	i.known = exe
	return true
}

// Kind is "command".
func (i *Installed) Kind() string { return (*Command)(nil).Kind() }

// String is the command line, as far as it is known.
func (i *Installed) String() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, exe := range []string{i.use, i.known} {
		if exe != "" {
			return exe + " agent"
		}
	}
	return install.Program + " agent"
}

// errBuild says that an agent is of another build than this program.
type errBuild struct{ theirs, ours string }

func (e errBuild) Error() string {
	return fmt.Sprintf("the agent is build %s, this program %s", e.theirs, e.ours)
}

// Dial finds the program and starts it. If it turns out to be of another build,
// or speaks another version of the protocol, and this build's came along with
// this program, that one is put on a drive and started in its place.
func (i *Installed) Dial(ctx context.Context, cfg link.Config) (*Link, error) {
	exe, settled, err := i.find(ctx)
	if err != nil {
		return nil, err
	}
	var check func(peer wire.Hello) error
	if !settled && i.Store.Shipped() != "" {
		check = func(peer wire.Hello) error {
			if peer.Build != cfg.Build {
				return errBuild{peer.Build, cfg.Build}
			}
			return nil
		}
	}
	l, err := i.command(exe, check).Dial(ctx, cfg)
	var build errBuild
	differs := errors.As(err, &build)
	if check != nil && ctx.Err() == nil && (differs || errors.Is(err, errno.EPROTO)) {
		own, perr := i.Store.Put(ctx)
		switch {
		case perr == nil && own != exe:
			i.Log.Info("another drvsock.exe is started", "instead of", exe, "path", own, "because", err)
			exe = own
			l, err = i.command(exe, nil).Dial(ctx, cfg)
		case differs: // and they understand each other
			i.Log.Warn("no drvsock.exe of this build can be had", "path", exe, "because", errors.Join(err, perr))
			l, err = i.command(exe, nil).Dial(ctx, cfg)
		}
	}
	if err != nil {
		i.settle("") // to look again
		return nil, err
	}
	i.settle(exe)
	return l, nil
}

// find gives the program that an earlier link settled on, or what is found.
func (i *Installed) find(ctx context.Context) (exe string, settled bool, err error) {
	i.mu.Lock()
	use, known := i.use, i.known
	i.mu.Unlock()
	if use != "" {
		if _, err := os.Stat(use); err == nil {
			return use, true, nil
		}
	}
	exe, err = i.Store.Find(ctx, known)
	return exe, false, noAgent(err)
}

func (i *Installed) settle(exe string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.use = exe
}

func (i *Installed) command(exe string, check func(wire.Hello) error) *Command {
	// A folder of the host's own, since Windows programs have no other.
	return &Command{
		Argv: []string{exe, "agent"}, Dir: filepath.Dir(exe), Starter: i.Starter, Log: i.Log,
		Interop: i.Interop, Door: i.Door, check: check,
	}
}

// FindAgent is the agent's command for a link that no daemon holds.
func FindAgent(ctx context.Context) ([]string, error) {
	exe, err := newStore().Find(ctx, "")
	if err != nil {
		return nil, noAgent(err)
	}
	return []string{exe, "agent"}, nil
}

// noAgent says what a person can do about err of a search for the agent.
func noAgent(err error) error {
	if !errors.Is(err, install.ErrNone) {
		return err
	}
	return report.Hint(errors.New("no link named, and "+strings.TrimSpace(err.Error())),
		"name the agent with --link 'CMD', or play a host on this machine with --embed C=DIR")
}
