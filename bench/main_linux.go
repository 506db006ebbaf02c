package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

func main() {
	runtime.LockOSThread() // the signal that ends our children is tied to this thread
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "server":
		err = server(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "client":
		err = client(os.Args[2])
	case len(os.Args) == 5 && os.Args[1] == "yamux-near":
		err = yamuxNear(os.Args[2], os.Args[3], os.Args[4])
	case len(os.Args) == 3 && os.Args[1] == "yamux-far":
		err = yamuxFar(os.Args[2])
	default:
		err = bench()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	rounds int
	scale  float64
	json   string
	only   string
	svg    string
	idle   int
	peers  bool
	also   map[string]string // further builds of drvsock by name
}

func bench() error {
	o := options{also: map[string]string{}}
	var binary string
	flag.IntVar(&o.rounds, "rounds", 7, "rounds")
	flag.Float64Var(&o.scale, "scale", 1, "size of each measurement")
	flag.StringVar(&o.json, "json", "", "also write the numbers as JSON to this `file`")
	flag.StringVar(&o.svg, "svg", "", "also draw them into this `file`")
	flag.StringVar(&o.only, "only", "", "measure only what these comma-separated `words` name: connect,trip,beside,up,down,unread")
	flag.IntVar(&o.idle, "idle", 0, "measure instead the memory that this many idle connections take")
	flag.BoolVar(&o.peers, "peers", false, "also measure ssh -L, a chain on yamux, and a process for each connection")
	flag.StringVar(&binary, "binary", "", "drvsock `program` to measure (default: built from this tree)")
	flag.Func("also", "`NAME=PROGRAM`: one more build of drvsock, in the same rounds", func(s string) error {
		name, program, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("want NAME=PROGRAM")
		}
		o.also[name] = program
		return nil
	})
	flag.Parse()

	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	host, hop, fwd := filepath.Join(dir, "host"), filepath.Join(dir, "socat"), filepath.Join(dir, "forward")
	for _, d := range []string{host, hop, fwd} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if binary == "" {
		binary = filepath.Join(dir, "drvsock")
		build := exec.Command("go", "build", "-trimpath", "-o", binary, "drvsock/cmd/drvsock")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build of drvsock: %w", err)
		}
	}
	// Absolute, because the command of drvsock run is looked up from there.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	srv, err := start(append(quiet[:len(quiet):len(quiet)], self, "server", host)...)
	if err != nil {
		return err
	}
	defer srv.end(false)
	if _, err := srv.line(); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	if o.idle > 0 {
		return idles(o.idle, binary, self, host, dir, fwd)
	}
	d, err := startDaemon(binary, host, filepath.Join(dir, "daemon"))
	if err != nil {
		return err
	}
	defer d.p.end(true) // after the contestants, which are deferred later
	var cs []*contestant
	defer func() {
		for _, c := range cs {
			c.end()
		}
	}()
	join := func(c *contestant, err error) error {
		if err == nil {
			cs = append(cs, c)
		}
		return err
	}
	if err := join(native(self, host)); err != nil {
		return err
	}
	if err := join(socat(self, host, hop)); err != nil {
		return err
	}
	if err := join(drvsock("drvsock", binary, self, host)); err != nil {
		return err
	}
	if err := join(d.run(self, host)); err != nil {
		return err
	}
	if err := join(d.forward(self, fwd)); err != nil {
		return err
	}
	if o.peers {
		for name, peer := range map[string]func(self, host, dir string) (*contestant, error){
			"each": perConnection, "yamux": overYamux, "ssh": overSSH,
		} {
			own := filepath.Join(dir, name)
			if err := os.Mkdir(own, 0o700); err != nil {
				return err
			}
			if err := join(peer(self, host, own)); err != nil {
				return err
			}
		}
	}
	for name, program := range o.also {
		if err := join(drvsock(name, program, self, host)); err != nil {
			return err
		}
	}
	r, err := o.measure(cs)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	if o.svg != "" {
		if err := r.writeSVG(o.svg); err != nil {
			return err
		}
	}
	if o.json != "" {
		return r.writeJSON(o.json)
	}
	return nil
}

// measure has the contestants take turns, measurement by measurement. The first
// round only warms up.
func (o *options) measure(cs []*contestant) (*report, error) {
	r := newReport(cs, o.rounds)
	turns := append([]*contestant(nil), cs...)
	for round := range o.rounds + 1 {
		scale := o.scale
		if round == 0 {
			scale = min(scale, 0.1)
		}
		for _, m := range measurements(scale) {
			if o.only != "" && !strings.Contains(","+o.only+",", ","+m.order.Do+",") {
				continue
			}
			rand.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
			for _, c := range turns {
				ns, err := c.do(m.order)
				if err != nil {
					return nil, err
				}
				if round == 0 {
					continue
				}
				for _, f := range m.figures {
					r.add(f, c.name, f.of(ns))
				}
			}
		}
	}
	r.finish()
	return r, nil
}
