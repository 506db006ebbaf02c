package forward

import (
	"os/user"
	"strconv"
	"strings"
	"time"

	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/socket"
	"drvsock/internal/wire"
)

// identify says who a client is, as far as its system tells.
func (f *forward) identify(side endpoint.Side, who wire.Caller) Caller {
	c := Caller{Side: side.String(), PID: who.PID, Program: who.Program, User: who.User, Since: time.Now()}
	if side == endpoint.Guest && who.UID != socket.NoID {
		c.UID = &who.UID
		if who.GID != socket.NoID {
			c.GID = &who.GID
		}
		if u, err := user.LookupId(strconv.FormatUint(uint64(who.UID), 10)); err == nil {
			c.User = u.Username
		}
	}
	return c
}

// attrs are what the log says of a client.
func (c Caller) attrs() []any {
	attrs := []any{"side", c.Side}
	if c.UID != nil {
		attrs = append(attrs, "uid", *c.UID)
	}
	if c.GID != nil {
		attrs = append(attrs, "gid", *c.GID)
	}
	if c.PID != 0 {
		attrs = append(attrs, "pid", c.PID)
	}
	if c.Program != "" {
		attrs = append(attrs, "program", c.Program)
	}
	if c.User != "" {
		attrs = append(attrs, "user", c.User)
	}
	return attrs
}

// allow checks a client against the forward's rule.
func (f *forward) allow(c Caller) error {
	rule := f.cfg.Allow
	if rule == nil {
		return nil
	}
	switch {
	case c.UID != nil:
		for _, u := range rule.User {
			if guestUser(u, *c.UID) {
				return nil
			}
		}
		return errno.Errorf(errno.EACCES, errno.LayerGuest, "uid %d is not in the allow rule", *c.UID)
	case c.Side == endpoint.Host.String() && c.User != "":
		for _, u := range rule.User {
			if hostAccount(u, c.User) {
				return nil
			}
		}
		return errno.Errorf(errno.EACCES, errno.LayerGuest, "account %s is not in the allow rule", c.User)
	}
	return errno.Errorf(errno.EACCES, errno.LayerGuest, "there is an allow rule, and who calls is unknown")
}

// guestUser tells whether rule means uid. The name is looked up each time, since
// a daemon outlives changes of /etc/passwd.
func guestUser(rule string, uid uint32) bool {
	id := rule
	if _, err := strconv.ParseUint(rule, 10, 32); err != nil {
		u, err := user.Lookup(rule)
		if err != nil {
			return false
		}
		id = u.Uid
	}
	n, err := strconv.ParseUint(id, 10, 32)
	return err == nil && uint32(n) == uid
}

// hostAccount tells whether rule means account, such as BOX\alice, or a SID if the
// account has no name. A name without a domain means that name in any.
func hostAccount(rule, account string) bool {
	if strings.EqualFold(rule, account) {
		return true
	}
	_, name, found := strings.Cut(account, `\`)
	return found && !strings.Contains(rule, `\`) && strings.EqualFold(rule, name)
}
