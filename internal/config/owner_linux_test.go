package config

import (
	"os"
	"syscall"
	"testing"
)

// TestOwnerStays has root edit a user's file.
func TestOwnerStays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for another account")
	}
	path := write(t, "")
	const uid, gid = 44001, 44002
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := AddForward(path, Forward{Name: "x", Listen: "/x", Connect: "/y"}); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := st.Sys().(*syscall.Stat_t); s.Uid != uid || s.Gid != gid || st.Mode().Perm() != 0o640 {
		t.Errorf("it is %d:%d's now, with mode %o", s.Uid, s.Gid, st.Mode().Perm())
	}
}
