// Package seccomp hands chosen socket calls of a process tree to a supervisor,
// by seccomp user notification (seccomp_unotify(2)), in pure Go.
//
// A task installs the filter with [Install] and passes the listener to its
// supervisor, which reads the calls from a [Listener] and answers each: let the
// kernel carry it out, or return a value or an error in its stead. Only bind,
// connect and listen are seen (and, on request, the prctl that would put a task
// out of its supervisor's reach); all other calls run untouched, in all the
// system call tables that the machine offers to programs: the native one, x32,
// and that of 32-bit programs, including socketcall(2) of i386.
//
// This is a switchboard and no sandbox: a program that wants to pass by, by
// io_uring for instance, can.
//
// The package exists on Linux alone. It needs Linux 5.9 and uses what later
// kernels add: WAIT_KILLABLE_RECV (5.19), SYNC_WAKE_UP (6.6), PIDFD_THREAD (6.9).
package seccomp
