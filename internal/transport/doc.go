// Package transport says how a link comes about: as a command's stdin and
// stdout, or as a session with the daemon. Whoever needs a link has a Dialer and
// asks it anew after each loss; another way to the host is another Dialer.
package transport
