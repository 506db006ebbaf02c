package config

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"drvsock/internal/report"
)

// expand replaces ~/ and variables in a guest's name. Others come back as they
// are: `$` is a character like any other in a Windows name, and %NAME% is the
// host's business.
//
//	~/x          the home folder
//	$NAME ${NAME} the variable; it is an error if it is unset or empty
//	$$           a `$`
func expand(s string) (string, error) {
	prefix, rest := cutPrefix(s)
	if rest == "" || !strings.ContainsRune("~/$@", rune(rest[0])) {
		return s, nil
	}
	full, err := expandVariables(rest)
	if err != nil {
		return "", fmt.Errorf("%q: %w", s, err)
	}
	if full == "~" || strings.HasPrefix(full, "~/") {
		if rest[0] != '~' {
			return "", fmt.Errorf("%q: %q is no absolute path", s, full)
		}
		home, err := os.UserHomeDir()
		if err != nil || !path.IsAbs(home) {
			return "", fmt.Errorf("%q: the home folder is unknown, HOME is not set", s)
		}
		full = path.Join(home, full[1:])
	}
	if full[0] != '/' && full[0] != '@' {
		return "", fmt.Errorf("%q: %q is no absolute path", s, full)
	}
	return prefix + full, nil
}

// cutPrefix parts the words in front of a path from it.
func cutPrefix(s string) (prefix, rest string) {
	rest = s
	for _, p := range []string{"guest:", "assuan:", "cygwin:"} {
		rest = strings.TrimPrefix(rest, p)
	}
	return s[:len(s)-len(rest)], rest
}

func expandVariables(s string) (string, error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		b.WriteString(s[:i])
		s = s[i+1:]
		if strings.HasPrefix(s, "$") {
			b.WriteByte('$')
			s = s[1:]
			continue
		}
		name, rest, err := cutVariable(s)
		if err != nil {
			return "", err
		}
		value, err := variable(name)
		if err != nil {
			return "", err
		}
		b.WriteString(value)
		s = rest
		if b.Len() > MaxString {
			return "", fmt.Errorf("more than %d bytes", MaxString)
		}
	}
}

// cutVariable takes the name off what follows a `$`.
func cutVariable(s string) (name, rest string, err error) {
	if braced, ok := strings.CutPrefix(s, "{"); ok {
		name, rest, ok = strings.Cut(braced, "}")
		if !ok || !isVariable(name) {
			return "", "", report.Hint(fmt.Errorf("$%s is no variable", s), "write $$ for a '$'")
		}
		return name, rest, nil
	}
	n := 0
	for n < len(s) && isVariable(s[:n+1]) {
		n++
	}
	if n == 0 {
		return "", "", report.Hint(fmt.Errorf("a '$' without a variable"), "write $$ for a '$'")
	}
	return s[:n], s[n:], nil
}

func variable(name string) (string, error) {
	value := os.Getenv(name)
	if value == "" && name == "XDG_RUNTIME_DIR" {
		// What pam_systemd sets it to; a daemon that systemd did not start may
		// lack the variable and still have the folder.
		dir := "/run/user/" + strconv.Itoa(os.Getuid())
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			value = dir
		}
	}
	switch {
	case value == "":
		return "", fmt.Errorf("the variable %s is not set", name)
	case !plain(value):
		return "", fmt.Errorf("the variable %s is no text of one line", name)
	}
	return value, nil
}
