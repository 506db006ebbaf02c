//go:build linux

package wine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"drvsock/test/rig"
)

// errnoTable are calls and what comes of them, on one machine and through a
// Windows agent. Socket 5 is a fresh one in each row.
var errnoTable = []struct{ call, want string }{
	{"connect 5 missing", "ENOENT"},
	{"connect 5 missing/x", "ENOENT"},
	{"connect 5 regular", "ECONNREFUSED"},
	{"connect 5 regular/x", "ENOTDIR"},
	{"connect 5 folder", "ECONNREFUSED"},
	{"connect 5 stale", "ECONNREFUSED"},
	{"connect 5 bound", "ECONNREFUSED"},
	{"connect 5 listening", "ok"},
	{"connect 5 listening;connect 5 listening", "ok;EISCONN"},
	{"connect 5 stale;connect 5 listening", "ECONNREFUSED;ok"},
	{"connect 5 listening;bind 5 late;unlink late", "ok;ok;ok"},
	{"bind 5 listening", "EADDRINUSE"},
	{"bind 5 bound", "EADDRINUSE"},
	{"bind 5 stale", "EADDRINUSE"},
	{"bind 5 regular", "EADDRINUSE"},
	{"bind 5 folder", "EADDRINUSE"},
	{"bind 5 missing/x", "ENOENT"},
	{"bind 5 regular/x", "ENOTDIR"},
	{"bind 5 new/", "ENOENT"},
	{"bind 5 a;bind 5 b;unlink a", "ok;EINVAL;ok"},
	{"bind 5 a;bind 5 a;unlink a", "ok;EADDRINUSE;ok"},
	{"bind 5 a;close 5;socket 5 stream;bind 5 a;unlink a;bind 5 a;unlink a", "ok;ok;ok;EADDRINUSE;ok;ok;ok"},
	{"bind 5 a;connect 5 stale;connect 5 listening;unlink a", "ok;ECONNREFUSED;ok;ok"},
	{"bind 5 a;socket 6 stream;connect 6 a;listen 5 1;connect 6 a;unlink a;close 6", "ok;ok;ECONNREFUSED;ok;ok;ok;ok"},
	{"bind 5 a;listen 5 1;listen 5 7;connect 5 listening;unlink a", "ok;ok;ok;EINVAL;ok"},
	{"bind 5 a;listen 5 1;close 5;socket 5 stream;connect 5 a;unlink a", "ok;ok;ok;ok;ECONNREFUSED;ok"},
}

// errnos compares what calls come to with a socket of Windows at their end and
// on one machine.
func errnos(s *stage) {
	plain := rig.Dir(s.t)
	for _, dir := range []string{plain, s.host} {
		if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
			s.t.Fatal(err)
		}
		file := filepath.Join(dir, "regular")
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Chmod(file, 0o666)); err != nil {
			s.t.Fatal(err)
		}
	}
	fixture := rig.StartProbe(s.t, s.command(0, plain, []string{rig.ProbeProgram(s.t)}))
	for _, call := range []string{
		"socket 5 stream", "bind 5 listening", "listen 5 100",
		"socket 6 stream", "bind 6 bound", "socket 7 stream", "bind 7 stale", "close 7",
	} {
		fixture.Want("ok", "%s", call)
	}
	s.start(s.win(winsockExe, "listen", "listening")).says("listening")
	s.start(s.win(winsockExe, "bind", "bound")).says("bound")
	s.start(s.win(winsockExe, "bind", "stale")).says("bound").end()

	bare := rig.StartProbe(s.t, s.inView(rig.ProbeProgram(s.t)))
	bare.Want("ok", "socket 5 stream")
	bare.Want("ECONNREFUSED", "connect 5 listening")
	bare.Want("EOPNOTSUPP", "bind 5 new")

	native := rig.StartProbe(s.t, s.command(0, plain, []string{rig.ProbeProgram(s.t)}))
	through := rig.StartProbe(s.t, s.run(rig.ProbeProgram(s.t)))
	for _, row := range errnoTable {
		for _, p := range []struct {
			where string
			*rig.Probe
		}{{"on one machine", native}, {"with Windows", through}} {
			p.Want("ok", "socket 5 stream")
			var got []string
			for call := range strings.SplitSeq(row.call, ";") {
				got = append(got, p.Do("%s", call))
			}
			s.want(p.where+": "+row.call, strings.Join(got, ";"), row.want)
			p.Do("close 5")
		}
	}
}
