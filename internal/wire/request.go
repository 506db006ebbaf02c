package wire

import (
	"errors"
	"fmt"
)

const (
	requestKind     = 1
	requestPath     = 2
	requestName     = 3
	requestFrom     = 4
	requestBacklog  = 5
	requestMode     = 6
	requestNonblock = 7
	requestTimeout  = 8
	requestPeer     = 9
	requestUID      = 10
	requestGID      = 11
	requestPID      = 12
	requestProgram  = 13
	requestNetwork  = 14
	requestReplace  = 15
	requestMessage  = 16
	requestAccess   = 17
	requestUser     = 18
	requestSecret   = 19
)

// Append appends the request to b. A program's name that is too long is cut;
// any other field that breaks a limit is an error.
func (r *Request) Append(b []byte) ([]byte, error) {
	switch {
	case len(r.Path) > MaxPath:
		return b, fmt.Errorf("path of %d bytes, limit %d", len(r.Path), MaxPath)
	case len(r.Name) > MaxName:
		return b, fmt.Errorf("name of %d bytes, limit %d", len(r.Name), MaxName)
	case len(r.Peer) > MaxPath:
		return b, fmt.Errorf("peer's name of %d bytes, limit %d", len(r.Peer), MaxPath)
	case len(r.Access) > MaxAccess:
		return b, fmt.Errorf("accounts of %d bytes, limit %d", len(r.Access), MaxAccess)
	case len(r.Secret) > SecretSize:
		return b, fmt.Errorf("secret of %d bytes, limit %d", len(r.Secret), SecretSize)
	}
	if err := r.complete(); err != nil {
		return b, err
	}
	b = appendUint(b, requestKind, 1, uint64(r.Kind))
	b = appendBytes(b, requestPath, r.Path)
	b = appendBytes(b, requestName, r.Name)
	b = appendUint(b, requestFrom, 4, uint64(r.From))
	b = appendUint(b, requestBacklog, 4, uint64(r.Backlog))
	b = appendUint(b, requestMode, 4, uint64(r.Mode))
	b = appendFlag(b, requestNonblock, r.Nonblock)
	b = appendUint(b, requestTimeout, 4, uint64(r.Timeout))
	b = appendBytes(b, requestPeer, r.Peer)
	b = appendUint(b, requestUID, 4, uint64(r.Caller.UID))
	b = appendUint(b, requestGID, 4, uint64(r.Caller.GID))
	b = appendUint(b, requestPID, 4, uint64(r.Caller.PID))
	b = appendBytes(b, requestProgram, cut(r.Caller.Program, MaxProgram))
	b = appendUint(b, requestNetwork, 1, uint64(r.Network))
	b = appendFlag(b, requestReplace, r.Replace)
	b = appendFlag(b, requestMessage, r.Message)
	b = appendBytes(b, requestAccess, r.Access)
	b = appendBytes(b, requestUser, cut(r.Caller.User, MaxUser))
	b = appendBytes(b, requestSecret, r.Secret)
	return b, nil
}

// complete checks that what the kind needs is there. An unknown kind is the
// handler's to refuse: a later version may add some.
func (r *Request) complete() error {
	switch r.Kind {
	case 0:
		return errors.New("request without a kind")
	case KindConnect, KindBind, KindStat, KindUnlink:
		if len(r.Path) == 0 && r.Network != NetPageant {
			return fmt.Errorf("%s request without a path", r.Kind)
		}
	case KindListen, KindAccepted:
		if r.From == 0 {
			return fmt.Errorf("%s request without a stream", r.Kind)
		}
	case KindLink:
		if len(r.Secret) != SecretSize {
			return fmt.Errorf("%s request with a secret of %d bytes, want %d", r.Kind, len(r.Secret), SecretSize)
		}
	}
	return nil
}

// ParseRequest reads the payload of an OPEN frame. Nothing in the request
// refers to b.
func ParseRequest(b []byte) (Request, error) {
	var r Request
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case requestKind:
			r.Kind = Kind(f.uint(1))
		case requestPath:
			r.Path = f.bytes(MaxPath)
		case requestName:
			r.Name = f.bytes(MaxName)
		case requestFrom:
			r.From = uint32(f.uint(4))
		case requestBacklog:
			r.Backlog = uint32(f.uint(4))
		case requestMode:
			r.Mode = uint32(f.uint(4))
		case requestNonblock:
			r.Nonblock = f.flag()
		case requestTimeout:
			r.Timeout = uint32(f.uint(4))
		case requestPeer:
			r.Peer = f.bytes(MaxPath)
		case requestUID:
			r.Caller.UID = uint32(f.uint(4))
		case requestGID:
			r.Caller.GID = uint32(f.uint(4))
		case requestPID:
			r.Caller.PID = uint32(f.uint(4))
		case requestProgram:
			r.Caller.Program = string(f.bytes(MaxProgram))
		case requestNetwork:
			r.Network = Network(f.uint(1))
		case requestReplace:
			r.Replace = f.flag()
		case requestMessage:
			r.Message = f.flag()
		case requestAccess:
			r.Access = f.bytes(MaxAccess)
		case requestUser:
			r.Caller.User = string(f.bytes(MaxUser))
		case requestSecret:
			r.Secret = f.bytes(SecretSize)
		}
	}
	if f.err != nil {
		return Request{}, fmt.Errorf("request: %w", f.err)
	}
	if err := r.complete(); err != nil {
		return Request{}, err
	}
	return r, nil
}

// String names the kind as docs/protocol.md does.
func (k Kind) String() string {
	switch k {
	case KindConnect:
		return "connect"
	case KindBind:
		return "bind"
	case KindListen:
		return "listen"
	case KindAccepted:
		return "accepted"
	case KindStat:
		return "stat"
	case KindUnlink:
		return "unlink"
	case KindLink:
		return "link"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}
