// Package names gives sockets names that lie in no folder of the machine.
//
// A program on the guest that binds to /mnt/c/tmp/x.sock, or connects to it,
// expects getsockname, getpeername and accept to say just that, though no
// socket can be made there. Those calls return what the kernel noted when the
// socket was bound. So a [Keeper], a process in a mount namespace of its own
// whose root is an empty file system in memory, makes the folders that the name
// needs, binds the program's own socket in there, and removes it all again. The
// socket keeps its name, and the caller keeps a descriptor of the inode, through
// which the kernel finds the socket when somebody connects.
//
// The package exists on Linux alone (5.2 and later). An ordinary user needs
// user namespaces for it.
package names
