package agent

import (
	"time"

	"drvsock/internal/errno"
)

// connectOptions say how long a connect may wait for room in the listener's
// backlog.
type connectOptions struct {
	nonblock bool          // not at all
	timeout  time.Duration // this long, 0 for as long as its context
}

// bindOptions say what the file of a new socket is to look like, where files
// have such properties.
type bindOptions struct {
	mode  uint32 // permission bits, with any umask already taken off
	owner *owner // nil for the agent's own account
}

// owner is an account of this system.
type owner struct{ uid, gid uint32 }

// badPath is the refusal of a path that isn't of the form that the link carries.
func badPath(path []byte) error {
	return errno.Errorf(errno.EINVAL, errno.LayerAgent, "%q is no path on a drive of the host", path)
}
