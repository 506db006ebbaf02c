package errno

import "strconv"

var names = map[Errno]string{
	EPERM: "EPERM", ENOENT: "ENOENT", EINTR: "EINTR", EIO: "EIO", EBADF: "EBADF", EAGAIN: "EAGAIN",
	ENOMEM: "ENOMEM", EACCES: "EACCES", EFAULT: "EFAULT", EBUSY: "EBUSY", EEXIST: "EEXIST",
	ENOTDIR: "ENOTDIR", EISDIR: "EISDIR", EINVAL: "EINVAL", ENFILE: "ENFILE", EMFILE: "EMFILE",
	ENOSPC: "ENOSPC", EROFS: "EROFS", EPIPE: "EPIPE", ENAMETOOLONG: "ENAMETOOLONG", ENOSYS: "ENOSYS",
	ELOOP: "ELOOP", EPROTO: "EPROTO", ENOTSOCK: "ENOTSOCK", EPROTOTYPE: "EPROTOTYPE",
	EOPNOTSUPP: "EOPNOTSUPP", EAFNOSUPPORT: "EAFNOSUPPORT", EADDRINUSE: "EADDRINUSE",
	ENETDOWN: "ENETDOWN", ECONNABORTED: "ECONNABORTED", ECONNRESET: "ECONNRESET", ENOBUFS: "ENOBUFS",
	EISCONN: "EISCONN", ENOTCONN: "ENOTCONN", ETIMEDOUT: "ETIMEDOUT", ECONNREFUSED: "ECONNREFUSED",
	ECANCELED: "ECANCELED",
}

// String gives the symbolic name, or "errno N" for a number without one here.
func (e Errno) String() string {
	if s, ok := names[e]; ok {
		return s
	}
	return "errno " + strconv.Itoa(int(e))
}

// Error makes an Errno an error, so that it can be a target of errors.Is.
func (e Errno) Error() string { return e.String() }
