package seccomp

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// SendFD sends data, at least one byte, and with it a copy of descriptor fd
// over the Unix socket sock; fd below 0 sends the data alone. It waits as long
// as the socket makes it (SO_SNDTIMEO bounds that).
func SendFD(sock int, data []byte, fd int) error {
	if len(data) == 0 {
		return errors.New("send descriptor: no data to go with it")
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	for {
		n, err := unix.SendmsgN(sock, data, oob, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("send descriptor: %w", err)
		case n != len(data):
			return fmt.Errorf("send descriptor: %w", io.ErrShortWrite)
		default:
			return nil
		}
	}
}

// RecvFD receives what [SendFD] sent in one message: n bytes of data and a
// descriptor, close-on-exec and owned by the caller, or -1 if none came. It
// returns io.EOF if the other end is closed, and an error that wraps
// unix.EAGAIN if SO_RCVTIMEO passed.
func RecvFD(sock int, data []byte) (n, fd int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	var oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(sock, data, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, -1, fmt.Errorf("receive descriptor: %w", err)
	}
	fd, err = rights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message longer than allowed")
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return 0, -1, fmt.Errorf("receive descriptor: %w", err)
	}
	if n == 0 && fd < 0 {
		return 0, -1, io.EOF
	}
	return n, fd, nil
}

// rights returns the one descriptor in oob, or -1. There is room for two in it
// where CMSG_SPACE rounds up, so a second one is closed and is an error.
func rights(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, err
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // another sort of control message
		}
		fds = append(fds, got...)
	}
	switch len(fds) {
	case 0:
		return -1, nil
	case 1:
		return fds[0], nil
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return -1, errors.New("more than one descriptor")
}
