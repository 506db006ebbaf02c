package report

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Line makes a line of text of s, whoever s comes from: what a terminal would
// take for an order, break the line at or show in another place than it is
// stands as Go's strings have it (\x1b, \n, \u202e), and so do bytes that are no
// UTF-8. Names, messages of agents and words of the host's system come from
// people and systems that the reader of the terminal need not trust.
func Line(s string) string { return clean(s, "") }

// Text is Line for what may have several lines and columns.
func Text(s string) string { return clean(s, "\n\t") }

// clean keeps what is printable or one of keep.
func clean(s, keep string) string {
	fine := func(r rune) bool { return strconv.IsPrint(r) || strings.ContainsRune(keep, r) }
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !fine(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			q := strconv.Quote(s[:1]) // \x9b
			b.WriteString(q[1 : len(q)-1])
		case fine(r):
			b.WriteString(s[:n])
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}
