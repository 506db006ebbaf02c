package agent

import (
	"context"
	"net"

	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/proof"
	"drvsock/internal/wire"
)

// further carries out KindLink: it listens for another link, and serves it until
// the request's stream ends.
func (s *server) further(in *link.Incoming) error {
	if s.cfg.Listen == nil {
		return errno.Errorf(errno.EOPNOTSUPP, errno.LayerAgent, "no further link from here")
	}
	if !s.furthering.CompareAndSwap(false, true) {
		return errno.Errorf(errno.EBUSY, errno.LayerAgent, "a further link is there already, or being made")
	}
	defer s.furthering.Store(false)
	ln, address, err := s.cfg.Listen(string(in.Request.Path))
	if err != nil {
		return err
	}
	stream, err := in.Accept(wire.Answer{Address: []byte(address)})
	if err != nil {
		_ = ln.Close()
		return nil
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	held := make(chan struct{})
	go func() {
		defer close(held)
		_ = hold(stream)
		cancel()
	}()
	conn, err := admit(ctx, ln, proof.Secret(in.Request.Secret), s.log)
	if err != nil {
		stream.Reset(errno.FromSystem(err, errno.LayerAgent))
	} else {
		s.serveFurther(ctx, conn, address)
		_ = stream.Close()
	}
	<-held
	return nil
}

// serveFurther serves a further link, which ends with ctx.
func (s *server) serveFurther(ctx context.Context, conn net.Conn, address string) {
	cfg := s.cfg
	cfg.Listen, cfg.Stop, cfg.Log = nil, ctx.Done(), s.log.With("port", address)
	if err := Serve(conn, cfg); err != nil {
		cfg.Log.Warn("further link", "err", err)
	}
}
