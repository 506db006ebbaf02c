package demo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"drvsock/internal/standin"
)

// The accounts of the permission samples. They need no entry in passwd(5): to
// the kernel they are numbers. Both lie in no range that Debian's policy or
// systemd gives out.
const (
	windowsUID = 59001
	linuxUID   = 59002
)

// A stage is what the story is played on.
type stage struct {
	dir  string // a temporary folder that everything is in, but Wine's drive
	host string // the drive as the host has it
	view string // the drive as the guest sees it
	work string // folder on the drive that the programs run in
	env  []string
	fs   *standin.FS // nil if view is host
	undo []func() error

	viewErr     error // why there is no stand-in
	accountsErr error // why there are no two accounts
}

// set makes the stage. What it made stays to be taken down if it fails.
func (st *stage) set(o Options) (err error) {
	if st.dir, err = os.MkdirTemp("", "drvsock-demo-"); err != nil {
		return err
	}
	st.undo = append(st.undo, func() error { return os.RemoveAll(st.dir) })
	bin := filepath.Join(st.dir, "bin")
	st.view = filepath.Join(st.dir, "mnt", "c")
	// Other accounts shall get in.
	for _, d := range []string{st.dir, bin, filepath.Dir(st.view), st.view} {
		if err := folder(d, 0o755); err != nil {
			return err
		}
	}
	program := o.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return err
		}
	}
	// A copy, because another account may not reach the original.
	if err := copyFile(filepath.Join(bin, "drvsock"), program); err != nil {
		return err
	}
	for _, name := range []string{"server", "client", "bind"} {
		if err := script(bin, name, `exec drvsock `+Word+` `+name+` "$@"`); err != nil {
			return err
		}
	}
	if o.Wine == "" {
		err = st.setFolder()
	} else {
		err = st.setWine(o, bin)
	}
	if err != nil {
		return err
	}
	st.show(o.Wine != "")
	st.env = append(os.Environ(),
		"PATH="+bin+":"+os.Getenv("PATH"), "HOST="+st.host, "VIEW="+st.view)
	if o.Wine == "" {
		st.accountsErr = st.setAccounts(bin)
	}
	return nil
}

// setFolder makes a folder the host's drive.
func (st *stage) setFolder() error {
	st.host, st.work = filepath.Join(st.dir, "c"), "tmp"
	if err := folder(st.host, 0o755); err != nil {
		return err
	}
	return folder(filepath.Join(st.host, st.work), 0o755)
}

// show mounts the view. Where that isn't allowed the guest gets the host's
// folder itself, in which drvsock has the same work but its absence can't be shown.
func (st *stage) show(wine bool) {
	fs, err := standin.Spawn(st.host, st.view, standin.Options{EscapeNames: wine})
	if err != nil {
		st.view, st.viewErr = st.host, err
		return
	}
	st.fs = fs
	st.undo = append(st.undo, fs.Unmount)
}

// setAccounts makes the script that runs a command under another account, and
// tries it.
func (st *stage) setAccounts(bin string) error {
	if os.Geteuid() != 0 || os.Getenv(movedVar) != "" {
		return errors.New("only root can run programs under two accounts")
	}
	if st.fs == nil {
		return errors.New("they need the view as WSL 2 would show it")
	}
	err := script(bin, "as", fmt.Sprintf(`case $1 in windows) id=%d ;; linux) id=%d ;; *) exit 2 ;; esac
shift
exec setpriv --reuid $id --regid $id --clear-groups -- "$@"`, windowsUID, linuxUID))
	if err != nil {
		return err
	}
	for _, name := range []string{"windows", "linux"} {
		cmd := exec.Command(filepath.Join(bin, "as"), name, "drvsock", "--version")
		cmd.Env = st.env
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("no other account can be had here: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// owned makes a folder at the top of the drive that uid may write and others not.
func (st *stage) owned(name string, uid int) error {
	d := filepath.Join(st.host, name)
	if err := folder(d, 0o755); err != nil {
		return err
	}
	return os.Chown(d, uid, uid)
}

// strike takes down what was set up, the last first.
func (st *stage) strike() error {
	var errs error
	for i := len(st.undo) - 1; i >= 0; i-- {
		errs = errors.Join(errs, st.undo[i]())
	}
	st.undo = nil
	return errs
}

// sockets lists the socket files in the programs' folder, and removes them so
// that the next step begins as this one did.
func (st *stage) sockets(dir string) []string {
	found, _ := filepath.Glob(filepath.Join(st.host, dir, "*.sock"))
	for i, f := range found {
		_ = os.Remove(f)
		found[i] = filepath.Base(f)
	}
	return found
}

// folder makes a folder with the very mode, whatever the umask.
func folder(path string, mode os.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func script(bin, name, text string) error {
	path := filepath.Join(bin, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o755), out.Close())
}

// quoted makes s one word of sh(1).
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// setWine makes Wine's drive C the host's, with a folder of ours on it. The
// scripts stand where WSL would let the Windows programs be started by name.
func (st *stage) setWine(o Options, bin string) error {
	wine, err := filepath.Abs(filepath.Join(o.Wine, "wine"))
	if err != nil {
		return err
	}
	st.host = filepath.Join(filepath.Dir(wine), "prefix", "drive_c")
	var owner unix.Stat_t
	if err := unix.Stat(st.host, &owner); err != nil {
		return fmt.Errorf("%s is no folder that wine/setup made: %w", o.Wine, err)
	}
	dir, err := os.MkdirTemp(st.host, "drvsock-demo-")
	if err != nil {
		return err
	}
	st.undo = append(st.undo, func() error { return os.RemoveAll(dir) })
	st.work = filepath.Base(dir)
	// Wine's own server lies in TMPDIR, where its account may have no say.
	start := "unset TMPDIR\nexec " + quoted(wine) + " "
	server, run := o.Server, `exec drvsock.exe `+Word+` server`
	if server != "" {
		run = start + quoted(`C:\`+st.work+`\server.exe`)
		if err := copyFile(filepath.Join(dir, "server.exe"), server); err != nil {
			return err
		}
	}
	return errors.Join(
		copyFile(filepath.Join(dir, "drvsock.exe"), o.Agent),
		os.Chmod(dir, 0o755),
		os.Chown(dir, int(owner.Uid), int(owner.Gid)),
		script(bin, "drvsock.exe", start+quoted(`C:\`+st.work+`\drvsock.exe`)+` "$@"`),
		script(bin, "server.exe", run),
		script(bin, "client.exe", `exec drvsock.exe `+Word+` client "$@"`),
	)
}
