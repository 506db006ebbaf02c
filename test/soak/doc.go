// Package soak holds what drvsock is put through for a long time or over a bad
// link: programs talk in all directions while processes are killed at random,
// and a link is cut, stalled, delayed, throttled and fed garbage. All processes
// are real ones. What each byte has to be follows from its place, so that the
// programs at both ends notice one that is wrong, lost, repeated or moved.
package soak
