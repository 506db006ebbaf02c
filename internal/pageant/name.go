package pageant

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// hidden is what PuTTY puts through CryptProtectMemory for the name of its pipe:
// "Pageant" with NULs to a whole block.
var hidden = [16]byte{'P', 'a', 'g', 'e', 'a', 'n', 't'}

// pipeOf returns the name of Pageant's pipe, without what all pipes begin with
// (windows/utils/agent_named_pipe_name.c and cryptoapi.c of PuTTY):
// pageant.USER.HASH. HASH is the SHA-256 of an SSH string, so with the length in
// four bytes in front, of block: hidden after CryptProtectMemory, or as it is where
// that fails.
func pipeOf(user string, block [16]byte) string {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(len(block))), block[:]...))
	return "pageant." + user + "." + hex.EncodeToString(sum[:])
}
