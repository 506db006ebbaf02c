package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// The two sides, as the transcript calls them.
const (
	host  = "host"
	guest = "guest"
)

func run(ctx context.Context, o Options) (*Report, error) {
	if o.Out == nil {
		o.Out = io.Discard
	}
	st := &stage{}
	r, err := play(ctx, o, st)
	err = errors.Join(err, st.strike())
	if ctx.Err() != nil {
		err = errors.Join(errors.New("interrupted"), err)
	}
	if err != nil {
		return nil, err
	}
	if r == nil {
		return elsewhere(ctx, o)
	}
	r.OK = r.Expected() == len(r.Steps)
	fmt.Fprintln(o.Out)
	for _, l := range r.LeftOut {
		fmt.Fprintf(o.Out, "demo: left out: %s\n", l)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(o.Out, "demo: note: %s\n", n)
	}
	fmt.Fprintf(o.Out, "demo: %d of %d steps as expected\n", r.Expected(), len(r.Steps))
	return r, nil
}

// play returns no report if it is worth trying elsewhere.
func play(ctx context.Context, o Options, st *stage) (*Report, error) {
	if err := st.set(o); err != nil {
		return nil, err
	}
	if st.fs == nil && worthMoving() {
		return nil, nil
	}
	p := &player{ctx: ctx, stage: st, out: o.Out, report: &Report{Steps: []Step{}, LeftOut: []string{}, Notes: []string{}}}
	if o.Wine == "" {
		p.say("HOST=%s   plays the Windows drive C:", st.host)
	} else {
		p.say("HOST=%s   is drive C: of Wine", st.host)
	}
	if st.fs != nil {
		p.say("VIEW=%s   shows it to the guest as WSL 2 would", st.view)
	} else {
		p.say("VIEW=$HOST   the guest sees it as it is")
	}
	w := p.embedded()
	if o.Wine != "" {
		w = p.wine(o)
	}
	return p.report, p.story(w)
}

// lines of the programs, as the kernel answers them on one machine.
var (
	peerOfClient = "client: connected, getpeername says server.sock (14 bytes)"
	gotGreeting  = fmt.Sprintf("client: received %d bytes: %s", len(greeting), greeting)
	sentGreeting = fmt.Sprintf("server: sent %d bytes", len(greeting))
	listening    = "server: listening, getsockname says server.sock (14 bytes)"
	bound        = expect{0, []string{"bind: bound, getsockname says bind.sock (12 bytes)"}}
	denied       = expect{1, []string{"bind: bind bind.sock: permission denied (EACCES)"}}
)

// ways are what differs between the hosts that can be played.
type ways struct {
	run            string // the command line before a program of the guest
	server, client string // commands of the host
	fromServer     expect // what the host's server says
	fromClient     expect // what the host's client says
	accepted       string // what the guest's server says of that client
}

func (p *player) embedded() ways {
	w := ways{
		run: "drvsock run --embed C=$HOST:$VIEW --", server: "server", client: "client client.sock",
		fromServer: expect{0, []string{listening, "server: accepted a client, its name is empty (2 bytes)", sentGreeting}},
		fromClient: expect{0, []string{"client: bound, getsockname says client.sock (14 bytes)", peerOfClient, gotGreeting}},
		accepted:   "server: accepted a client, its name is client.sock (14 bytes)",
	}
	if p.stage.fs == nil {
		w.run = "drvsock run --embed C=$HOST --"
	}
	return w
}

func (p *player) wine(o Options) ways {
	p.report.Notes = append(p.report.Notes,
		"these are real Windows programs: drvsock.exe with the Windows calls that it makes, paths and the link through its standard streams",
		"but Wine is no Windows: it has no AF_UNIX of its own, the rig's stand-in for ws2_32.dll plays it, "+
			"and nothing here shows what afunix.sys, NTFS or WSL's interop do")
	w := ways{
		run: "drvsock run --no-daemon --drive C=$VIEW --", server: "server.exe", client: "client.exe",
		fromServer: expect{0, []string{"server: listening, its address is server.sock", "server: accepted a client, its name is *", sentGreeting}},
		fromClient: expect{0, []string{"client: connected, the peer's address is *server.sock", gotGreeting}},
		accepted:   "server: accepted a client, its name is *",
	}
	if o.Server != "" {
		w.fromServer = expect{0, nil}
	}
	return w
}

func (p *player) story(w ways) error {
	work := p.stage.work
	server := func(side, prefix, name string) Command {
		return Command{Side: side, Dir: work, Command: prefix + name}
	}
	got := gotGreeting
	if w.fromServer.lines == nil {
		got = "client: received * bytes: *"
	}
	if p.stage.fs != nil {
		p.act("without drvsock, as in WSL 2: the host's server can't be reached, and no socket can be made", func() {
			s := p.start(host, work, w.server, " &")
			s.ready()
			p.run(guest, work, "client", expect{1, []string{"client: connect server.sock: connection refused (ECONNREFUSED)"}})
			p.run(guest, work, "bind", expect{1, []string{"bind: bind bind.sock: operation not supported (EOPNOTSUPP)"}})
			// It still waits. A client of its own side gets through.
			if !p.run(host, work, w.client, expect{0, w.fromClient.linesWith(gotGreeting, got)}) {
				s.cancel()
			}
			last := w.fromServer
			if w.client != "client.exe" {
				last = expect{0, []string{listening, w.accepted, sentGreeting}}
			}
			s.finish(last)
			p.tidy(work)
		})
	} else {
		p.leave("the failure without drvsock: it needs a view of the drive as WSL 2 shows it: %v", p.stage.viewErr)
	}
	p.act("a server on the host, a client on the guest", func() {
		p.pair(server(host, "", w.server), server(guest, w.run+" ", "client"),
			w.fromServer, expect{0, []string{peerOfClient, got}})
	})
	p.act("a server on the guest, a client on the host", func() {
		p.pair(server(guest, w.run+" ", "server"), server(host, "", w.client),
			expect{0, []string{listening, w.accepted, sentGreeting}}, w.fromClient)
	})
	if w.client == "client.exe" {
		p.leave("the permission samples: here they would be Wine's")
		return nil
	}
	return p.permissions()
}

// linesWith replaces a line.
func (e expect) linesWith(old, with string) []string {
	lines := append([]string(nil), e.lines...)
	for i, l := range lines {
		if l == old {
			lines[i] = with
		}
	}
	return lines
}

func (p *player) leave(format string, args ...any) {
	// Reasons come as errors do; this one is a line of the transcript.
	why := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	p.report.LeftOut = append(p.report.LeftOut, why)
}

// permissions plays the post's samples: either side can say no.
func (p *player) permissions() error {
	if p.stage.accountsErr != nil {
		p.leave("the permission samples: %v", p.stage.accountsErr)
		return nil
	}
	for name, uid := range map[string]int{"system": 0, "linux": linuxUID, "windows": windowsUID} {
		if err := p.stage.owned(name, uid); err != nil {
			return err
		}
	}
	run := "drvsock run --link 'as windows drvsock agent --drive C=$HOST' --drive C=$VIEW -- "
	p.say("\nFrom here on the agent has an account of its own, as it has on Windows: \"as windows CMD\" runs\n" +
		"CMD under it, \"as linux CMD\" under one of the guest.")
	p.act("no permission on Windows: only root may write in this folder, and the guest's root gets no further", func() {
		p.run(guest, "system", run+"bind", denied)
		p.tidy("system")
	})
	p.act("permission on Linux, none on Windows, then granted", func() {
		p.run(guest, "linux", run+"as linux bind", denied)
		p.run(host, "linux", "chmod o+w .", expect{0, []string{}})
		p.run(guest, "linux", run+"as linux bind", bound)
		p.tidy("linux")
	})
	p.act("permission on Windows, none on Linux, then granted", func() {
		p.run(guest, "windows", run+"as linux bind", denied)
		p.run(host, "windows", "chmod o+w .", expect{0, []string{}})
		p.run(guest, "windows", run+"as linux bind", bound)
		p.tidy("windows")
	})
	return nil
}

// worthMoving tells if a user namespace may allow the mount that was refused.
func worthMoving() bool { return os.Geteuid() != 0 && os.Getenv(movedVar) == "" }
