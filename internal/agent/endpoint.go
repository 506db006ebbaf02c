package agent

import (
	"context"
	"io/fs"
	"os/user"
	"strconv"
	"strings"
	"time"

	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/relay"
	"drvsock/internal/socket"
	"drvsock/internal/wire"
)

// general reports whether a request is for package socket: anything but the
// sockets of a program that runs on the guest, which are made as it asks.
func general(r *wire.Request) bool { return r.Network != wire.NetUnix || r.Replace }

// busy is how long a connect that must not wait may look for room in a backlog
// or a free instance of a pipe: one try.
const busy = 5 * time.Millisecond

// maxAddress is what an answer has room for, beside its other fields.
const maxAddress = wire.MaxAnswer - 64

// dialGeneral carries out KindConnect by package socket.
func (s *server) dialGeneral(ctx context.Context, r *wire.Request) (relay.Conn, error) {
	if r.From != 0 {
		return nil, errno.Errorf(errno.EOPNOTSUPP, errno.LayerAgent, "a bound socket connects to Unix sockets alone")
	}
	name, err := s.local(r)
	if err != nil {
		return nil, err
	}
	var limit time.Duration
	switch {
	case r.Nonblock && (r.Network == wire.NetPipe || r.Network == wire.NetUnix):
		limit = busy
	case !r.Nonblock && r.Timeout > 0:
		limit = time.Duration(r.Timeout) * time.Millisecond
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	c, err := socket.Dial(ctx, name)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// bindGeneral carries out KindBind by package socket.
func (s *server) bindGeneral(r *wire.Request) (held, string, error) {
	name, err := s.local(r)
	if err != nil {
		return nil, "", err
	}
	opt := socket.Options{
		Mode: fs.FileMode(r.Mode).Perm(), UID: -1, GID: -1,
		Message: r.Message, Replace: r.Replace, Log: s.log,
	}
	if s.sameUsers {
		opt.UID, opt.GID = int(r.Caller.UID), int(r.Caller.GID)
	}
	for account := range strings.Lines(string(r.Access)) {
		if account = strings.TrimRight(account, "\n"); account != "" {
			opt.Access = append(opt.Access, account)
		}
	}
	l, err := socket.Listen(name, opt)
	if err != nil {
		return nil, "", err
	}
	address := l.Addr()
	if len(address) > maxAddress {
		address = "" // a path, which the guest knows but for its variables
	}
	return listening{l, s.log}, address, nil
}

// local returns the endpoint that a request means on this system.
func (s *server) local(r *wire.Request) (endpoint.Name, error) {
	n := endpoint.Name{Side: endpoint.Host, Network: r.Network, Path: string(r.Path)}
	var err error
	switch r.Network {
	case wire.NetUnix, wire.NetAssuan, wire.NetCygwin:
		if n.Path, err = socket.Expand(n.Path); err == nil {
			n.Path, err = s.host.file(n.Path)
		}
	case wire.NetPipe:
		n.Path, err = socket.Expand(n.Path)
	}
	return n, err
}

// announced is what the guest learns of a caller: its process and account. Ids of
// one system mean nothing to the other.
func announced(c wire.Caller) wire.Caller {
	if c.User == "" && c.UID != socket.NoID && c != (wire.Caller{}) {
		c.User = accountOf(c.UID)
	}
	c.UID, c.GID = 0, 0
	return c
}

// accountOf names a user of this system, by its number where it has no name.
func accountOf(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
