package config

import (
	"errors"
	"strings"
	"testing"

	"drvsock/internal/endpoint"
	"drvsock/internal/wire"
)

func TestExpand(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	t.Setenv("RUN", "/run/u")
	t.Setenv("REL", "x/y")
	t.Setenv("TILDE", "~/x")
	t.Setenv("EVIL", "/a\nb")
	t.Setenv("EMPTY", "")
	t.Setenv("NESTED", "/$RUN")
	for in, want := range map[string]string{
		"~/x":           "/home/me/x",
		"~":             "/home/me",
		"$RUN/x":        "/run/u/x",
		"${RUN}x":       "/run/ux",
		"/a/$RUN/b":     "/a//run/u/b",
		"/a$$b":         "/a$b",
		"/~/x":          "/~/x",
		"@x$RUN":        "@x/run/u",
		"assuan:$RUN/s": "assuan:/run/u/s",
		"guest:~/s":     "guest:/home/me/s",
		"$NESTED":       "/$RUN", // once
		`C:\x$RUN`:      `C:\x$RUN`,
		`\\.\pipe\a$b`:  `\\.\pipe\a$b`,
		"%X%$RUN":       "%X%$RUN",
		"pageant:":      "pageant:",
	} {
		if got, err := expand(in); err != nil || got != want {
			t.Errorf("expand(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"$NOSUCH/x": "NOSUCH is not set", "$EMPTY/x": "EMPTY is not set", "$REL": "no absolute path", "$TILDE": "no absolute path",
		"$EVIL": "no text of one line", "/a$": "without a variable", "/a$-": "without a variable", "/${RUN": "is no variable",
		"/${}": "is no variable", "/${a b}": "is no variable", "~me/x": "no absolute path",
		"/" + strings.Repeat("$RUN", 1000): "more than",
	} {
		if got, err := expand(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expand(%.20q) = %.20q, %v; want %q", in, got, err, want)
		}
	}
	t.Setenv("HOME", "")
	if got, err := expand("~/x"); err == nil {
		t.Errorf("without a home, ~/x is %q", got)
	}
}

func TestResolve(t *testing.T) {
	ok := Forward{Name: "x", Listen: "/a/b", Connect: `C:\c`}
	with := func(change func(*Forward)) Forward {
		f := ok
		change(&f)
		return f
	}
	r, err := with(func(f *Forward) {
		f.Mode, f.Owner, f.Group = "0620", "root", "44002"
		f.Allow = &Allow{User: []string{"x"}}
		f.Env = map[string]string{"_A1": ""}
	}).Resolve()
	if err != nil || r.Perm != 0o620 || r.UID != 0 || r.GID != 44002 || r.From.Side != endpoint.Guest || r.To.Network != wire.NetUnix {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = ok.Resolve(); err != nil || r.Perm != 0 || r.UID != -1 || r.GID != -1 {
		t.Errorf("%+v, %v", r, err)
	}
	pipe := func(f *Forward) { f.Listen = `\\.\pipe\x` }
	for want, f := range map[string]Forward{
		"name: ":             with(func(f *Forward) { f.Name = "A" }),
		"name: name \"-":     with(func(f *Forward) { f.Name = "-x" }),
		"listen: no ":        with(func(f *Forward) { f.Listen = "" }),
		"listen: \"":         with(func(f *Forward) { f.Listen = "/\xff" }),
		"connect: end":       with(func(f *Forward) { f.Connect = "x" }),
		"connect: the":       with(func(f *Forward) { f.Connect = "guest:" + f.Listen }),
		"agent: ":            with(func(f *Forward) { f.Agent = "A b" }),
		"mode: \"":           with(func(f *Forward) { f.Mode = "rw" }),
		"mode: \"0":          with(func(f *Forward) { f.Mode = "0" }),
		"mode: \"1":          with(func(f *Forward) { f.Mode = "1000" }),
		"mode: \"-":          with(func(f *Forward) { f.Mode = "-1" }),
		"mode: mode is":      with(func(f *Forward) { pipe(f); f.Connect = "/x"; f.Mode = "0600" }),
		"owner: owner ":      with(func(f *Forward) { f.Listen = "tcp:127.0.0.1:1"; f.Owner = "0" }),
		"owner: no use":      with(func(f *Forward) { f.Owner = "nosuchuser" }),
		"owner: no user \"4": with(func(f *Forward) { f.Owner = "4294967295" }),
		"group: no gro":      with(func(f *Forward) { f.Group = "nosuchgroup" }),
		"access: ":           with(func(f *Forward) { f.Access = []string{"x"} }),
		"access.1: ":         with(func(f *Forward) { pipe(f); f.Access = []string{"x", "a\nb"} }),
		"access: 1": with(func(f *Forward) {
			pipe(f)
			f.Access = strings.Split(strings.Repeat(strings.Repeat("x", 200)+",", 6)+"x", ",")
		}),
		"message: ":     with(func(f *Forward) { f.Message = true }),
		"allow.user.0":  with(func(f *Forward) { f.Allow = &Allow{User: []string{""}} }),
		"allow.user: 6": with(func(f *Forward) { f.Allow = &Allow{User: make([]string, MaxList+1)} }),
		"filter: ":      with(func(f *Forward) { f.Filter = "x" }),
		"env: \"":       with(func(f *Forward) { f.Env = map[string]string{"1A": ""} }),
		"env: \"A":      with(func(f *Forward) { f.Env = map[string]string{"A;rm": ""} }),
		"env.A: ":       with(func(f *Forward) { f.Env = map[string]string{"A": "a\nb"} }),
	} {
		_, err := f.Resolve()
		var fe *FieldError
		if !errors.As(err, &fe) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
}

func TestEqual(t *testing.T) {
	t.Setenv("RUN", "/run")
	f := Forward{Name: "x", Listen: "$RUN/a", Connect: `C:/c`, Access: []string{}, Env: map[string]string{"A": "b"}}
	a, err := f.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	f.Listen, f.Connect, f.Access, f.Env = "/run/a", `C:\c`, nil, nil
	b, err := f.Resolve()
	if err != nil || !a.Equal(b) {
		t.Errorf("%+v and %+v are not equal, %v", a, b, err)
	}
	for i, change := range []func(*Forward){
		func(f *Forward) { f.Name = "y" }, func(f *Forward) { f.Listen = "/b" }, func(f *Forward) { f.Connect = "/b" },
		func(f *Forward) { f.Agent = "y" }, func(f *Forward) { f.Mode = "0666" }, func(f *Forward) { f.Owner = "0" },
		func(f *Forward) { f.Group = "0" }, func(f *Forward) { f.Allow = &Allow{} }, func(f *Forward) { f.Filter = FilterSSHAgent },
	} {
		g := f
		change(&g)
		if r, err := g.Resolve(); err != nil || r.Equal(b) {
			t.Errorf("change %d: equal, %v", i, err)
		}
	}
}

func TestDefaultName(t *testing.T) {
	free := func(string) bool { return false }
	for in, want := range map[string]string{
		"/run/user/1000/Agent.sock": "agent", "@/x/y": "y", `C:\a\b c.socket`: "b-c", `\\.\pipe\docker_engine`: "docker-engine",
		`\\.\pipe\a\b`: "b", "tcp:127.0.0.1:80": "tcp-80", "guest:tcp:[::1]:0": "tcp-0", "pageant:": "pageant",
		"/x/.sock": "forward", "/é/é": "forward", `assuan:%X%\S.gpg-agent`: "s-gpg-agent", "/" + strings.Repeat("x", 100): strings.Repeat("x", 59),
		"/--a--b--": "a-b",
	} {
		n, err := endpoint.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got := DefaultName(n, free)
		if got != want {
			t.Errorf("%s is named %q, want %q", in, got, want)
		}
		if err := CheckName(got); err != nil {
			t.Errorf("%s: %v", in, err)
		}
		three := DefaultName(n, func(s string) bool { return s == want || s == want+"-2" })
		if three != want+"-3" || CheckName(three) != nil {
			t.Errorf("%s is named %q as the third", in, three)
		}
	}
}

// TestKeptOut has allow rules for users whom the socket's mode keeps out.
func TestKeptOut(t *testing.T) {
	const self = 4711
	for _, tt := range []struct {
		name string
		f    Forward
		want string
	}{
		{"no rule", Forward{}, ""},
		{"another", Forward{Allow: &Allow{User: []string{"4711", "4712", "4713"}}}, "4712"},
		{"oneself and root", Forward{Allow: &Allow{User: []string{"4711", "0"}}}, ""},
		{"no user of this system", Forward{Allow: &Allow{User: []string{`BOX\alice`}}}, ""},
		{"a mode is given", Forward{Mode: "0600", Allow: &Allow{User: []string{"4712"}}}, ""},
		{"an owner is given", Forward{Owner: "4712", Allow: &Allow{User: []string{"4712"}}}, ""},
		{"a pipe", Forward{Listen: `\\.\pipe\x`, Connect: "/x", Allow: &Allow{User: []string{"4712"}}}, ""},
		{"an abstract name", Forward{Listen: "@x", Allow: &Allow{User: []string{"4712"}}}, "4712"},
	} {
		if tt.f.Listen == "" {
			tt.f.Listen = "/l"
		}
		if tt.f.Connect == "" {
			tt.f.Connect = `C:\c`
		}
		r, err := tt.f.Resolve()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := r.KeptOut(self); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
