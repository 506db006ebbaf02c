// Package lookup resolves a path as the kernel would resolve it for another
// task, and asks the kernel what that task may do there.
//
// The supervisor must know where connect("x/../server.sock") of some thread
// leads: that depends on the thread's working folder, root folder, mount
// namespace, credentials and on symbolic links on the way. Nothing here
// compares text: each step is an openat(2) from a descriptor of the last, made
// with the credentials of the task, so that the kernel itself says yes or no.
package lookup
