// Package wait waits for descriptors on the calling thread, for the few threads
// of a process that move bytes for everybody.
//
// The runtime is told of a system call that blocks, so that it can run other
// goroutines meanwhile. Its monitor then looks every 20 us whether to take the
// processor (P) away, and where it did, the thread must find another one before
// it goes on: several switches of threads for each message. So for a
// moment, in which most messages of a conversation come, the wait keeps its P:
// the runtime doesn't know of it. Only after that it is an ordinary system call. While it
// keeps the P, a stop of the world ends it by a signal. docs/performance.md has
// the figures.
//
// The other goroutines need Ps of their own meanwhile, see Spare.
package wait
