// Package endpoint reads and writes the names of endpoints: what a forward
// listens on or connects to. The form of a name decides on which side the
// endpoint is and of what kind. Nothing here opens anything.
package endpoint

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	"drvsock/internal/wire"
)

// A Side is one of the two systems.
type Side uint8

// The two sides.
const (
	Guest Side = iota
	Host
)

// String says "guest" or "host".
func (s Side) String() string {
	if s == Host {
		return "host"
	}
	return "guest"
}

// MaxLen is the longest name that Parse takes, in bytes.
const MaxLen = wire.MaxPath

// maxPipe is the longest name of a pipe behind \\.\pipe\ (CreateNamedPipe: 256
// characters with the prefix).
const maxPipe = 247

// pipePrefix is how a pipe's name begins on Windows.
const pipePrefix = `\\.\pipe\`

// A Name names one endpoint.
type Name struct {
	Side    Side
	Network wire.Network
	// Path is the name on its own side, without what only tells the kind:
	//
	//	NetUnix      /run/x.sock, C:\tmp\x.sock, or @name (abstract, guest only)
	//	NetPipe      \\.\pipe\x
	//	NetAssuan    the file: C:\x\S.gpg-agent, /run/x
	//	NetCygwin    likewise
	//	NetPageant   empty
	//	NetTCP       127.0.0.1:80, [::1]:80
	//
	// A host path may contain %VARIABLE%; the host expands it.
	Path string
}

// Parse reads a name as people write it; docs/forward.md has the table. The error
// says what is wrong with the name and is meant for a person.
func Parse(s string) (Name, error) {
	n, err := parse(s)
	if err != nil {
		return Name{}, fmt.Errorf("endpoint %q: %w", s, err)
	}
	return n, nil
}

func parse(s string) (Name, error) {
	switch {
	case s == "":
		return Name{}, fmt.Errorf("empty")
	case len(s) > MaxLen:
		return Name{}, fmt.Errorf("%d bytes, at most %d", len(s), MaxLen)
	case strings.ContainsAny(s, "\x00\n\r"):
		return Name{}, fmt.Errorf("NUL and line ends can't be part of a name")
	}
	for prefix, side := range map[string]Side{"guest:": Guest, "host:": Host} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			n, err := form(rest, side)
			if err == nil && n.Side != side {
				err = fmt.Errorf("the %s has no such form, it is the %s's", side, n.Side)
			}
			return n, err
		}
	}
	return form(s, Host)
}

// form reads a name without a side in front. side is where kinds lie that both
// have and whose names don't tell.
func form(s string, side Side) (Name, error) {
	kind, rest, found := strings.Cut(s, ":")
	if found && len(kind) > 1 {
		switch kind {
		case "assuan":
			return file(wire.NetAssuan, rest)
		case "cygwin":
			return file(wire.NetCygwin, rest)
		case "pageant":
			if rest != "" {
				return Name{}, fmt.Errorf("pageant: takes nothing more")
			}
			return Name{Side: Host, Network: wire.NetPageant}, nil
		case "tcp":
			return tcp(side, rest)
		}
	}
	switch {
	case strings.HasPrefix(s, "@"):
		if len(s) == 1 || len(s) > 108 {
			return Name{}, fmt.Errorf("an abstract name has 1 to 107 bytes")
		}
		return Name{Guest, wire.NetUnix, s}, nil
	case isPipe(s):
		name := strings.ReplaceAll(s[len(pipePrefix):], "/", `\`)
		if name == "" || len(name) > maxPipe {
			return Name{}, fmt.Errorf("a pipe's name has 1 to %d characters", maxPipe)
		}
		return Name{Host, wire.NetPipe, pipePrefix + name}, nil
	}
	return file(wire.NetUnix, s)
}

// isPipe reports whether s begins as a pipe's name, with either slash.
func isPipe(s string) bool {
	return len(s) >= len(pipePrefix) && strings.EqualFold(strings.ReplaceAll(s[:len(pipePrefix)], "/", `\`), pipePrefix)
}

// file reads the path of a file; its form tells the side.
func file(network wire.Network, s string) (Name, error) {
	switch {
	case strings.HasSuffix(s, "/"), strings.HasSuffix(s, `\`) && !strings.HasPrefix(s, "/"):
		return Name{}, fmt.Errorf("that is a folder's name")
	case strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//"):
		return Name{Guest, network, s}, nil
	case isDrivePath(s), strings.HasPrefix(s, "%"):
		return Name{Host, network, strings.ReplaceAll(s, "/", `\`)}, nil
	}
	return Name{}, fmt.Errorf("neither an absolute path (/…, C:\\…), nor a pipe (\\\\.\\pipe\\…), an abstract name (@…) or one with assuan:, cygwin:, pageant: or tcp: in front")
}

func isDrivePath(s string) bool {
	return len(s) > 3 && s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z' && s[1] == ':' && (s[2] == '\\' || s[2] == '/')
}

// tcp reads an address, which has to be one of this machine alone: anything else
// is neither a socket's replacement nor safe.
func tcp(side Side, s string) (Name, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Name{}, fmt.Errorf("want tcp:127.0.0.1:PORT")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsLoopback() {
		return Name{}, fmt.Errorf("TCP is for loopback addresses alone, such as 127.0.0.1 and ::1")
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Name{}, fmt.Errorf("%q is no port", port)
	}
	return Name{side, wire.NetTCP, net.JoinHostPort(ip.String(), strconv.FormatUint(p, 10))}, nil
}

// String writes the name so that Parse reads the same from it.
func (n Name) String() string {
	switch n.Network {
	case wire.NetAssuan, wire.NetCygwin:
		return n.Network.String() + ":" + n.Path
	case wire.NetPageant:
		return "pageant:"
	case wire.NetTCP:
		if n.Side == Guest {
			return "guest:tcp:" + n.Path
		}
		return "tcp:" + n.Path
	}
	return n.Path
}

// Abstract reports whether the name is one of Linux's abstract ones.
func (n Name) Abstract() bool { return n.Network == wire.NetUnix && strings.HasPrefix(n.Path, "@") }

// MarshalText and UnmarshalText make a Name a string in JSON and TOML.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText is Parse.
func (n *Name) UnmarshalText(b []byte) (err error) {
	*n, err = Parse(string(b))
	return err
}
