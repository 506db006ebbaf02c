package cygwin

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"drvsock/internal/cygwin/portfile"
	"drvsock/internal/errno"
	"drvsock/internal/wire"
)

// The greeting of Cygwin (af_local_connect and af_local_accept in
// winsup/cygwin/fhandler/socket_local.cc), in this order: the client sends the
// secret, the server sends it back, the client sends its credentials, the server
// sends its own. Credentials are struct ucred: pid, uid and gid, of 32 bits each,
// little-endian.
const (
	credLen = 12
	// shortCredLen is the length that libassuan gives credentials, from the days
	// when uid and gid had 16 bits; so in libassuan's newest (2026) too.
	shortCredLen = 8
)

// Peers that deviate differ by their silence, which has to be waited out. They
// are on this machine, where an answer takes less than a millisecond.
const silence = 300 * time.Millisecond

// errImpostor is for a server that doesn't know the secret: the file is stale and
// its port another's. Cygwin's number for it.
var errImpostor = errno.Errorf(errno.ECONNREFUSED, errno.LayerUnknown, "the server on the socket's port doesn't know its secret")

// credentials are what a dialling side shows: its process, and uid 0 because it
// has no place in Cygwin's numbering of accounts. OpenSSH's agent takes its own
// uid and 0, and nothing else (ssh-agent.c).
func credentials() []byte {
	b := make([]byte, credLen)
	binary.LittleEndian.PutUint32(b, uint32(os.Getpid()))
	return b
}

// greet does the client's half with Cygwin, or with one who speaks as Cygwin.
func (f File) greet(conn net.Conn) error {
	if _, err := conn.Write(f.Secret[:]); err != nil {
		return err
	}
	var echo portfile.Secret
	if _, err := io.ReadFull(conn, echo[:]); err != nil {
		return ended(err)
	}
	if subtle.ConstantTimeCompare(echo[:], f.Secret[:]) != 1 {
		return errImpostor
	}
	if _, err := conn.Write(credentials()); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, credLen))
	return ended(err)
}

// greetAny does the client's half with a server that may be GnuPG's. Its
// gpg-agent writes a Cygwin file for ssh and means to greet as Cygwin, but
// libassuan notes that for the listening socket alone and asks for it with the
// accepted one, so that nothing but the secret is read and nothing sent. Where
// the note is found, credentials are of 8 bytes.
//
// A server that speaks first can't be told from an impostor here. gpg-agent has
// this file for ssh only, where the client begins.
func (f File) greetAny(conn net.Conn) error {
	if _, err := conn.Write(f.Secret[:]); err != nil {
		return err
	}
	var echo portfile.Secret
	heard, err := readSoon(conn, echo[:], time.Time{})
	if err != nil || !heard {
		return ended(err)
	}
	if subtle.ConstantTimeCompare(echo[:], f.Secret[:]) != 1 {
		return errImpostor
	}
	mine, theirs := credentials(), make([]byte, credLen)
	if _, err := conn.Write(mine[:shortCredLen]); err != nil {
		return err
	}
	heard, err = readSoon(conn, theirs[:shortCredLen], time.Time{})
	if err != nil || heard {
		return ended(err)
	}
	// It waits for the rest, so it is one that speaks as Cygwin.
	if _, err := conn.Write(mine[shortCredLen:]); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, theirs)
	return ended(err)
}

// ended makes a server's hanging up what it means.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errImpostor
	}
	return err
}

// readSoon fills b, or reports that not even its first byte came in time. Later
// reads have the deadline after.
func readSoon(conn net.Conn, b []byte, after time.Time) (bool, error) {
	// Twice, because a deadline that has passed hides what is there, and on a busy
	// machine it can pass before the read begins.
	for range 2 {
		if err := conn.SetReadDeadline(time.Now().Add(silence / 2)); err != nil {
			return false, err
		}
		n, err := conn.Read(b)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if n == 0 {
			return false, err
		}
		if err := conn.SetReadDeadline(after); err != nil {
			return false, err
		}
		_, err = io.ReadFull(conn, b[n:])
		return true, err
	}
	return false, conn.SetReadDeadline(after)
}

// Welcome does the server's half. The caller's PID is the number that the client
// gives itself: Cygwin's pid, which need not be the one that Windows knows it by,
// and nobody vouches for it. Its uid and gid count in Cygwin's own way (pwdgrp of
// its DLL), so they go back to it but are not the caller's.
//
// All of it ends by until. Clients of libassuan, with their short credentials, are
// welcome too.
func Welcome(conn net.Conn, secret portfile.Secret, until time.Time) (wire.Caller, error) {
	if err := conn.SetDeadline(until); err != nil {
		return wire.Caller{}, err
	}
	if err := portfile.CheckSecret(conn, secret); err != nil {
		return wire.Caller{}, err
	}
	if _, err := conn.Write(secret[:]); err != nil {
		return wire.Caller{}, err
	}
	cred := make([]byte, credLen)
	if _, err := io.ReadFull(conn, cred[:shortCredLen]); err != nil {
		return wire.Caller{}, err
	}
	long, err := readSoon(conn, cred[shortCredLen:], until)
	if err != nil {
		return wire.Caller{}, err
	}
	if !long {
		cred = cred[:shortCredLen]
	}
	caller := wire.Caller{PID: binary.LittleEndian.Uint32(cred)}
	binary.LittleEndian.PutUint32(cred, uint32(os.Getpid()))
	_, err = conn.Write(cred)
	return caller, err
}
