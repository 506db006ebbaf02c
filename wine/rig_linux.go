package wine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Env is the environment variable that names the folder of the rig to use.
const Env = "DRVSOCK_WINE"

// ErrNoRig is returned by Find where Env is not set.
var ErrNoRig = errors.New(Env + " names no rig made by wine/setup")

// A Rig is a prefix made by ./setup. Its methods may be used at the same time.
type Rig struct {
	dir      string
	uid, gid int // whom Windows programs run as
}

// Find opens the rig that the environment names.
func Find() (*Rig, error) {
	dir := os.Getenv(Env)
	if dir == "" {
		return nil, ErrNoRig
	}
	return Open(dir)
}

// Open opens the rig that ./setup made in dir.
func Open(dir string) (*Rig, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of the rig: %w", err)
	}
	r := &Rig{dir: dir}
	st, err := os.Stat(r.DriveC())
	if err != nil {
		return nil, fmt.Errorf("rig in %s: %w", dir, err)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		r.uid, r.gid = int(sys.Uid), int(sys.Gid)
	}
	return r, nil
}

// DriveC returns the Linux path of drive C.
func (r *Rig) DriveC() string { return filepath.Join(r.dir, "prefix", "drive_c") }

// Wrapper returns the program that runs a Windows program: "WRAPPER x.exe ARG…".
func (r *Rig) Wrapper() string { return filepath.Join(r.dir, "wine") }

// User returns uid and gid of the account that Windows programs run under.
func (r *Rig) User() (uid, gid int) { return r.uid, r.gid }

// Command returns the command that runs a Windows program, given by its Linux or
// Windows path; that file and the working folder must be open to [Rig.User]. The
// process is the program itself: its exit status, signals and streams. When ctx
// ends it is killed.
func (r *Rig) Command(ctx context.Context, exe string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.Wrapper(), append([]string{exe}, args...)...)
	cmd.Dir = r.DriveC()
	// A program that it started may hold the streams.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Temp makes a folder on drive C that belongs to [Rig.User], with a short path.
// The caller removes it, with os.RemoveAll from Linux.
func (r *Rig) Temp() (string, error) {
	dir, err := os.MkdirTemp(r.DriveC(), "t")
	if err != nil {
		return "", fmt.Errorf("folder on drive C: %w", err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), r.give(dir)); err != nil {
		return "", errors.Join(fmt.Errorf("folder on drive C: %w", err), os.RemoveAll(dir))
	}
	return dir, nil
}

// Put copies the file src into dir, a folder of drive C, as a program of the
// rig's user, and returns the copy's path.
func (r *Rig) Put(dir, src string) (string, error) {
	in, err := os.Open(src)
	if err != nil {
		return "", fmt.Errorf("copy to drive C: %w", err)
	}
	defer in.Close()
	to := filepath.Join(dir, filepath.Base(src))
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return "", fmt.Errorf("copy to drive C: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close(), r.give(to)); err != nil {
		return "", fmt.Errorf("copy to drive C: %w", err)
	}
	return to, nil
}

// give makes path the property of the rig's user, where this process may.
func (r *Rig) give(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, r.uid, r.gid)
}

// Windows returns what a Windows program calls the Linux path: a path of drive C
// if it lies there, else one of drive Z, which is the whole file system.
func (r *Rig) Windows(path string) string {
	drive := `Z:\`
	if rel, err := filepath.Rel(r.DriveC(), path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		drive, path = `C:\`, rel
	}
	if path == "." {
		return drive
	}
	return drive + strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", `\`)
}

// Start starts the rig's services if they don't run, so that no later program
// brings them up and leaves them its standard streams, and keeps them.
func (r *Rig) Start(ctx context.Context) error {
	// It says no if there is a server already; the program tells if one works.
	keep := exec.CommandContext(ctx, r.Wrapper(), "-p")
	keep.Env = append(os.Environ(), "WINE_CMD=wineserver")
	_ = keep.Run()
	if err := exec.CommandContext(ctx, r.Wrapper(), "cmd", "/c", "exit").Run(); err != nil {
		return fmt.Errorf("start of the rig: %w", err)
	}
	return nil
}

// Alone waits until no other process holds what, a name for something that the
// rig's session has one of, such as Pageant's window, and holds it until release.
func (r *Rig) Alone(ctx context.Context, what string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(r.dir, ".alone-"+what), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, fmt.Errorf("lock of the rig: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock of the rig: %w", err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// Stop ends all programs of the rig and its services. They start again with
// Start, or with the next program, whose standard streams they then keep.
func (r *Rig) Stop(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, r.Wrapper(), "-k")
	cmd.Env = append(os.Environ(), "WINE_CMD=wineserver")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("stop of the rig: %w", err)
	}
	return nil
}
