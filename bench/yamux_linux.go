package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/hashicorp/yamux"
)

// pipes is a byte stream of two pipes.
type pipes struct {
	io.Reader
	io.WriteCloser
}

// yamuxNear listens on every service in dir and starts the far end. It ends with
// its stdin.
func yamuxNear(dir, self, host string) error {
	far := exec.Command(self, "yamux-far", host)
	far.Stderr = os.Stderr
	in, err := far.StdinPipe()
	if err != nil {
		return err
	}
	out, err := far.StdoutPipe()
	if err != nil {
		return err
	}
	if err := far.Start(); err != nil {
		return err
	}
	s, err := yamux.Client(pipes{out, in}, yamuxConfig())
	if err != nil {
		return err
	}
	for name := range services {
		l, err := net.Listen("unix", filepath.Join(dir, name+".sock"))
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					stream, err := s.OpenStream()
					if err == nil {
						_, err = fmt.Fprintf(stream, "%-8s", name)
					}
					if err != nil {
						_ = c.Close()
						return
					}
					couple(c.(*net.UnixConn), stream)
				}()
			}
		}()
	}
	var b [1]byte
	_, _ = os.Stdin.Read(b[:])
	_ = s.Close()
	_ = in.Close()
	return far.Wait()
}

// yamuxFar connects to the services in host.
func yamuxFar(host string) error {
	s, err := yamux.Server(pipes{os.Stdin, os.Stdout}, yamuxConfig())
	if err != nil {
		return err
	}
	for {
		stream, err := s.AcceptStream()
		if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			var name [8]byte
			if _, err := io.ReadFull(stream, name[:]); err != nil {
				_ = stream.Close()
				return
			}
			file := filepath.Join(host, string(trimmed(name[:]))+".sock")
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: file, Net: "unix"})
			if err != nil {
				_ = stream.Close()
				return
			}
			couple(c, stream)
		}()
	}
}

func trimmed(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return b
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.MaxStreamWindowSize = 512 << 10 // as ours
	c.LogOutput = io.Discard
	return c
}

// couple copies both ways. Close of a yamux stream is a half-close.
func couple(c *net.UnixConn, s *yamux.Stream) {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(s, c)
		_ = s.Close()
	})
	_, _ = io.Copy(c, s)
	_ = c.CloseWrite()
	wg.Wait()
	_ = c.Close()
}
