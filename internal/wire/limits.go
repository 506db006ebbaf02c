package wire

// The version of the protocol that this package speaks, and the lowest one
// that it still speaks.
const (
	Version    = 1
	MinVersion = 1
)

// The limits of docs/protocol.md. Sizes are in bytes.
const (
	MaxData    = 64 << 10 // payload of a DATA frame
	MaxOpen    = 16 << 10 // payload of an OPEN frame
	MaxAnswer  = 1 << 10  // payload of an ACCEPT frame
	MaxReason  = 2 << 10  // payload of a REFUSE, END, STOP, RESET or GOAWAY frame
	MaxHello   = 1 << 10  // fields of a hello
	MaxPath    = 4096     // PATH_MAX of Linux; the host's own limit is far lower for a socket
	MaxName    = 108      // sun_path of struct sockaddr_un
	MaxProgram = 64       // name of the calling program
	MaxUser    = 256      // account of a calling program
	MaxAccess  = 1024     // accounts that may connect
	MaxText    = 1024     // sentence of a refusal
	MaxBuild   = 128      // build in a hello
	MaxSystem  = 32       // OS and Arch in a hello
	SecretSize = 32       // secret of a link's transport, exactly

	MaxWindow  = 1<<31 - 1 // credit that a stream may have at once
	MaxStreams = 65536     // streams open at once on a link, both sides together
	MaxPending = 4096      // OPEN frames of one side that are not answered yet
	MaxStream  = 1<<32 - 1 // the last stream id; a link that has used its ids up ends
)
