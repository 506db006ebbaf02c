package socket

import (
	"fmt"
	"net"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"

	"drvsock/internal/wire"
)

// getPeerPID is SIO_AF_UNIX_GETPEERPID of afunix.h, for a connected socket.
const getPeerPID = 0x58000100

func unixCaller(c *net.UnixConn) wire.Caller {
	raw, err := c.SyscallConn()
	if err != nil {
		return unknown()
	}
	var pid, n uint32
	err2 := raw.Control(func(fd uintptr) {
		err = windows.WSAIoctl(windows.Handle(fd), getPeerPID, nil, 0,
			(*byte)(unsafe.Pointer(&pid)), uint32(unsafe.Sizeof(pid)), &n, nil, 0)
	})
	if err != nil || err2 != nil {
		return unknown()
	}
	return callerOf(pid)
}

// tcpCaller knows nothing: who connected is worth no walk through the tables of
// all connections.
func tcpCaller(*net.TCPConn) wire.Caller { return unknown() }

// callerOf describes the process pid. By now it may be another one than that
// which connected, so this is for people, and what keeps programs out is the
// ACL.
func callerOf(pid uint32) wire.Caller {
	c := unknown()
	c.PID = pid
	if pid == 0 {
		return c
	}
	p, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return c
	}
	defer windows.CloseHandle(p)
	c.Program = imageOf(p)
	var token windows.Token
	if err := windows.OpenProcessToken(p, windows.TOKEN_QUERY, &token); err != nil {
		return c
	}
	defer token.Close()
	if user, err := token.GetTokenUser(); err == nil {
		c.User = accountOf(user.User.Sid)
	}
	return c
}

// imageOf returns the name of a process's program, without its folder.
func imageOf(p windows.Handle) string {
	buf := make([]uint16, windows.MAX_LONG_PATH)
	n := uint32(len(buf))
	if err := windows.QueryFullProcessImageName(p, 0, &buf[0], &n); err != nil {
		return ""
	}
	full := windows.UTF16ToString(buf[:n])
	return full[strings.LastIndexByte(full, '\\')+1:]
}

// describe names a process in a sentence.
func describe(pid uint32) string {
	c := callerOf(pid)
	s := fmt.Sprintf("process %d", pid)
	if c.Program != "" {
		s = c.Program + ", " + s
	}
	if c.User != "" {
		s += " of " + c.User
	}
	return s
}

func pipeCaller(h windows.Handle) wire.Caller {
	var pid uint32
	if err := windows.GetNamedPipeClientProcessId(h, &pid); err != nil {
		return unknown()
	}
	return callerOf(pid)
}

// pipeOwner says in a sentence who serves a pipe, and whether there is one. It has
// to connect to find out.
func pipeOwner(path string) (who string, exists bool) {
	const nobody = "another program has a pipe of that name"
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nobody, false
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ, 0, nil, windows.OPEN_EXISTING,
		windows.FILE_FLAG_OVERLAPPED|windows.SECURITY_SQOS_PRESENT|windows.SECURITY_ANONYMOUS, 0)
	if err != nil {
		return nobody, err != windows.ERROR_FILE_NOT_FOUND
	}
	defer windows.CloseHandle(h)
	var pid uint32
	if err := windows.GetNamedPipeServerProcessId(h, &pid); err != nil {
		return nobody, true
	}
	return describe(pid) + ", serves it", true
}
