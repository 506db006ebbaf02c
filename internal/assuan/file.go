package assuan

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"drvsock/internal/cygwin"
	"drvsock/internal/cygwin/portfile"
	"drvsock/internal/errno"
)

// redirect is how a file begins that leads to a socket elsewhere.
const redirect = "%Assuan%\nsocket="

// The bounds of a redirection, of libassuan's eval_redirection and of sun_path.
const (
	maxRedirect = 511
	maxTarget   = 107
)

// A Kind is one of the forms that a file has.
type Kind uint8

// The forms.
const (
	KindNonce    Kind = iota + 1 // libassuan's own on Windows: Port and Nonce
	KindCygwin                   // Cygwin's, which gpg-agent has for ssh: Port and Nonce
	KindRedirect                 // libassuan's elsewhere: Target
)

// A File is what a stand-in of GnuPG's says.
type File struct {
	Kind  Kind
	Port  uint16
	Nonce portfile.Secret
	// Target is the path of the socket that is meant, before ${NAME} in it is
	// replaced by the environment.
	Target string
}

// Parse reads a file of at most 4096 bytes, in one of the forms that libassuan
// has (src/assuan-socket.c, the same in 2.5 and 3.0):
//
//	PORT\n and 16 bytes of nonce, any bytes, and the end
//	!<socket >PORT s XXXXXXXX-XXXXXXXX-XXXXXXXX-XXXXXXXX\0
//	%Assuan%\nsocket=PATH\n
func Parse(b []byte) (File, error) {
	switch {
	case len(b) > portfile.MaxFile:
		return File{}, fmt.Errorf("%d bytes", len(b))
	case cygwin.IsFile(b):
		f, err := cygwin.Parse(b)
		if err != nil {
			return File{}, err
		}
		return File{Kind: KindCygwin, Port: f.Port, Nonce: f.Secret}, nil
	case bytes.HasPrefix(b, []byte(redirect)):
		return parseRedirect(b)
	}
	line, nonce, found := bytes.Cut(b, []byte{'\n'})
	port, err := strconv.ParseUint(string(line), 10, 16)
	if !found || err != nil || port == 0 {
		return File{}, errors.New("neither a port and a nonce, nor a Cygwin socket, nor %Assuan%")
	}
	if len(nonce) != portfile.SecretLen {
		return File{}, fmt.Errorf("a nonce of %d bytes, want %d", len(nonce), portfile.SecretLen)
	}
	return File{Kind: KindNonce, Port: uint16(port), Nonce: portfile.Secret(nonce)}, nil
}

// parseRedirect reads a redirection. Both lines end in one line feed. What
// follows them is ignored if it ends in a line feed too, as libassuan does.
func parseRedirect(b []byte) (File, error) {
	if len(b) > maxRedirect {
		return File{}, fmt.Errorf("a redirection of %d bytes, at most %d", len(b), maxRedirect)
	}
	if b[len(b)-1] != '\n' {
		return File{}, errors.New("a redirection without a line feed at its end")
	}
	target, _, _ := strings.Cut(string(b[len(redirect):]), "\n")
	if target == "" || strings.ContainsRune(target, 0) {
		return File{}, errors.New("a redirection to nothing")
	}
	return File{Kind: KindRedirect, Target: target}, nil
}

// expand replaces each ${NAME} in a redirection's target by what getenv has for
// NAME. There is no way to have "${" itself. The result is an absolute path: this
// program's folder is not that of the program which connects.
func expand(target string, getenv func(string) string) (string, error) {
	var out strings.Builder
	for rest := target; ; {
		before, after, found := strings.Cut(rest, "${")
		out.WriteString(before)
		if !found {
			break
		}
		name, after, found := strings.Cut(after, "}")
		if !found {
			return "", errno.Errorf(errno.EINVAL, errno.LayerUnknown, "redirection to %q: a ${ without its }", target)
		}
		if name != "" {
			out.WriteString(getenv(name))
		}
		rest = after
	}
	path := out.String()
	switch {
	case len(path) > maxTarget:
		return "", errno.Errorf(errno.ENAMETOOLONG, errno.LayerUnknown, "redirection to %q: a socket's name has at most %d bytes", target, maxTarget)
	case !filepath.IsAbs(path):
		return "", errno.Errorf(errno.EINVAL, errno.LayerUnknown, "redirection to %q: no absolute path", target)
	}
	return path, nil
}

// Bytes is the file as libassuan writes it.
func (f File) Bytes() []byte {
	switch f.Kind {
	case KindCygwin:
		return cygwin.File{Port: f.Port, Secret: f.Nonce}.Bytes()
	case KindRedirect:
		return []byte(redirect + f.Target + "\n")
	}
	return append(fmt.Appendf(nil, "%d\n", f.Port), f.Nonce[:]...)
}
