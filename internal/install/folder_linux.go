package install

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// askLimit bounds the question for the user's folder: WSL itself gives a Windows
// program 10 s to begin.
const askLimit = 12 * time.Second

// find returns the store's folder, which need not exist.
func (s *Store) find(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.folder != "" {
		return s.folder, nil
	}
	shell, err := s.shell()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askLimit, fmt.Errorf("no answer within %v", askLimit))
	defer cancel()
	// In UTF-16, since the console's code page has not every user's name; and on a
	// drive, since a Windows program has no other folder.
	out, err := s.Run(ctx, filepath.Dir(shell), []string{shell, "/d", "/u", "/c", "echo", "%LOCALAPPDATA%"})
	if err != nil {
		return "", fmt.Errorf("%%LOCALAPPDATA%% by %s: %w", shell, err)
	}
	local, err := parseLocal(out)
	if err != nil {
		return "", fmt.Errorf("%%LOCALAPPDATA%% by %s: %w", shell, err)
	}
	guest, err := s.Guest(local)
	if err != nil {
		return "", fmt.Errorf("%%LOCALAPPDATA%% by %s: %w", shell, err)
	}
	s.folder = filepath.Join(guest, folderName)
	return s.folder, nil
}

// shell finds cmd.exe: where Windows has it, or else on the PATH. A daemon that a
// service manager started has no such folder on its PATH.
func (s *Store) shell() (string, error) {
	if p, err := s.Guest(`C:\Windows\System32\cmd.exe`); err == nil && regular(p) {
		return p, nil
	}
	p, err := exec.LookPath("cmd.exe")
	if err != nil || !filepath.IsAbs(p) {
		return "", errors.New("no Windows drive with a cmd.exe")
	}
	return p, nil
}

// parseLocal reads what cmd.exe says: one line, in UTF-16 or, from one that
// doesn't know /u, in UTF-8. The answer is a folder on a drive.
func parseLocal(out []byte) (string, error) {
	if len(out) > 4096 {
		return "", fmt.Errorf("an answer of %d bytes", len(out))
	}
	if len(out)%2 == 0 && bytes.IndexByte(out, 0) >= 0 {
		words := make([]uint16, len(out)/2)
		for i := range words {
			words[i] = binary.LittleEndian.Uint16(out[2*i:])
		}
		out = []byte(string(utf16.Decode(words)))
	}
	s := strings.TrimRight(strings.TrimPrefix(string(out), "\ufeff"), "\r\n ")
	drive := len(s) > 3 && s[1] == ':' && s[2] == '\\' && ('a' <= s[0]|0x20 && s[0]|0x20 <= 'z')
	if !drive || !utf8.ValidString(s) || strings.ContainsAny(s, "\x00\r\n%\"<>|?*/\ufffd") || strings.Contains(s, `\..`) || strings.Contains(s[2:], ":") {
		return "", fmt.Errorf("%.100q is no folder on a drive", s)
	}
	return s, nil
}
