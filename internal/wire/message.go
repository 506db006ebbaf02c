// Package wire is the codec of the link: the frames, the hello and the
// requests of docs/protocol.md, and nothing that waits or remembers.
package wire

import (
	"fmt"

	"drvsock/internal/errno"
)

// A Role says which side of the link speaks.
type Role uint8

// The two roles. The guest opens odd streams, the agent even ones.
const (
	RoleGuest Role = 1
	RoleAgent Role = 2
)

// A Hello is the first thing that each side sends, without waiting.
type Hello struct {
	Version    uint16 // highest version of the protocol spoken
	MinVersion uint16 // lowest version still spoken
	Features   uint32 // bits of docs/protocol.md; unknown ones are ignored
	Role       Role
	Window     uint32 // bytes that a stream may carry towards the sender of this hello before it grants more
	Build      string // build of the program, for people
	OS         string // runtime.GOOS
	Arch       string // runtime.GOARCH
}

// A Kind is what an OPEN frame asks for.
type Kind uint8

// The kinds of request.
const (
	// KindConnect connects to the host socket at Path. From, if not 0, is the
	// stream of an earlier KindBind whose socket shall connect. The accepted
	// stream carries the connection's bytes.
	KindConnect Kind = 1
	// KindBind makes and binds a host socket at Path without listening. The
	// accepted stream carries no bytes: it is the host socket's handle, and
	// ending it closes the socket. The file stays, as the OS leaves it, unless
	// the stream is reset: then the bind is taken back, file and all.
	KindBind Kind = 2
	// KindListen makes the socket of the KindBind stream From listen with
	// Backlog. The accepted stream carries no bytes and ends at once.
	KindListen Kind = 3
	// KindAccepted is sent by the agent: a connection came in on the socket of
	// the KindBind stream From; Peer is the name that the connecting socket is
	// bound to. The accepted stream carries its bytes.
	KindAccepted Kind = 4
	// KindStat asks what lies at Path (without following a link there). The
	// answer carries Stat; the stream ends at once.
	KindStat Kind = 5
	// KindUnlink removes the socket file at Path; anything but a socket is
	// refused. The stream ends at once.
	KindUnlink Kind = 6
	// KindLink asks for another link, on a Hyper-V socket: the agent listens for
	// the virtual machine Path (empty: whichever it finds), and answers with the
	// port. Whoever connects and proves to know Secret gets the link. The accepted
	// stream carries no bytes: listener and link end with it.
	KindLink Kind = 7
)

// A Network is the kind of a host endpoint that KindConnect or KindBind means.
type Network uint8

// The networks. The zero one is the Unix socket, which every host has; others
// are refused with EAFNOSUPPORT by a host that lacks them.
const (
	NetUnix    Network = 0 // AF_UNIX stream socket; Path is its file
	NetPipe    Network = 1 // Windows named pipe; Path is \\.\pipe\NAME
	NetAssuan  Network = 2 // GnuPG's stand-in for a socket: Path is a file with a port and a nonce
	NetCygwin  Network = 3 // Cygwin's and MSYS2's: Path is a file with a port and a secret
	NetPageant Network = 4 // PuTTY's agent; no Path
	NetTCP     Network = 5 // TCP on loopback; Path is IP:PORT
)

// String names the network as endpoint names do.
func (n Network) String() string {
	switch n {
	case NetUnix:
		return "unix"
	case NetPipe:
		return "pipe"
	case NetAssuan:
		return "assuan"
	case NetCygwin:
		return "cygwin"
	case NetPageant:
		return "pageant"
	case NetTCP:
		return "tcp"
	}
	return fmt.Sprintf("network %d", uint8(n))
}

// A Caller is the program that began a connection: the guest's one on whose
// behalf a request is made, or for KindAccepted the host's one that connected.
type Caller struct {
	UID, GID, PID uint32 // effective ids (guest), and the process (0 if unknown)
	Program       string // name of the program, at most MaxProgram bytes
	// User is the account of a host's caller, such as BOX\alice or a SID, at
	// most MaxUser bytes. Empty if unknown, and for a guest's caller.
	User string
}

// A Request is the payload of an OPEN frame.
type Request struct {
	Kind Kind
	// Path is the host's own form, such as C:\tmp\x.sock, at most MaxPath
	// bytes, in UTF-8 wherever the guest's name was.
	Path []byte
	// Name is the last element of Path where the program named the socket so,
	// relative to its folder: a host that can keeps these very bytes as the
	// socket's name. Empty if the program's name had a folder in it.
	Name    []byte
	From    uint32 // stream that this request refers to, 0 for none
	Backlog uint32 // KindListen
	Mode    uint32 // KindBind: permission bits for the file, umask already taken off
	// Nonblock asks KindConnect for EAGAIN instead of waiting for room in the
	// listener's backlog.
	Nonblock bool
	Timeout  uint32 // KindConnect: milliseconds to wait for room, 0 for no limit
	Peer     []byte // KindAccepted, at most MaxPath bytes, empty for an unnamed peer
	Caller   Caller

	Network Network // KindConnect, KindBind
	// Replace says that a Unix socket is an endpoint of drvsock's own and not a
	// program's: %VARIABLE% in Path is expanded, as it always is for the other
	// networks, and KindBind removes a stale socket file first, one of the same
	// account on which nobody listens.
	Replace bool
	Message bool // KindBind, NetPipe: a message pipe, which can be half-closed
	// Access names the accounts that may connect to what KindBind makes, each
	// ended by a line feed, at most MaxAccess bytes; empty for the agent's own.
	// Windows only.
	Access []byte
	Secret []byte // KindLink, SecretSize bytes; never logged
}

// A Stat tells what lies at a host path.
type Stat struct {
	Socket bool   // a Unix socket
	Dir    bool   // a folder
	Size   uint64 // bytes
}

// An Answer is the payload of an ACCEPT frame.
type Answer struct {
	Stat *Stat // KindStat only
	// Address is what KindBind made where the request left something open, such
	// as a port of 0, and where KindLink listens; at most MaxPath bytes.
	Address []byte
}

// A Refusal is the payload of a REFUSE, STOP, RESET or GOAWAY frame.
type Refusal = errno.Error
