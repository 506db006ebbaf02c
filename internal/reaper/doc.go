// Package reaper starts children and waits for all of them in one place.
//
// The supervisor adopts the orphans of its tree (PR_SET_CHILD_SUBREAPER), so it
// must wait for children that it never started; a second waiter, such as
// package os/exec, would lose its own to it.
package reaper
