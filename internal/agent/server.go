package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"drvsock/internal/afunix"
	"drvsock/internal/errno"
	"drvsock/internal/link"
	"drvsock/internal/relay"
	"drvsock/internal/wire"
)

// maxBacklog bounds the connections of one listener that wait for the guest's
// answer. It is Linux's own default bound (net.core.somaxconn since 5.4).
const maxBacklog = 4096

// server is the state of one link.
type server struct {
	host      *host
	log       *slog.Logger
	sameUsers bool // Config.SameUsers
	cfg       Config

	furthering atomic.Bool // a KindLink is under way

	ready chan struct{} // closed when link is set
	link  *link.Link

	ctx    context.Context // ends with the link
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine that holds a socket

	mu      sync.Mutex
	ended   bool
	handles map[uint32]*handle
}

// handle is a socket that the guest bound, known by the stream of its request.
type handle struct {
	id   uint32
	sock held

	ctx    context.Context // ends with the stream
	cancel context.CancelFunc

	mu        sync.Mutex
	accepting bool
}

func newServer(h *host, cfg Config) *server {
	s := &server{host: h, log: cfg.Log, sameUsers: cfg.SameUsers, cfg: cfg, ready: make(chan struct{}), handles: make(map[uint32]*handle)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// start gives the server its link, which calls handle before link.New returns.
func (s *server) start(l *link.Link) {
	s.link = l
	close(s.ready)
}

// end waits for the goroutines of the link's requests, which undo what they made:
// with the link, all streams have ended.
func (s *server) end(limit time.Duration) {
	s.cancel()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.log.Warn("connections outlive the link", "waited", limit)
	}
}

// enter counts a goroutine, unless the server is ending.
func (s *server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.wg.Add(1)
	return true
}

// handle answers one request. The link calls it in a goroutine of its own.
func (s *server) handle(in *link.Incoming) {
	select {
	case <-s.ready:
	case <-in.Context().Done():
		return
	}
	if !s.enter() {
		in.Refuse(errno.Errorf(errno.ECONNABORTED, errno.LayerAgent, "the agent is ending"))
		return
	}
	defer s.wg.Done()
	var err error
	switch in.Request.Kind {
	case wire.KindConnect:
		err = s.connect(in)
	case wire.KindBind:
		err = s.bind(in)
	case wire.KindListen:
		err = s.listen(in)
	case wire.KindStat:
		err = s.stat(in)
	case wire.KindUnlink:
		err = s.unlink(in)
	case wire.KindLink:
		err = s.further(in)
	default:
		err = errno.Errorf(errno.EOPNOTSUPP, errno.LayerAgent, "request kind %d is not known to this agent", in.Request.Kind)
	}
	if err == nil {
		return
	}
	e := errno.FromSystem(err, errno.LayerHost)
	r := &in.Request
	s.log.Info("refused", "kind", uint8(r.Kind), "path", string(r.Path), "program", r.Caller.Program,
		"pid", r.Caller.PID, "uid", r.Caller.UID, "error", e.Error())
	in.Refuse(e)
}

// connect carries out KindConnect and, once it has answered, relays.
func (s *server) connect(in *link.Incoming) error {
	r := &in.Request
	opt := afunix.Wait{Never: r.Nonblock, Limit: time.Duration(r.Timeout) * time.Millisecond}
	var conn relay.Conn
	var err error
	switch {
	case general(r):
		conn, err = s.dialGeneral(in.Context(), r)
	case r.From != 0:
		h, herr := s.find(r.From)
		if herr != nil {
			return herr
		}
		conn, err = h.sock.connect(in.Context(), r.Path, opt)
	default:
		conn, err = s.host.dial(in.Context(), r.Path, opt)
	}
	if err != nil {
		return err
	}
	stream, err := in.Accept(wire.Answer{})
	if err != nil {
		abort(conn)
		return nil
	}
	s.relay(conn, stream)
	return nil
}

// relay joins both and owns them.
func (s *server) relay(conn relay.Conn, stream *link.Stream) {
	if err := relay.Join(conn, stream); err != nil {
		s.log.Debug("connection ended", "stream", stream.ID(), "error", err)
	}
}

// bind carries out KindBind and holds the socket until its stream ends.
func (s *server) bind(in *link.Incoming) error {
	sock, address, err := s.make(&in.Request)
	if err != nil {
		return err
	}
	h := &handle{id: in.ID, sock: sock}
	h.ctx, h.cancel = context.WithCancel(s.ctx)
	if !s.register(h) {
		s.discard(h)
		return errno.Errorf(errno.ECONNABORTED, errno.LayerAgent, "the agent is ending")
	}
	// Registered first: the guest may refer to the handle as soon as it has
	// the answer.
	stream, err := in.Accept(wire.Answer{Address: []byte(address)})
	if err != nil {
		s.forget(h)
		s.discard(h) // nobody learnt that the file was made
		return nil
	}
	err = hold(stream)
	s.forget(h)
	if errors.Is(err, io.EOF) {
		h.cancel()
		h.sock.close() // and a program's file stays, as an operating system leaves it
	} else {
		s.discard(h) // the guest takes the bind back, or the link is lost
	}
	_ = stream.Close()
	return nil
}

// make makes what KindBind asks for, and returns its address if that is news.
func (s *server) make(r *wire.Request) (sock held, address string, err error) {
	if general(r) {
		return s.bindGeneral(r)
	}
	opt := bindOptions{mode: r.Mode}
	if s.sameUsers {
		opt.owner = &owner{r.Caller.UID, r.Caller.GID}
	}
	u, err := s.host.bind(r.Path, r.Name, opt)
	if err != nil {
		return nil, "", err
	}
	return program{u}, "", nil
}

// hold waits until the guest ends a stream that carries no bytes.
func hold(stream *link.Stream) error {
	var b [1]byte
	n, err := stream.Read(b[:])
	if n > 0 {
		err = errno.Errorf(errno.EPROTO, errno.LayerAgent, "a handle's stream carries no bytes")
		stream.Reset(err)
	}
	return err
}

func (s *server) register(h *handle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.handles[h.id] = h
	return true
}

// forget takes h out of the table.
func (s *server) forget(h *handle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, h.id)
}

func (s *server) find(id uint32) (*handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.handles[id]; h != nil {
		return h, nil
	}
	return nil, errno.Errorf(errno.EBADF, errno.LayerAgent, "stream %d is no bound socket", id)
}

// owner returns the handle whose socket file lies at path, or nil.
func (s *server) owner(path []byte) *handle {
	s.mu.Lock()
	handles := make([]*handle, 0, len(s.handles))
	for _, h := range s.handles {
		handles = append(handles, h)
	}
	s.mu.Unlock()
	for _, h := range handles {
		if h.sock.at(s.host, path) {
			return h
		}
	}
	return nil
}

// discard removes h's file if it still is h's, and closes h. In this order: as
// long as the socket is open, no other file can get its file's identity.
func (s *server) discard(h *handle) {
	h.cancel()
	if err := h.sock.removeOwn(); err != nil {
		s.log.Warn("socket file stays", "error", err)
	}
	h.sock.close()
}

// stat carries out KindStat.
func (s *server) stat(in *link.Incoming) error {
	st, err := s.host.stat(in.Request.Path)
	if err != nil {
		return err
	}
	// A Windows before 1909 makes sockets that look as plain files.
	if !st.Socket && !st.Dir && s.owner(in.Request.Path) != nil {
		st.Socket = true
	}
	return finish(in, wire.Answer{Stat: &st})
}

// unlink carries out KindUnlink.
func (s *server) unlink(in *link.Incoming) error {
	err := s.host.unlink(in.Request.Path)
	if errors.Is(err, errno.ENOTSOCK) {
		if h := s.owner(in.Request.Path); h != nil {
			err = h.sock.removeOwn()
		}
	}
	if err != nil {
		return err
	}
	return finish(in, wire.Answer{})
}

// finish accepts a request whose stream ends at once.
func finish(in *link.Incoming, ans wire.Answer) error {
	stream, err := in.Accept(ans)
	if err == nil {
		_ = stream.Close()
	}
	return nil
}

// orderly returns nil for the end of a link that the guest brought about, were
// it by dying: an agent has no other way to learn that it isn't needed any more,
// and nobody to tell. A guest that is silent or breaks the protocol is an error.
func orderly(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, errno.ECONNRESET) {
		return nil
	}
	return err
}
