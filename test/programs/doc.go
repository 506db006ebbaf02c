// Package programs holds end-to-end tests with programs that no one here
// wrote: web servers, databases, key agents and the runtimes of languages.
// Each is played natively, with the server in drvsock run and the client on
// the host, the other way round, and with both in runs of their own; as the
// caller, who may be root, and as an ordinary user.
package programs
