//go:build linux

package mount

import (
	"fmt"
	"strings"
	"testing"
)

// errnoTable are calls and what may come of them: C7. The kernel's answers on
// one machine are the wants. Socket 5 is a fresh one in each row; the folder is
// as errnoFolder leaves it.
var errnoTable = []struct{ name, calls string }{
	{"bind in no folder", "bind 5 missing/x"},
	{"bind below a file", "bind 5 regular/x"},
	{"bind below a socket", "bind 5 listening/x"},
	{"bind where a file is", "bind 5 regular"},
	{"bind where a folder is", "bind 5 folder"},
	{"bind where a folder is, slash", "bind 5 folder/"},
	{"bind new with slash", "bind 5 new/"},
	{"bind to .", "bind 5 ."},
	{"bind to ..", "bind 5 folder/.."},
	{"bind where a listener is", "bind 5 listening"},
	{"bind where a stale socket is", "bind 5 stale"},
	{"bind where a link is", "bind 5 link"},
	{"bind where a dangling link is", "bind 5 dangling"},
	{"bind through a loop", "bind 5 loop1/x"},
	{"bind through a linked folder", "bind 5 folderlink/viafolder;unlink folder/viafolder"},
	{"bind in a folder not writable", "bind 5 readonly/x;unlink readonly/x"},
	{"bind in a folder not searchable", "bind 5 closed/x;unlink closed/x"},
	{"bind twice", "bind 5 twice;bind 5 again;unlink twice;unlink again"},
	{"bind twice to one name", "bind 5 once;bind 5 once;unlink once"},
	{"bind twice, first fails", "bind 5 regular;bind 5 after;unlink after"},
	{"bind with a number that is no socket", "bind 0 x"},
	{"bind with a number that is closed", "bind 77 x"},
	{"bind with a wild pointer", "bindptr 5 1 20"},
	{"bind with no length", "bind 5 x 0"},
	{"bind with length 1", "bind 5 x 1"},
	{"bind with negative length", "bind 5 x -1"},
	{"bind with length 110", "bind 5 x 110;getsockname 5;unlink x"},
	{"bind with length 111", "bind 5 x 111"},
	{"bind with length 128", "bind 5 x 128"},
	{"bind by length 2", "bind 5 - 2;listen 5 1"},
	{"bind to an abstract name", "bind 5 %00abc;getsockname 5"},
	{"bind to an abstract name twice", "bind 5 %00abc;socket 6 stream;bind 6 %00abc"},
	{"connect to no file", "connect 5 missing"},
	{"connect in no folder", "connect 5 missing/x"},
	{"connect below a file", "connect 5 regular/x"},
	{"connect to a file", "connect 5 regular"},
	{"connect to a folder", "connect 5 folder"},
	{"connect to a file, slash", "connect 5 regular/"},
	{"connect to a listener, slash", "connect 5 listening/"},
	{"connect to a stale socket", "connect 5 stale"},
	{"connect to one that doesn't listen", "connect 5 bound"},
	{"connect to a dangling link", "connect 5 dangling"},
	{"connect through a loop", "connect 5 loop1"},
	{"connect below a loop", "connect 5 loop1/x"},
	{"connect through a link", "connect 5 link;send 5 x"},
	{"connect through a linked folder", "connect 5 folderlink/../listening"},
	{"connect in a folder not searchable", "connect 5 closed/x"},
	{"connect to a socket not writable", "connect 5 nowrite"},
	{"connect twice", "connect 5 listening;connect 5 listening"},
	{"connect again after a failure", "connect 5 stale;connect 5 listening;getpeername 5"},
	{"connect a listener", "bind 5 own;listen 5 1;connect 5 listening;unlink own"},
	{"connect with a number that is no socket", "connect 0 listening"},
	{"connect with a number that is closed", "connect 77 listening"},
	{"connect with a wild pointer", "connectptr 5 1 20"},
	{"connect with no length", "connect 5 listening 0"},
	{"connect with length 2", "connect 5 - 2"},
	{"connect with length 110", "connect 5 listening 110"},
	{"connect with length 111", "connect 5 listening 111"},
	{"connect to an abstract name", "connect 5 %00nobody"},
	{"connect a datagram socket", "socket 6 dgram;connect 6 listening"},
	{"connect a seqpacket socket", "socket 6 seqpacket;connect 6 listening"},
	{"connect a nonblocking socket", "socket 6 stream nonblock;connect 6 listening;connect 6 listening"},
	{"listen without a name", "listen 5 1"},
	{"listen connected", "connect 5 listening;listen 5 1"},
	{"listen with a number that is no socket", "listen 0 1"},
	{"listen with a number that is closed", "listen 77 1"},
	{"listen twice", "bind 5 l2;listen 5 1;listen 5 7;getopt 5 acceptconn;unlink l2"},
	{"listen with a negative backlog", "bind 5 l3;listen 5 -1;unlink l3"},
	{"bind connected", "connect 5 listening;bind 5 late;getsockname 5;unlink late"},
	{"bind an Internet socket by a path", "socket 6 inet;bind 6 regular"},
	{"connect an Internet socket by a path", "socket 6 inet;connect 6 listening"},
	{"bind to an Internet address", "bind 5 inet:0"},
	{"connect to an Internet address", "connect 5 inet:9"},
	{"Internet", "socket 6 inet;bind 6 inet:0;listen 6 1;getopt 6 acceptconn"},
}

// errnoFolder makes what the rows lead to, on the host.
var errnoFolder = strings.Split("umask 0;mkdir folder;write regular;mkdir readonly;chmod 555 readonly;mkdir closed;"+
	"chmod 0 closed;symlink listening link;symlink nothing dangling;symlink loop2 loop1;symlink loop1 loop2;"+
	"symlink folder folderlink;"+
	"socket 10 stream;bind 10 listening;listen 10 100;socket 11 stream;bind 11 stale;close 11;"+
	"socket 12 stream;bind 12 bound;socket 13 stream;bind 13 nowrite;listen 13 100;chmod 555 nowrite", ";")

func TestErrnos(t *testing.T) {
	play(t, []scenario{{name: "table", fails: "EOPNOTSUPP", play: func(s *stage) {
		s.far.all(errnoFolder...)
		for _, row := range errnoTable {
			s.note("%s", row.name)
			s.near.all("socket 5 stream")
			s.near.all(strings.Split(row.calls, ";")...)
			// Closed while the name is still known: the next row has a new one.
			s.near.Do("close 5")
			s.near.Do("close 6")
		}
		s.far.Want("ok", "chmod 700 closed")
	}}})
}

// TestEachErrno has a program that was just started make the first call, where
// caches of the supervisor are empty, and that same call by each way that a
// 32-bit program has.
func TestSystemCalls(t *testing.T) {
	var scenarios []scenario
	for _, build := range []struct{ name, flags string }{{"static", "-static"}, {"32", "-m32"}} {
		for _, how := range []string{"libc", "direct", "socketcall"} {
			scenarios = append(scenarios, scenario{
				name:  fmt.Sprint(build.name, " ", how),
				flags: []string{build.flags},
				fails: "E", // ECONNREFUSED or EOPNOTSUPP
				play: func(s *stage) {
					s.far.all("umask 0", "socket 5 stream", "bind 5 h", "listen 5 1")
					s.near.all("how "+how, "socket 6 stream", "connect 6 h", "getpeername 6", "send 6 x",
						"connect 6 h", "connect 6 missing", "bind 77 h", "bind 6 h",
						"socket 7 stream", "bind 7 n", "getsockname 7", "listen 7 1")
					s.far.all("accept 5 6", "recv 6 9", "socket 7 stream", "connect 7 n", "send 7 y")
					s.near.all("accept 7 8", "recv 8 9")
				},
			})
		}
	}
	play(t, scenarios)
}
