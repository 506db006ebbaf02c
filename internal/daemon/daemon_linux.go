package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/forward"
	"drvsock/internal/report"
	"drvsock/internal/transport"
)

// IdleAfter is when a daemon that was only started on demand ends, if nobody
// has needed it since.
const IdleAfter = 60 * time.Second

// endWithin bounds the end of everything.
const endWithin = 5 * time.Second

// A Config says how the daemon runs.
type Config struct {
	// Agent, if not nil, is how the default agent is reached, whatever the file
	// says. Its folders are absolute.
	Agent *config.Agent
	// File is the path of the configuration, and Load reads it; there need not be
	// a file.
	File string
	Load func() (*config.File, error)
	// Folder is the daemon's own, which stays the caller's.
	Folder *control.Folder
	// Listener, if not nil, takes the place of the control socket in Folder: a
	// service manager made it, and it is not removed at the end.
	Listener *net.UnixListener
	// OnDemand lets the daemon end when it has been of no use for IdleAfter (0: the
	// constant).
	OnDemand  bool
	IdleAfter time.Duration
	// Log gets what is worth saying. In the Background it is the log file in
	// Folder that gets it, from Level.
	Log        *slog.Logger
	Level      slog.Level
	Background bool
	// Ready, if not nil, is called when the control socket is served and guest
	// listeners listen.
	Ready func()
	// Stop and Hup are channels of signals to end, and to read the file again; nil
	// never fire.
	Stop, Hup <-chan os.Signal

	way way // nil: commands
}

// member is an agent with its forwards.
type member struct {
	*agent
	set *forward.Set
}

// daemon is the state of the process.
type daemon struct {
	cfg     Config
	log     *slog.Logger
	drives  *drives
	started time.Time
	ctx     context.Context // ends when the daemon is to end
	end     context.CancelFunc
	ended   chan struct{} // closed when links, listeners and sessions are gone
	manager manager

	mounts mounts

	reading sync.Mutex          // one reload at a time, so that the file's last state counts
	edit    sync.Mutex          // one change of agents, forwards and mounts at a time
	saved   map[string]*mounted // those that the configuration brought about

	mu        sync.Mutex
	members   map[string]*member
	sessions  map[*session]struct{}
	stays     bool
	busy      int // calls under way
	used      time.Time
	configErr error
}

// Signals returns the channels for Config.Stop and Config.Hup.
func Signals() (stop, hup <-chan os.Signal) {
	s, h := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(s, unix.SIGTERM, unix.SIGINT)
	signal.Notify(h, unix.SIGHUP)
	return s, h
}

// Run is the daemon until somebody ends it. The error says why it did not begin.
func Run(cfg Config) error {
	if cfg.Ready == nil {
		cfg.Ready = func() {}
	}
	if cfg.IdleAfter == 0 {
		cfg.IdleAfter = IdleAfter
	}
	d := &daemon{
		cfg: cfg, log: cfg.Log, started: time.Now(), ended: make(chan struct{}), stays: !cfg.OnDemand, used: time.Now(),
		members: map[string]*member{}, sessions: map[*session]struct{}{},
		mounts: mounts{all: map[string]*mounted{}}, saved: map[string]*mounted{},
	}
	d.ctx, d.end = context.WithCancel(context.Background())
	defer d.end()
	return d.run()
}

func (d *daemon) run() error {
	lock, err := d.cfg.Folder.Lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if d.cfg.Background {
		j, err := OpenJournal(d.cfg.Folder)
		if err != nil {
			return err
		}
		d.log = report.NewLog(j, d.cfg.Level)
	}
	file, err := d.cfg.Load()
	if err != nil {
		return err
	}
	if d.drives, err = newDrives(); err != nil {
		return err
	}
	defer d.drives.close()
	if d.cfg.Agent != nil {
		// Said by a person who waits for the answer, unlike the file's words.
		plan, err := transport.NewPlan(*d.cfg.Agent)
		if err == nil {
			err = d.drives.check(plan)
		}
		if err != nil {
			return err
		}
	}
	// Before new ones are laid, which nobody is to take for these.
	repairDead(d.log)
	var partly notApplied // the status has them
	if err := d.apply(file); err != nil && !errors.As(err, &partly) {
		d.close()
		return err
	}
	ln := d.cfg.Listener
	if ln == nil {
		if ln, err = d.cfg.Folder.Listen(); err != nil {
			d.close()
			return err
		}
		defer d.cfg.Folder.Remove()
	}
	c := &reachable{d: d, lock: lock, failed: make(chan error, 1)}
	c.serve(ln)
	d.log.Info("daemon runs", "pid", os.Getpid(), "socket", d.socket())
	d.cfg.Ready()
	d.manager.ready(d.words())
	d.pokeAll()
	why := d.attend(c)
	d.log.Info("daemon ends", "reason", why)
	d.manager.stopping()
	d.end()
	if d.cfg.Listener == nil {
		d.cfg.Folder.Remove() // who comes now waits for the lock, and starts another one
	}
	d.close()
	close(d.ended)
	c.serving.Wait()
	return nil
}

// reachable is how clients come to the daemon.
type reachable struct {
	d       *daemon
	lock    *control.Lock
	ln      *net.UnixListener
	serving sync.WaitGroup // the calls of all listeners
	failed  chan error     // why calls can't be taken any more
}

func (c *reachable) serve(ln *net.UnixListener) {
	c.ln = ln
	c.serving.Go(func() {
		err := control.Serve(c.d.ctx, ln, c.d.log, c.d.call)
		if err != nil && !errors.Is(err, net.ErrClosed) {
			select {
			case c.failed <- err:
			default:
			}
		}
	})
}

// mend makes a control socket that was removed anew: whoever cleans up temporary
// files would have left a daemon that nobody can ask or end. A service manager looks
// after its own.
func (c *reachable) mend() error {
	if c.d.cfg.Listener != nil {
		return nil
	}
	ln, err := c.d.cfg.Folder.Restore(c.lock)
	if err != nil || ln == nil {
		return err
	}
	c.d.log.Warn("control socket was removed, and is made anew", "socket", c.d.cfg.Folder.Socket())
	_ = c.ln.Close() // calls that it brought go on
	c.serve(ln)
	return nil
}

// attend waits for the daemon's end and says what brought it.
func (d *daemon) attend(c *reachable) string {
	tick := time.NewTicker(max(d.cfg.IdleAfter/10, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case s := <-d.cfg.Stop:
			return s.String()
		case <-d.ctx.Done():
			return "asked for"
		case err := <-c.failed:
			return err.Error()
		case <-d.cfg.Hup:
			if _, err := d.reload(); err != nil {
				d.log.Error("configuration not read again", "err", err)
			}
		case <-tick.C:
			if d.idle() {
				return "nobody needs it"
			}
			if err := c.mend(); err != nil {
				return err.Error()
			}
		}
	}
}

// enter counts a call, unless the daemon is ending: whoever comes then asks
// another one.
func (d *daemon) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return false
	}
	d.busy++
	return true
}

func (d *daemon) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy--
	d.used = time.Now()
}

// idle ends the daemon if nobody needs it, and tells whether it did. No call
// gets in between the two.
func (d *daemon) idle() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stays || d.busy > 0 || len(d.sessions) > 0 {
		d.used = time.Now()
	}
	for _, m := range d.members {
		if len(m.set.Status()) > 0 {
			d.used = time.Now()
		}
	}
	if len(d.mounts.live()) > 0 {
		d.used = time.Now()
	}
	if time.Since(d.used) < d.cfg.IdleAfter {
		return false
	}
	d.end()
	return true
}

// close ends sessions, forwards and links, within endWithin.
func (d *daemon) close() {
	// Whoever changes agents and forwards may wait for a link, and stops that
	// when there is none to come.
	hurry := time.AfterFunc(endWithin/10, func() {
		for _, m := range d.snapshot() {
			m.cancel()
		}
	})
	d.edit.Lock()
	defer d.edit.Unlock()
	hurry.Stop()
	d.mounts.end()
	d.mu.Lock()
	members := d.members
	d.members = map[string]*member{}
	d.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for _, m := range members {
			wg.Go(func() { d.dismiss(m) })
		}
		wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(endWithin):
		d.log.Warn("not everything has ended", "waited", endWithin)
	}
}

// dismiss ends an agent. Its forwards go first, so that it removes their
// listeners in an orderly way.
func (d *daemon) dismiss(m *member) {
	m.set.Close()
	m.close()
}

// member finds an agent.
func (d *daemon) member(name string) (*member, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.members[name]; m != nil {
		return m, nil
	}
	if d.ctx.Err() != nil {
		return nil, control.ErrEnding
	}
	return nil, fmt.Errorf("no agent is named %q in %s", name, d.cfg.File)
}

// all lists the agents, the default one first and the others by name.
func (d *daemon) all() []*member {
	d.mu.Lock()
	defer d.mu.Unlock()
	return sorted(d.members)
}

func (d *daemon) pokeAll() {
	for _, m := range d.all() {
		m.poke()
	}
}

// words is the daemon's state in a line, for the service manager.
func (d *daemon) words() string {
	up, forwards := 0, 0
	all := d.all()
	for _, m := range all {
		if m.status().State == control.LinkUp {
			up++
		}
		forwards += len(m.set.Status())
	}
	st := d.status()
	return fmt.Sprintf("%d of %d links up, %d forwards, %d mounts, %d sessions", up, len(all), forwards, len(st.Mounts), len(st.Sessions))
}

var errAgents = errors.New("the daemon has other agents now")
