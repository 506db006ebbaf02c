package supervise

import (
	"errors"
	"log/slog"
	"sync"

	"drvsock/internal/names"
)

// naming gives sockets their names by a keeper, and starts another one if that
// was killed. The names given stay as they are.
type naming struct {
	spawn names.Spawner
	log   *slog.Logger

	mu     sync.Mutex
	keeper *names.Keeper
	closed bool
}

// startNaming starts the keeper.
func startNaming(spawn names.Spawner, log *slog.Logger) (*naming, error) {
	k, err := names.Start(spawn, log)
	if err != nil {
		return nil, err
	}
	return &naming{spawn: spawn, log: log, keeper: k}, nil
}

// bind is Keeper.Bind.
func (g *naming) bind(fd int, sockaddr []byte) (*names.Name, error) {
	k := g.current()
	name, err := k.Bind(fd, sockaddr)
	if !errors.Is(err, names.ErrUnavailable) {
		return name, err
	}
	g.log.Warn("the name keeper is gone, another one is started", "err", err)
	if k, err = g.replace(k); err != nil {
		return nil, err
	}
	return k.Bind(fd, sockaddr)
}

func (g *naming) current() *names.Keeper {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.keeper
}

// replace starts a keeper in place of old, unless somebody has.
func (g *naming) replace(old *names.Keeper) (*names.Keeper, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keeper != old || g.closed {
		return g.keeper, nil
	}
	k, err := names.Start(g.spawn, g.log)
	if err != nil {
		return nil, err
	}
	_ = old.Close()
	g.keeper = k
	return k, nil
}

func (g *naming) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	_ = g.keeper.Close()
}
