package names

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// The keeper talks over a SOCK_SEQPACKET pair, one packet each way per request:
//
//	keeper, once:  number (4 bytes, little endian), step that failed
//	caller:        sockaddr, 3 to 110 bytes, with the socket as SCM_RIGHTS
//	keeper:        number, step; with an O_PATH descriptor if the number is 0
//
// The number is an errno of the keeper's system, 0 for success.

const (
	sockFD      = 3   // the keeper's end of the pair
	maxReply    = 256 // bytes of a packet from the keeper
	maxSockaddr = unix.SizeofSockaddrUnix
	pathOffset  = 2 // of sun_path
)

func appendReply(b []byte, step string, e unix.Errno) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(e))
	return append(b, step[:min(len(step), maxReply-4)]...)
}

func parseReply(b []byte) (step string, e unix.Errno, err error) {
	if len(b) < 4 {
		return "", 0, errors.New("reply too short")
	}
	return string(b[4:]), unix.Errno(binary.LittleEndian.Uint32(b)), nil
}

// sockaddrPath returns the path in a sockaddr_un, and whether it is one:
// family AF_UNIX, a length that the kernel takes, and a name that is neither
// empty nor abstract (unix(7), "Address format").
func sockaddrPath(sa []byte) (string, bool) {
	if len(sa) <= pathOffset || len(sa) > maxSockaddr ||
		binary.NativeEndian.Uint16(sa) != unix.AF_UNIX || sa[pathOffset] == 0 {
		return "", false
	}
	return unix.ByteSliceToString(sa[pathOffset:]), true
}
