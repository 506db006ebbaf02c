package mount

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAppendTakesSetID has another user append to a file that has the set-id bits,
// where the kernel doesn't pass its bytes through.
func TestAppendTakesSetID(t *testing.T) {
	beneath, at, _, _ := mounted(t, func(v *view) { v.copies = true })
	for _, d := range []string{filepath.Dir(at), beneath} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for uid, want := range map[int]uint32{0: 0o6777, 59001: 0o777} {
		if err := os.WriteFile(at+"/file", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(at+"/file", 0o6777); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			if uid != 0 {
				runtime.LockOSThread() // and the thread ends
				id := uintptr(uid)
				if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); e != 0 {
					done <- e
					return
				}
			}
			f, err := os.OpenFile(at+"/file", os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString("x")
				f.Close()
			}
			done <- err
		}()
		if err := <-done; err != nil {
			t.Errorf("as %d: %v", uid, err)
		}
		for _, name := range []string{beneath + "/file", at + "/file"} {
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err != nil || st.Mode&0o7777 != want {
				t.Errorf("%s, appended to by %d: %o, %v, want %o", name, uid, st.Mode&0o7777, err, want)
			}
		}
	}
}
