//go:build linux

package wine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/standin"
	"drvsock/test/rig"
	"drvsock/wine"
)

func TestMain(m *testing.M) { rig.Main(m) }

// limit bounds what must not hang. Wine on a busy machine is slow to start.
const limit = 20 * time.Second

// marker is the environment variable by which a world knows its processes.
const marker = "DRVSOCK_WINE_TEST"

// A world is a drive C of Wine and the guest's view of it, in which sockets fail
// as on a drive in WSL 2, with the programs of both sides.
type world struct {
	t    *testing.T
	wine *wine.Rig
	dir  string // of the guest's programs
	view string // where the guest sees drive C
	bin  string // drvsock for Linux
	exe  string // drvsock.exe, as a Linux path on drive C
	id   string // value of marker
	name map[string]string
}

// Programs of both sides; those that end in .exe lie on drive C.
const (
	peerExe    = "peer.exe"
	winsockExe = "winsock.exe"
	serverExe  = "server.exe"
	pipeExe    = "pipe.exe"
	assuanExe  = "assuan.exe"
	pageantExe = "pageant.exe"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	r, err := wine.Find()
	if errors.Is(err, wine.ErrNoRig) {
		t.Skipf("%v: wine/setup DIR, then %s=DIR go test ./test/wine", err, wine.Env)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, wine: r, dir: rig.Dir(t), name: map[string]string{}}
	w.id = filepath.Base(w.dir)
	t.Cleanup(w.noneLeft)
	w.buildAll()
	w.view = filepath.Join(w.dir, "view")
	if err := os.Mkdir(w.view, 0o755); err != nil {
		t.Fatal(err)
	}
	fs, err := standin.Spawn(r.DriveC(), w.view, standin.Options{EscapeNames: true})
	if err != nil {
		need(t, err)
	}
	t.Cleanup(func() {
		if err := fs.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// need skips a test for want of something that every machine with CI=true has.
func need(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// buildAll makes the programs and puts those for Windows on drive C.
func (w *world) buildAll() {
	w.t.Helper()
	w.bin = filepath.Join(w.dir, "drvsock")
	if err := os.Link(rig.Binary(w.t), w.bin); err != nil {
		w.t.Fatal(err)
	}
	bin := w.folder()
	build := w.t.TempDir()
	put := func(name, tool string, args ...string) {
		cmd := exec.CommandContext(w.t.Context(), tool, args...)
		cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			w.t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
		}
		file, err := w.wine.Put(bin, filepath.Join(build, name))
		if err != nil {
			w.t.Fatal(err)
		}
		w.name[name] = file
	}
	if _, err := exec.LookPath(mingw + "gcc-posix"); err != nil {
		need(w.t, err)
	}
	out := func(name string) string { return filepath.Join(build, name) }
	put("drvsock.exe", "go", "build", "-o", out("drvsock.exe"), "drvsock/cmd/drvsock")
	put(peerExe, "go", "build", "-o", out(peerExe), "drvsock/test/wine/peer")
	put(winsockExe, mingw+"gcc-posix", "-municode", "-O2", "-Wall", "-Werror", "-s", "-o", out(winsockExe), "testdata/winsock.c", "-lws2_32")
	put(pipeExe, mingw+"gcc-posix", "-municode", "-O2", "-Wall", "-Werror", "-s", "-o", out(pipeExe), "testdata/pipe.c")
	put(pageantExe, mingw+"gcc-posix", "-O2", "-Wall", "-Werror", "-s", "-o", out(pageantExe), "testdata/pageant.c")
	if libassuan() {
		put(assuanExe, mingw+"gcc-posix", "-O2", "-Wall", "-Werror", "-s", "-static", "-o", out(assuanExe), "testdata/assuan.c", "-lassuan", "-lgpg-error", "-lws2_32")
	}
	if src, ok := seed("af_unix_win_server.cpp"); ok {
		put(serverExe, mingw+"g++-posix", "-O2", "-static", "-s", "-o", out(serverExe), src, "-lws2_32")
	}
	w.exe = w.name["drvsock.exe"]
}

const mingw = "x86_64-w64-mingw32-"

// libassuan tells if there is GnuPG's library for Windows.
func libassuan() bool {
	cmd := exec.Command(mingw+"gcc-posix", "-E", "-")
	cmd.Stdin = strings.NewReader("#include <winsock2.h>\n#include <assuan.h>\n")
	return cmd.Run() == nil
}

// seed finds a file of the post about AF_UNIX on WSL.
func seed(name string) (string, bool) {
	dir := os.Getenv("DRVSOCK_SEED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "seed")
	}
	file := filepath.Join(dir, name)
	_, err := os.Stat(file)
	return file, err == nil
}

// folder makes a folder of drive C for as long as the test; the rig's user owns it.
func (w *world) folder() string {
	w.t.Helper()
	dir, err := w.wine.Temp()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Error(err)
		}
	})
	return dir
}

// A stage is one test's folder, as each side has it.
type stage struct {
	*world
	t    *testing.T
	host string // in drive C, from Linux
	view string // of the guest
	uid  uint32 // account of the guest's programs, 0: the caller's
}

func (w *world) stage(t *testing.T) *stage {
	t.Helper()
	sub := *w
	sub.t = t
	s := &stage{world: &sub, t: t}
	s.host = sub.folder()
	s.view = filepath.Join(w.view, filepath.Base(s.host))
	return s
}

// account is the name of the one that Windows programs run under.
func (s *stage) account() string {
	s.t.Helper()
	uid, _ := s.wine.User()
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		s.t.Fatal(err)
	}
	return u.Username
}

// windows is the Windows path of a file of this stage.
func (s *stage) windows(name string) string { return s.wine.Windows(filepath.Join(s.host, name)) }

// link is the command line of drvsock.exe as the agent, for a shell.
func (s *stage) link() string {
	cmd := fmt.Sprintf("%s '%s' agent -v", s.wine.Wrapper(), s.wine.Windows(s.exe))
	if s.uid != 0 {
		return s.become() + " " + cmd
	}
	return cmd
}

// become makes a launcher by which an ordinary user runs a command under the
// account of Windows programs.
func (s *stage) become() string {
	s.t.Helper()
	file := filepath.Join(s.dir, "become")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	uid, gid := s.wine.User()
	text, err := os.ReadFile(rig.Compile(s.t, "become.c"))
	if err == nil {
		err = os.WriteFile(file, text, 0o755)
	}
	if err == nil {
		err = os.Chown(file, uid, gid)
	}
	if err == nil {
		err = os.Chmod(file, 0o755|os.ModeSetuid|os.ModeSetgid) // after chown, which clears them
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return file
}

// run is argv of the guest in drvsock run, in the stage's folder.
func (s *stage) run(argv ...string) *exec.Cmd {
	args := []string{s.bin, "run", "-v", "--link", s.link(), "--drive", "C=" + s.world.view, "--"}
	return s.command(s.uid, s.view, append(args, argv...))
}

// inView is argv of the guest without drvsock.
func (s *stage) inView(argv ...string) *exec.Cmd { return s.command(s.uid, s.view, argv) }

// win is a program for Windows, in the stage's folder.
func (s *stage) win(exe string, args ...string) *exec.Cmd {
	return s.command(0, s.host, append([]string{s.wine.Wrapper(), s.wine.Windows(s.name[exe])}, args...))
}

// peer is the program of that name for Linux.
func (s *stage) peer() string { return rig.Go(s.t, "drvsock/test/wine/peer") }

// command is killed when the test ends and leads a process group of its own.
func (s *stage) command(uid uint32, dir string, argv []string) *exec.Cmd {
	ctx := s.t.Context()
	if ctx.Err() != nil { // in the test's cleanup
		ctx = context.WithoutCancel(ctx)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), marker+"="+s.id)
	cmd.Stderr = &logged{t: s.t, prefix: filepath.Base(argv[0]) + ": "}
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

// output runs cmd and gives what it prints on stdout, with Unix line ends.
func (s *stage) output(cmd *exec.Cmd) string {
	s.t.Helper()
	out, _ := rig.Output(s.t, cmd, limit)
	return strings.ReplaceAll(out, "\r", "")
}

// both gives stdout and stderr in one.
func (s *stage) both(cmd *exec.Cmd) string {
	s.t.Helper()
	var b strings.Builder
	cmd.Stderr = &b
	cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool { return a == "-v" }) // drvsock's own words
	return s.output(cmd) + strings.ReplaceAll(b.String(), "\r", "")
}

// want fails the test unless got is want.
func (s *stage) want(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// absent fails the test if there is a file of that name in the stage's folder.
func (s *stage) absent(name string) {
	s.t.Helper()
	if _, err := os.Lstat(filepath.Join(s.host, name)); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("%s: %v, want no file", name, err)
	}
}

// processes lists the processes of this world whose command line has word in it.
func (w *world) processes(word string) []int {
	all, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, p := range all {
		env, _ := os.ReadFile(p + "/environ")
		line, _ := os.ReadFile(p + "/cmdline")
		pid, err := strconv.Atoi(filepath.Base(p))
		// A zombie has neither.
		if err == nil && strings.Contains("\x00"+string(env), "\x00"+marker+"="+w.id+"\x00") && strings.Contains(string(line), word) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// agent is the process of the one drvsock.exe that runs.
func (s *stage) agent() int {
	s.t.Helper()
	var pids []int
	for _, pid := range s.processes("drvsock.exe") {
		// The others are on the way there: run, supervisor, shell.
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.Contains(filepath.Base(exe), "wine") {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		s.t.Fatalf("%d agents run: %v", len(pids), pids)
	}
	return pids[0]
}

// soon waits for a condition, and tells if it holds within d.
func soon(d time.Duration, holds func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		if holds() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// noneLeft is the end of a world.
func (w *world) noneLeft() {
	if soon(5*time.Second, func() bool { return len(w.processes("")) == 0 }) {
		return
	}
	for _, pid := range w.processes("") {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		w.t.Errorf("process %d is left behind: %q", pid, b)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// logged passes what a program says on stderr to the test's log.
type logged struct {
	t      *testing.T
	prefix string
}

func (l *logged) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(l.prefix + strings.TrimSpace(string(b)))
	}
	return len(b), nil
}
