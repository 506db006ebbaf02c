// Package agent is the host's end of the link: it makes, connects and removes
// real sockets there on behalf of the guest's programs.
//
// [Serve] answers one link. The sockets of programs on the guest are made here,
// as the program asked. What differs between systems lies behind a seam of two
// types with the same methods everywhere: host (dial, bind, stat, unlink) and
// unixSocket, one that is bound (listen, accept, connect, close, removeOwn).
// Endpoints of other kinds, and what a forward listens on, are package socket's.
//
// Either lives as long as the stream of its KindBind request. If that stream
// ends while the link lives, a program's file stays, as an operating system
// leaves it; if the link ends first, there is no program any more that could
// remove the file, so the agent does, provided that it still is the one it made.
// Nothing of a forward's listener stays.
package agent
