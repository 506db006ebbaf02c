package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"drvsock/internal/endpoint"
	"drvsock/internal/report"
	"drvsock/internal/wire"
)

// A Resolved is a forward as the engine takes it: checked, its names read and
// its numbers looked up.
type Resolved struct {
	Forward  // Listen and Connect in full
	From, To endpoint.Name
	Perm     fs.FileMode // of Mode; 0: the default
	UID, GID int         // of Owner and Group; -1: unchanged
}

// A FieldError says which value of a forward is wrong.
type FieldError struct {
	Field string // as in the file: "listen", "allow.user.1", "env.NAME"
	Err   error  // may carry a hint
}

// Error gives the field and what is wrong with it.
func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap gives the error without the field.
func (e *FieldError) Unwrap() error { return e.Err }

// field returns a FieldError with a sentence.
func field(name, format string, args ...any) error {
	return &FieldError{name, fmt.Errorf(format, args...)}
}

// Resolve checks f and looks up what it names: variables and the home folder of
// this process, users and groups of this system. A name may be empty. The error
// is a *FieldError.
func (f Forward) Resolve() (Resolved, error) {
	r := Resolved{Forward: f, UID: -1, GID: -1}
	if f.Name != "" {
		if err := CheckName(f.Name); err != nil {
			return r, &FieldError{"name", err}
		}
	}
	var err error
	if r.From, err = readEndpoint(f.Listen); err != nil {
		return r, &FieldError{"listen", err}
	}
	if r.To, err = readEndpoint(f.Connect); err != nil {
		return r, &FieldError{"connect", err}
	}
	r.Listen, r.Connect = r.From.String(), r.To.String()
	for _, check := range []func(*Resolved) error{checkNames, checkOwner, checkHost, checkAllow, checkEnv} {
		if err := check(&r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// CheckName tells what is wrong with a forward's or an agent's name.
func CheckName(s string) error {
	switch {
	case s == "":
		return errors.New("a name is empty")
	case len(s) > MaxName:
		return fmt.Errorf("a name of %d characters, at most %d", len(s), MaxName)
	case s[0] == '-':
		return fmt.Errorf("name %q begins with '-'", s)
	}
	for _, c := range s {
		if !isNameChar(c) {
			return fmt.Errorf("name %q: a name is made of a-z, 0-9 and '-'", s)
		}
	}
	return nil
}

func isNameChar(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' }

func readEndpoint(s string) (endpoint.Name, error) {
	if s == "" {
		return endpoint.Name{}, errors.New("no endpoint is given")
	}
	// Neither TOML nor JSON, by which it comes to the daemon, has other text.
	if !utf8.ValidString(s) {
		return endpoint.Name{}, fmt.Errorf("%q is no UTF-8", s)
	}
	full, err := expand(s)
	if err != nil {
		return endpoint.Name{}, err
	}
	return endpoint.Parse(full)
}

func checkNames(r *Resolved) error {
	switch {
	case r.From == r.To:
		return field("connect", "the same as listen: it would connect to itself")
	case r.To.Network == wire.NetTCP && strings.HasSuffix(r.To.Path, ":0"):
		return field("connect", "port 0 is no port to connect to")
	case r.Agent != "" && CheckName(r.Agent) != nil:
		return &FieldError{"agent", CheckName(r.Agent)}
	case r.Filter != "" && r.Filter != FilterSSHAgent:
		return &FieldError{"filter", report.Hint(fmt.Errorf("no filter %q", r.Filter), "the one filter there is: %s", FilterSSHAgent)}
	}
	return nil
}

// checkOwner handles what only a guest's Unix socket has; for an abstract name,
// the listener itself does what the file's permissions would.
func checkOwner(r *Resolved) error {
	file := r.From.Side == endpoint.Guest && r.From.Network == wire.NetUnix
	for _, v := range [][2]string{{"mode", r.Mode}, {"owner", r.Owner}, {"group", r.Group}} {
		if v[1] != "" && !file {
			return &FieldError{v[0], report.Hint(fmt.Errorf("%s is for a Unix socket of the guest, and %s is none", v[0], r.Listen),
				"access names who may connect to a host's listener, and allow.user who is served by any")}
		}
	}
	if r.Mode != "" {
		n, err := strconv.ParseUint(r.Mode, 8, 16)
		if err != nil || n == 0 || n > 0o777 {
			return &FieldError{"mode", report.Hint(fmt.Errorf("%q is no mode", r.Mode), `octal permission bits in quotes, such as "0660"`)}
		}
		r.Perm = fs.FileMode(n)
	}
	if r.Owner != "" {
		id, err := userID(r.Owner)
		if err != nil {
			return field("owner", "no user %q", r.Owner)
		}
		r.UID = id
	}
	if r.Group != "" {
		id, err := lookUp(r.Group, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			return field("group", "no group %q", r.Group)
		}
		r.GID = id
	}
	return nil
}

// userID is the number of a user of this system.
func userID(name string) (int, error) {
	return lookUp(name, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

// KeptOut returns the first user of this system whom the allow rule names and who
// can't open the socket, since nothing is said of its mode and owner, "" for none.
// self is the user who will own it.
func (r *Resolved) KeptOut(self int) string {
	if r.Allow == nil || r.From.Side != endpoint.Guest || r.From.Network != wire.NetUnix || r.Perm != 0 || r.UID >= 0 || r.GID >= 0 {
		return ""
	}
	for _, name := range r.Allow.User {
		if id, err := userID(name); err == nil && id != 0 && id != self {
			return name
		}
	}
	return ""
}

// lookUp reads a number, or asks for the one of a name. -1 as uint32 is what
// chown(2) takes for "unchanged", so it is no id.
func lookUp(s string, ask func(string) (string, error)) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		if s, err = ask(s); err != nil {
			return -1, err
		}
		n, err = strconv.ParseUint(s, 10, 32)
	}
	if err != nil || n == 1<<32-1 {
		return -1, errors.New("no id")
	}
	return int(n), nil
}

// checkHost handles what only listeners of the host have.
func checkHost(r *Resolved) error {
	if r.Message && r.From.Network != wire.NetPipe {
		return field("message", "%s is no pipe", r.Listen)
	}
	if len(r.Access) == 0 {
		return nil
	}
	if r.From.Side != endpoint.Host || r.From.Network == wire.NetTCP || r.From.Network == wire.NetPageant {
		return field("access", "%s has no access list", r.Listen)
	}
	if err := checkList("access", r.Access); err != nil {
		return err
	}
	if n := len(r.AccessBytes()); n > wire.MaxAccess {
		return field("access", "%d bytes, at most %d", n, wire.MaxAccess)
	}
	return nil
}

// AccessBytes gives Access as a request carries it.
func (f Forward) AccessBytes() []byte {
	var b []byte
	for _, a := range f.Access {
		b = append(append(b, a...), '\n')
	}
	return b
}

func checkAllow(r *Resolved) error {
	if r.Allow == nil {
		return nil
	}
	return checkList("allow.user", r.Allow.User)
}

// checkList refuses what no account's name can be.
func checkList(name string, list []string) error {
	if len(list) > MaxList {
		return field(name, "%d elements, at most %d", len(list), MaxList)
	}
	for i, s := range list {
		if s == "" || len(s) > wire.MaxUser || !plain(s) {
			return field(fmt.Sprintf("%s.%d", name, i), "%q is no account", s)
		}
	}
	return nil
}

// plain tells whether s is text of one line.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f })
}

func checkEnv(r *Resolved) error {
	if len(r.Env) > MaxList {
		return field("env", "%d variables, at most %d", len(r.Env), MaxList)
	}
	for name, value := range r.Env {
		if !isVariable(name) || len(name) > MaxString {
			return field("env", "%q is no name of a variable", name)
		}
		if len(value) > MaxString || !plain(value) {
			return field("env."+name, "%q is no value of one line", value)
		}
	}
	return nil
}

// isVariable tells whether every shell takes s as a variable's name.
func isVariable(s string) bool {
	for i, c := range s {
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '_':
		case c >= '0' && c <= '9' && i > 0:
		default:
			return false
		}
	}
	return s != ""
}

// DefaultName makes a name for a forward that listens at n, one that taken
// denies.
func DefaultName(n endpoint.Name, taken func(string) bool) string {
	s := strings.TrimRight(n.Path, `/\`)
	s = s[strings.LastIndexAny(s, `/\@`)+1:]
	switch n.Network {
	case wire.NetTCP:
		s = "tcp-" + s[strings.LastIndexByte(s, ':')+1:]
	case wire.NetPageant:
		s = "pageant"
	}
	for _, end := range []string{".sock", ".socket"} {
		s = strings.TrimSuffix(s, end)
	}
	s = strings.Map(func(c rune) rune {
		if isNameChar(c) {
			return c
		}
		return '-'
	}, strings.ToLower(s))
	for strings.Contains(s, "--") {
		s = strings.ReplaceAll(s, "--", "-")
	}
	s = strings.Trim(s[:min(len(s), MaxName-5)], "-")
	if s == "" {
		s = "forward"
	}
	name := s
	for i := 2; taken(name); i++ {
		name = s + "-" + strconv.Itoa(i)
	}
	return name
}

// Listens tells whether two forwards listen at one endpoint, so that only one of
// them can. Port 0 is another one each time.
func (r Resolved) Listens(o Resolved) bool {
	if r.From.Network == wire.NetTCP && strings.HasSuffix(r.From.Path, ":0") {
		return false
	}
	return r.From == o.From && (r.From.Side == endpoint.Guest || r.Agent == o.Agent)
}

// Same tells whether two forwards are the same, also for shells. One without a
// name may have any.
func (r Resolved) Same(o Resolved) bool {
	if r.Name == "" {
		r.Name = o.Name
	}
	return r.Equal(o) && maps.Equal(r.Env, o.Env)
}

// Equal tells whether two forwards are the same in all that their engine does:
// a reload leaves such a one alone.
func (r Resolved) Equal(o Resolved) bool {
	a, b := r.Forward, o.Forward
	sameAllow := (a.Allow == nil) == (b.Allow == nil) && (a.Allow == nil || slices.Equal(a.Allow.User, b.Allow.User))
	return a.Name == b.Name && r.From == o.From && r.To == o.To && a.Agent == b.Agent &&
		r.Perm == o.Perm && r.UID == o.UID && r.GID == o.GID &&
		slices.Equal(a.Access, b.Access) && a.Message == b.Message && sameAllow && a.Filter == b.Filter
}
