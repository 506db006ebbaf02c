package install

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

const (
	// folderName is the store's below %LOCALAPPDATA%.
	folderName = "drvsock"
	// keepFor is how long builds stay that nobody has needed, and tempFor what a
	// copy that was never finished.
	keepFor = 30 * 24 * time.Hour
	tempFor = 24 * time.Hour
	// maxSize bounds what is copied.
	maxSize = 1 << 30
)

// Program is the agent's file on Windows.
const Program = "drvsock.exe"

// A Store finds and places the agent's program. Its methods may be called by
// several goroutines at once.
type Store struct {
	// Self is this program's file.
	Self string
	// OnDrive tells whether a file of this system lies on a Windows drive.
	OnDrive func(path string) bool
	// Guest is the path here of a Windows path.
	Guest func(windows string) (string, error)
	// Run runs a Windows program in a folder and returns what it prints.
	Run func(ctx context.Context, dir string, argv []string) ([]byte, error)

	mu     sync.Mutex
	folder string // the store, "" until it was asked for
	placed placed
}

// placed is what was last put into the store.
type placed struct {
	stamp, path string
}

// ErrNone says that no agent's program was found.
var ErrNone = errors.New("no drvsock.exe on the PATH")

// Find finds a program, of whatever build: on the PATH, which WSL extends by
// Windows' own; where another process found it; beside this program, if that is
// on a drive; in the store.
func (s *Store) Find(ctx context.Context, known string) (string, error) {
	if exe, err := exec.LookPath(Program); err == nil && filepath.IsAbs(exe) {
		return s.near(ctx, exe), nil
	}
	if regular(known) { // it may have gone since
		return s.near(ctx, known), nil
	}
	for _, p := range s.beside() {
		if s.OnDrive(p) {
			return p, nil
		}
	}
	if s.Shipped() != "" {
		return s.Put(ctx)
	}
	folder, err := s.find(ctx)
	if err != nil {
		return "", ErrNone
	}
	if exe := filepath.Join(folder, Program); regular(exe) {
		return exe, nil
	}
	return newest(folder)
}

// near is exe, or a copy of it in the store if it is a Windows program that lies
// where Windows is slow to start it.
func (s *Store) near(ctx context.Context, exe string) string {
	if s.OnDrive(exe) || !forWindows(exe) {
		return exe
	}
	if p, err := s.copyOf(ctx, exe); err == nil {
		return p
	}
	return exe // who can start it here, as Wine's users can, need not have a store
}

// forWindows tells a Windows program by its first bytes.
func forWindows(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [2]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && string(magic[:]) == "MZ"
}

// Shipped is the program that came with this one, "" if none did.
func (s *Store) Shipped() string {
	for _, p := range s.beside() {
		return p
	}
	return ""
}

// beside are the programs that lie where one that came with this may.
func (s *Store) beside() (found []string) {
	self, err := filepath.EvalSymlinks(s.Self)
	if err != nil {
		return nil
	}
	dir, named := filepath.Dir(self), "drvsock-windows-"+runtime.GOARCH+".exe"
	for _, p := range []string{
		filepath.Join(dir, named), filepath.Join(dir, Program),
		filepath.Join(dir, "..", "lib", "drvsock", named),
	} {
		if regular(p) {
			found = append(found, p)
		}
	}
	return found
}

func regular(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// Put returns the file in the store that is the shipped program, after making it
// if need be.
func (s *Store) Put(ctx context.Context) (string, error) {
	from := s.Shipped()
	if from == "" {
		return "", fmt.Errorf("no drvsock-windows-%s.exe beside %s", runtime.GOARCH, s.Self)
	}
	if s.OnDrive(from) {
		return from, nil // where it lies is as good
	}
	return s.copyOf(ctx, from)
}

// copyOf returns the file in the store that is the program from.
func (s *Store) copyOf(ctx context.Context, from string) (string, error) {
	folder, err := s.find(ctx)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	src, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return "", err
	}
	stamp := fmt.Sprint(from, st.Size(), st.ModTime().UnixNano())
	if s.placed.stamp == stamp && size(s.placed.path) == st.Size() {
		return s.placed.path, nil
	}
	path, err := put(folder, src, st.Size())
	if err != nil {
		return "", fmt.Errorf("put %s into %s: %w", from, folder, err)
	}
	s.placed = placed{stamp, path}
	tidy(folder, path)
	return path, nil
}

// size is a file's, -1 if there is none.
func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() {
		return -1
	}
	return st.Size()
}

// put copies src into folder, unless it is there. The name comes into being with
// the whole content.
func put(folder string, src *os.File, want int64) (string, error) {
	if want > maxSize {
		return "", fmt.Errorf("a program of %d bytes, limit %d", want, maxSize)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(src, maxSize)); err != nil || n != want {
		return "", fmt.Errorf("read %d of %d bytes: %w", n, want, errors.Join(err, errChanged))
	}
	path := filepath.Join(folder, "drvsock-"+hex.EncodeToString(h.Sum(nil)[:8])+".exe")
	if size(path) == want {
		now := time.Now()
		_ = os.Chtimes(path, now, now) // it is needed; another guest's tidy sees that
		return path, nil
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	temp := filepath.Join(folder, ".drvsock-"+rand.Text()+".tmp")
	if err := write(temp, src, want); err != nil {
		_ = os.Remove(temp)
		return "", err
	}
	err := os.Rename(temp, path)
	if err != nil {
		_ = os.Remove(temp)
		// Another guest may have been quicker, and its file runs already.
		if size(path) != want {
			return "", err
		}
	}
	return path, nil
}

var errChanged = errors.New("it changes while it is read")

// write makes path of src, which has want bytes, and has it on the disk.
func write(path string, src io.Reader, want int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(src, want+1))
	if err == nil && n != want {
		err = errChanged
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// tidy removes builds that nobody has needed for long, and what was never
// finished. What runs can't be removed on Windows.
func tidy(folder, keep string) {
	list, _ := filepath.Glob(filepath.Join(folder, "drvsock-*.exe"))
	temps, _ := filepath.Glob(filepath.Join(folder, ".drvsock-*.tmp"))
	for _, p := range append(list, temps...) {
		age := keepFor
		if strings.HasSuffix(p, ".tmp") {
			age = tempFor
		}
		if st, err := os.Lstat(p); p != keep && err == nil && st.Mode().IsRegular() && time.Since(st.ModTime()) > age {
			_ = os.Remove(p)
		}
	}
}

// newest is the youngest build in the store.
func newest(folder string) (path string, err error) {
	list, _ := filepath.Glob(filepath.Join(folder, "drvsock-*.exe"))
	var when time.Time
	for _, p := range list {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.ModTime().After(when) {
			path, when = p, st.ModTime()
		}
	}
	if path == "" {
		return "", ErrNone
	}
	return path, nil
}
