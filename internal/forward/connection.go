package forward

import (
	"context"
	"time"

	"drvsock/internal/endpoint"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/relay"
	"drvsock/internal/socket"
	"drvsock/internal/sshagent"
	"drvsock/internal/wire"
)

// A connection is an open one.
type connection struct {
	caller Caller
	bytes  func() (in, out uint64) // from the client, and to it
	end    func()                  // ends it abruptly
}

// fromGuest serves a client of a guest listener. It holds a place in opening.
func (f *forward) fromGuest(c relay.Conn, who wire.Caller) {
	caller, target, err := f.open(endpoint.Guest, who, f.set.ctx)
	<-f.opening
	if err != nil {
		reset(c) // of an AF_UNIX client only if it has written already (unix_release_sock)
		return
	}
	f.joined(caller, c, target)
}

// fromHost serves a client of a host listener.
func (f *forward) fromHost(in *link.Incoming) {
	if in.Request.Kind != wire.KindAccepted {
		in.Refuse(errno.Errorf(errno.EOPNOTSUPP, errno.LayerGuest, "request %d is not for a forward", in.Request.Kind))
		return
	}
	if f.ctx.Err() != nil || !f.set.enter() {
		in.Refuse(errno.Errorf(errno.ECONNREFUSED, errno.LayerGuest, "the forward is removed"))
		return
	}
	defer f.set.work.Done()
	select {
	case f.opening <- struct{}{}:
	default:
		err := errno.Errorf(errno.EAGAIN, errno.LayerGuest, "%d connections wait to be opened", maxOpening)
		f.lose(err)
		in.Refuse(err)
		return
	}
	ctx, cancel := context.WithCancel(f.set.ctx)
	unhook := context.AfterFunc(in.Context(), cancel)
	caller, target, err := f.open(endpoint.Host, in.Request.Caller, ctx)
	unhook()
	cancel()
	<-f.opening
	if err != nil {
		in.Refuse(err)
		return
	}
	client, err := in.Accept(wire.Answer{})
	if err != nil {
		f.lose(err)
		reset(target)
		return
	}
	f.joined(caller, client, target)
}

// open checks the client and connects to the target.
func (f *forward) open(side endpoint.Side, who wire.Caller, ctx context.Context) (Caller, relay.Conn, error) {
	caller := f.identify(side, who)
	if err := f.allow(caller); err != nil {
		f.refuse(caller, err)
		return caller, nil, err
	}
	target, err := f.dial(ctx, who)
	if err != nil {
		f.lose(err)
		f.log.Warn("not connected", append(caller.attrs(), "to", f.cfg.Connect, "err", err)...)
		return caller, nil, err
	}
	f.log.Info("connection", caller.attrs()...)
	return caller, target, nil
}

// refuse counts a client that may not connect.
func (f *forward) refuse(c Caller, why error) {
	f.mu.Lock()
	f.refused++
	f.lastError = newError(why)
	f.mu.Unlock()
	f.log.Warn("refused", append(c.attrs(), "err", why)...)
}

// lose counts a connection that was not opened.
func (f *forward) lose(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed++
	f.lastError = newError(err)
}

// dial connects to the target on behalf of who, through the filter if there is
// need of it.
func (f *forward) dial(ctx context.Context, who wire.Caller) (relay.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	filter, err := f.mustFilter(ctx)
	if err != nil {
		return nil, layered(err)
	}
	c, err := f.connect(ctx, who)
	if err == nil && filter {
		c = filtered{c}
	}
	return c, layered(err)
}

func (f *forward) connect(ctx context.Context, who wire.Caller) (relay.Conn, error) {
	if f.to.Side == endpoint.Guest {
		c, err := socket.Dial(ctx, f.to)
		if err != nil {
			return nil, errno.FromSystem(err, errno.LayerGuest)
		}
		return c, nil
	}
	s, _, err := f.set.host.Open(ctx, wire.Request{
		Kind: wire.KindConnect, Network: f.to.Network, Path: []byte(f.to.Path), Caller: who,
		Timeout: uint32(dialTimeout / time.Millisecond),
		Replace: f.to.Network == wire.NetUnix, // for the variables in the path
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// joined has join done on a stack of its own: that of the caller, who is in the set's
// work, has grown by what opening took, and would be kept as long as the connection.
func (f *forward) joined(caller Caller, client, target relay.Conn) {
	f.set.work.Go(func() { f.join(caller, client, target) })
}

// join relays between client and target until they are over. It owns both.
func (f *forward) join(caller Caller, client, target relay.Conn) {
	c := &connection{caller: caller}
	var relayed func() error
	cs, clientIsStream := client.(*link.Stream)
	ts, targetIsStream := target.(*link.Stream)
	old, closes := target.(filtered)
	switch {
	case closes:
		cc := &counted{Conn: client}
		c.bytes = cc.bytes
		c.end = func() { reset(client); reset(old.Conn) }
		relayed = func() error { return sshagent.Filter(cc, old.Conn) }
	case clientIsStream && targetIsStream:
		c.bytes = cs.Bytes
		c.end = func() { reset(cs) }
		relayed = func() error { return relay.Bridge(cs, ts) }
	case clientIsStream:
		c.bytes = cs.Bytes
		c.end = func() { reset(cs) }
		relayed = func() error { return relay.Join(target, cs) }
	case targetIsStream:
		c.bytes = func() (in, out uint64) { out, in = ts.Bytes(); return in, out }
		c.end = func() { reset(ts) }
		relayed = func() error { return relay.Join(client, ts) }
	default:
		tally := new(relay.Tally)
		c.bytes = func() (in, out uint64) { return tally.AToB.Load(), tally.BToA.Load() }
		c.end = func() { reset(client); reset(target) }
		relayed = func() error { return relay.Local(client, target, tally) }
	}
	if !f.begin(c) {
		reset(client) // both, as nothing joins the two
		reset(target)
		return
	}
	err := relayed()
	f.over(c)
	if err != nil {
		f.log.Debug("connection ended", append(caller.attrs(), "err", err)...)
	}
}

// reset ends a connection at once, for the far program with ECONNRESET where it
// can be told.
func reset(c relay.Conn) {
	if t, ok := c.(filtered); ok {
		c = t.Conn
	}
	if s, ok := c.(*link.Stream); ok {
		s.Reset(errno.Errorf(errno.ECONNRESET, errno.LayerGuest, "drvsock ends"))
		return
	}
	if a, ok := c.(interface{ Abort() }); ok {
		a.Abort()
	}
	_ = c.Close()
}

// begin counts a connection as open; false after Set.Close.
func (f *forward) begin(c *connection) bool {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	if f.set.conns == nil {
		return false
	}
	f.set.conns[c] = struct{}{}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[c] = struct{}{}
	f.total++
	return true
}

func (f *forward) over(c *connection) {
	f.set.mu.Lock()
	delete(f.set.conns, c)
	f.set.mu.Unlock()
	in, out := c.bytes()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
	f.in += in
	f.out += out
}
