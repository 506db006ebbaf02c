package install

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func TestParseLocal(t *testing.T) {
	for _, s := range []string{`C:\Users\me\AppData\Local`, `D:\Profile\Jörg 木村\Local`, `c:\x`} {
		for _, out := range [][]byte{utf16le(s + "\r\n"), utf16le("\ufeff" + s + "\r\n"), []byte(s + "\r\n"), []byte(s)} {
			if got, err := parseLocal(out); got != s || err != nil {
				t.Errorf("%q: %q, %v", out, got, err)
			}
		}
	}
	for _, s := range []string{"", "\r\n", "%LOCALAPPDATA%", `\\srv\share\me`, `C:`, `C:\`, `C:x`, "/home/me", "C:\\a\r\nC:\\b", `C:\a\..\..\b`, `C:\a:b`, `1:\x`, `C:\a"b`, `C:\%x%`} {
		for _, out := range [][]byte{utf16le(s), []byte(s)} {
			if got, err := parseLocal(out); err == nil {
				t.Errorf("%q: %q", out, got)
			}
		}
	}
	if _, err := parseLocal(bytes.Repeat([]byte(`C:\a`), 2000)); err == nil || len(err.Error()) > 300 {
		t.Errorf("a long one: %v", err)
	}
}

func FuzzLocal(f *testing.F) {
	f.Add([]byte(`C:\Users\me`))
	f.Add(utf16le("C:\\Users\\me\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseLocal(b)
		if err == nil && (len(s) < 4 || s[1:3] != `:\` || strings.ContainsAny(s[3:], ":\x00\n/") || strings.Contains(s, `\..`)) {
			t.Errorf("%q gave %q", b, s)
		}
	})
}

// store is one whose C:\ is dir and whose shipped program has content.
func store(t *testing.T, dir, content string) *Store {
	t.Helper()
	bin := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(bin, "drvsock"), nil, 0o755), os.WriteFile(filepath.Join(bin, Program), []byte(content), 0o755),
		os.WriteFile(filepath.Join(dir, "cmd.exe"), nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return &Store{
		Self: filepath.Join(bin, "drvsock"), OnDrive: func(string) bool { return false },
		Guest: func(w string) (string, error) {
			if w == `C:\local` {
				return dir, nil
			}
			return "", errors.New("no such drive")
		},
		Run: func(context.Context, string, []string) ([]byte, error) { return utf16le("C:\\local\r\n"), nil },
	}
}

func TestPut(t *testing.T) {
	dir := t.TempDir()
	first := store(t, dir, strings.Repeat("one", 1000))
	path, err := first.Put(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	content := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s has %d bytes, %v, want %d", path, len(b), err, len(want))
		}
	}
	content(strings.Repeat("one", 1000))
	if st, err := os.Stat(path); err != nil || st.Mode().Perm()&0o111 == 0 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	before, _ := os.Stat(path)
	if again, err := first.Put(t.Context()); again != path || err != nil {
		t.Errorf("the second time: %s, %v, want %s", again, err, path)
	}
	if after, _ := os.Stat(path); !os.SameFile(before, after) {
		t.Error("it was copied again")
	}
	// Another guest's build lies beside it.
	other, err := store(t, dir, "two").Put(t.Context())
	if err != nil || other == path {
		t.Errorf("another build: %s, %v", other, err)
	}
	content(strings.Repeat("one", 1000))
	// One that was cut is made whole.
	if err := os.Truncate(path, 5); err != nil {
		t.Fatal(err)
	}
	if again, err := first.Put(t.Context()); again != path || err != nil {
		t.Errorf("after a cut: %s, %v", again, err)
	}
	content(strings.Repeat("one", 1000))
	// The shipped one is replaced while this program runs.
	if err := os.WriteFile(first.Shipped(), []byte("three!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err = first.Put(t.Context()); err != nil {
		t.Fatal(err)
	}
	content("three!")
	if left, _ := filepath.Glob(filepath.Join(dir, folderName, ".*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// TestFindNear has a Windows program on the PATH, on this system's own disk.
func TestFindNear(t *testing.T) {
	dir := t.TempDir()
	s := store(t, dir, "shipped")
	exe := filepath.Join(dir, Program)
	find := func(when, want string) {
		t.Helper()
		if got, err := s.Find(t.Context(), ""); err != nil || filepath.Dir(got) != filepath.Dir(want) || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, %v, want %s", when, got, err, want)
		}
	}
	if err := os.WriteFile(exe, []byte("MZ and more"), 0o755); err != nil {
		t.Fatal(err)
	}
	find("it is slow to start", filepath.Join(dir, folderName, "drvsock-"))
	s.OnDrive = func(p string) bool { return p == exe }
	find("it lies on a drive", exe)
	s.OnDrive = func(string) bool { return false }
	s.Run = func(context.Context, string, []string) ([]byte, error) { return nil, errors.New("no Windows") }
	s.folder = ""
	find("there is no store", exe)
	if err := os.WriteFile(exe, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	find("it is no Windows program", exe)
}

// TestFindKnown has another process know the program: it counts as long as it is there.
func TestFindKnown(t *testing.T) {
	dir := t.TempDir()
	s := store(t, dir, "shipped")
	known := filepath.Join(t.TempDir(), Program)
	if err := os.WriteFile(known, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Find(t.Context(), known); got != known || err != nil {
		t.Errorf("it is there: %s, %v, want %s", got, err, known)
	}
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Find(t.Context(), known); filepath.Dir(got) != filepath.Join(dir, folderName) || err != nil {
		t.Errorf("it has gone: %s, %v, want the shipped one", got, err)
	}
}

// TestPutTogether has many guests put the same at once.
func TestPutTogether(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("0123456789abcdef", 1<<14)
	var stores []*Store
	for range 8 {
		stores = append(stores, store(t, dir, content))
	}
	paths := make([]string, len(stores))
	var work sync.WaitGroup
	for i, s := range stores {
		work.Go(func() {
			var err error
			if paths[i], err = s.Put(t.Context()); err != nil {
				t.Error(err)
			} else if b, err := os.ReadFile(paths[i]); err != nil || string(b) != content {
				t.Errorf("%d of %d bytes, %v", len(b), len(content), err)
			}
		})
	}
	work.Wait()
	list, err := filepath.Glob(filepath.Join(dir, folderName, "*"))
	if err != nil || len(list) != 1 || list[0] != paths[0] {
		t.Errorf("the store has %q, %v", list, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, folderName, ".*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// TestPutFails wants nothing half done where the drive can't take it.
func TestPutFails(t *testing.T) {
	dir := t.TempDir()
	s := store(t, dir, "content")
	path, err := s.Put(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A folder in its place can't be renamed over, as a program that runs can't be
	// on Windows.
	if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Put(t.Context()); err == nil {
		t.Errorf("it is said to be at %s", p)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, folderName, ".*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	if _, err := (&Store{Self: "/none/drvsock"}).Put(t.Context()); err == nil || !strings.Contains(err.Error(), "beside /none/drvsock") {
		t.Errorf("nothing came along: %v", err)
	}
}

func TestTidy(t *testing.T) {
	dir := t.TempDir()
	age := map[string]time.Duration{
		"drvsock-0000000000000001.exe": keepFor + time.Hour,
		"drvsock-0000000000000002.exe": keepFor - time.Hour,
		"drvsock-0000000000000003.exe": 10 * keepFor, // the one in use
		"drvsock.exe":                  10 * keepFor,
		"other.exe":                    10 * keepFor,
		".drvsock-A.tmp":               tempFor + time.Hour,
		".drvsock-B.tmp":               tempFor - time.Hour,
	}
	for name, d := range age {
		p := filepath.Join(dir, name)
		when := time.Now().Add(-d)
		if err := errors.Join(os.WriteFile(p, nil, 0o600), os.Chtimes(p, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	tidy(dir, filepath.Join(dir, "drvsock-0000000000000003.exe"))
	for name := range age {
		_, err := os.Stat(filepath.Join(dir, name))
		gone := name == "drvsock-0000000000000001.exe" || name == ".drvsock-A.tmp"
		if gone != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
