package sshagent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair makes two connected sockets.
func pair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	for _, c := range []*net.UnixConn{a, b} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return a, b
}

func message(number byte, body string) []byte {
	m := binary.BigEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(m, number), body...)
}

// readMessage reads one message; nil at the end.
func readMessage(t testing.TB, r io.Reader) []byte {
	t.Helper()
	h, rest, err := readHeader(r)
	if err == io.EOF {
		return nil
	}
	m := make([]byte, rest)
	if err == nil {
		_, err = io.ReadFull(r, m)
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	return append(h[:], m...)
}

// oldAgent answers a request with its body and a number one higher, and closes
// at an extension. It returns what it was asked.
func oldAgent(c *net.UnixConn) (asked []byte) {
	defer c.Close()
	for {
		h, rest, err := readHeader(c)
		if err != nil || h[lengthBytes] == msgExtension {
			return asked
		}
		body := make([]byte, rest)
		if _, err := io.ReadFull(c, body); err != nil {
			return asked
		}
		asked = append(append(asked, h[:]...), body...)
		if _, err := c.Write(message(h[lengthBytes]+1, string(body))); err != nil {
			return asked
		}
	}
}

// start runs the filter between a client and an agent.
func start(t testing.TB) (client, agent *net.UnixConn, result chan error) {
	t.Helper()
	client, a := pair(t)
	b, agent := pair(t)
	result = make(chan error, 1)
	go func() { result <- Filter(a, b) }()
	return client, agent, result
}

func wait(t testing.TB, result chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the filter goes on")
		return nil
	}
}

func TestFilter(t *testing.T) {
	client, agent, result := start(t)
	asked := make(chan []byte, 1)
	go func() { asked <- oldAgent(agent) }()
	big := strings.Repeat("k", MaxMessage-1)
	requests := [][2][]byte{ // and answers
		{message(27, "\x00\x00\x00\x18session-bind@openssh.comX"), failure},
		{message(11, ""), message(12, "")},
		{message(13, "sign"), message(14, "sign")},
		{message(27, ""), failure},
		{message(27, big), failure},
		{message(17, big), message(18, big)},
		{message(27, "x"), failure},
	}
	var want, passed []byte
	var work sync.WaitGroup
	work.Go(func() { // all at once, before any answer
		for _, r := range requests {
			if _, err := client.Write(r[0]); err != nil {
				t.Error(err)
			}
		}
		_ = client.CloseWrite()
	})
	for _, r := range requests {
		want = append(want, r[1]...)
		if r[0][lengthBytes] != msgExtension {
			passed = append(passed, r[0]...)
		}
	}
	got, err := io.ReadAll(client)
	work.Wait()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes of answers, %v; want %d", len(got), err, len(want))
	}
	if err := wait(t, result); err != nil {
		t.Error(err)
	}
	if got := <-asked; !bytes.Equal(got, passed) {
		t.Errorf("the agent was asked %d bytes, want %d", len(got), len(passed))
	}
}

// TestHalfClose: a client that asks and ends gets its answer, though the agent
// takes its time, and an agent that knows no half-close ends too.
func TestHalfClose(t *testing.T) {
	client, agent, result := start(t)
	if _, err := client.Write(message(11, "")); err != nil {
		t.Fatal(err)
	}
	_ = client.CloseWrite()
	readMessage(t, agent)
	time.Sleep(50 * time.Millisecond)
	if _, err := agent.Write(message(12, "late")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, message(12, "late")) {
		t.Errorf("%q, %v", got, err)
	}
	if err := wait(t, result); err != nil {
		t.Error(err)
	}
	if n, err := agent.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("agent reads %d bytes, %v", n, err)
	}
}

// TestDisorder: what is no agent's conversation ends it.
func TestDisorder(t *testing.T) {
	for name, c := range map[string]struct {
		client, agent []byte
		want          string // of the error; "" for none
	}{
		"nothing":            {nil, nil, ""},
		"length of 0":        {[]byte{0, 0, 0, 0, 1}, nil, "impossible length"},
		"too long":           {[]byte{0, 4, 0, 1, 1}, nil, "impossible length: 262145 bytes"},
		"cut length":         {[]byte{0, 0}, nil, "unexpected EOF"},
		"no number":          {[]byte{0, 0, 0, 1}, nil, "unexpected EOF"},
		"cut request":        {message(11, "abc")[:6], nil, "unexpected EOF"},
		"cut extension":      {message(27, "abc")[:6], nil, "unexpected EOF"},
		"answer to nothing":  {nil, message(12, ""), "answer to nothing"},
		"answer too long":    {message(11, ""), []byte{255, 0, 0, 1, 1}, "impossible length"},
		"two answers":        {message(11, ""), append(message(12, ""), message(12, "")...), "answer to nothing"},
		"cut answer":         {message(11, ""), message(12, "abc")[:6], "unexpected EOF"},
		"answer to filtered": {message(27, ""), message(12, ""), "answer to nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			client, agent, result := start(t)
			if _, err := client.Write(c.client); err != nil {
				t.Fatal(err)
			}
			if c.agent != nil {
				if len(c.client) > 0 && c.client[lengthBytes] != msgExtension {
					readMessage(t, agent)
				}
				if _, err := agent.Write(c.agent); err != nil {
					t.Fatal(err)
				}
				_ = agent.CloseWrite()
			} else {
				_ = client.CloseWrite()
			}
			err := wait(t, result)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			for _, conn := range []*net.UnixConn{client, agent} {
				if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
					t.Errorf("a connection goes on: %v", err)
				}
			}
		})
	}
}

// TestEnds: the end of either is the other's, also in the middle of a wait.
func TestEnds(t *testing.T) {
	client, agent, result := start(t)
	_ = agent.Close()
	if n, err := client.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("client reads %d bytes, %v", n, err)
	}
	if err := wait(t, result); err != nil {
		t.Error(err)
	}

	client, agent, result = start(t)
	for _, m := range [][]byte{message(11, ""), message(27, "")} { // which waits for the answer
		if _, err := client.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	readMessage(t, agent)
	_ = agent.Close()
	if got, err := io.ReadAll(client); len(got) > 0 || err != nil {
		t.Errorf("client reads %q, %v", got, err)
	}
	_ = wait(t, result)
}

func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		agent func(*net.UnixConn)
		want  Verdict
	}{
		"old": {func(c *net.UnixConn) { oldAgent(c) }, Closes},
		"new": {func(c *net.UnixConn) {
			if m := readMessage(t, c); !bytes.Equal(m, message(27, "\x00\x00\x00\x05query")) {
				t.Errorf("probe asks %q", m)
			}
			_, _ = c.Write(failure)
		}, Bears},
		"knows": {func(c *net.UnixConn) {
			readMessage(t, c)
			_, _ = c.Write(message(29, "\x00\x00\x00\x05query"))
		}, Bears},
		"silent":  {func(c *net.UnixConn) { _, _ = io.Copy(io.Discard, c) }, Unknown},
		"resets":  {func(*net.UnixConn) {}, Closes},
		"garbage": {func(c *net.UnixConn) { _, _ = c.Write([]byte("HTTP/1.1 400")) }, Closes},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer b.Close()
				c.agent(b)
			}()
			patience := 10 * time.Second
			if name == "silent" {
				patience = 300 * time.Millisecond
			}
			if got := Probe(a, patience); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
			<-done
		})
	}
}

// memory is a Conn over two io.Pipes.
type memory struct {
	net.Conn
	r *io.PipeReader
	w *io.PipeWriter
}

func memories() (a, b memory) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return memory{r: r1, w: w2}, memory{r: r2, w: w1}
}

func (m memory) Read(p []byte) (int, error)  { return m.r.Read(p) }
func (m memory) Write(p []byte) (int, error) { return m.w.Write(p) }
func (m memory) CloseWrite() error           { return m.w.Close() }
func (m memory) Close() error                { _, _ = m.w.Close(), m.r.Close(); return nil }

// FuzzFilter: whatever a client sends, an agent that closes at extensions sees
// none, and each whole request before the first wrong one has its answer.
func FuzzFilter(f *testing.F) {
	f.Add(append(message(27, "x"), message(11, "")...))
	f.Add(append(message(11, "abc"), 0, 0, 0, 0, 0))
	f.Add(message(13, strings.Repeat("x", 70_000)))
	f.Add([]byte{0, 0, 0, 9, 27, 1})
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) > 1<<17 {
			return
		}
		var want, passed []byte
		for rest := sent; len(rest) >= header; {
			n := binary.BigEndian.Uint32(rest)
			if n == 0 || n > MaxMessage || int(n)+lengthBytes > len(rest) {
				break
			}
			m := rest[:n+lengthBytes]
			rest = rest[len(m):]
			if m[lengthBytes] == msgExtension {
				want = append(want, failure...)
				continue
			}
			passed = append(passed, m...)
			want = append(want, message(m[lengthBytes]+1, string(m[header:]))...)
		}
		client, a := memories()
		b, agent := memories()
		var work sync.WaitGroup
		work.Go(func() { _ = Filter(a, b) })
		work.Go(func() {
			_, _ = client.Write(sent)
			_ = client.CloseWrite()
		})
		var asked []byte
		work.Go(func() {
			defer agent.Close()
			for {
				h, rest, err := readHeader(agent)
				if err != nil {
					return
				}
				if h[lengthBytes] == msgExtension {
					t.Error("an extension came through")
				}
				body := make([]byte, rest)
				if _, err := io.ReadFull(agent, body); err != nil {
					return
				}
				asked = append(append(asked, h[:]...), body...)
				if _, err := agent.Write(message(h[lengthBytes]+1, string(body))); err != nil {
					return
				}
			}
		})
		got, _ := io.ReadAll(client)
		work.Wait()
		// A wrong message ends it at once, so that the last answers may be lost.
		if !bytes.HasPrefix(want, got) || !bytes.HasPrefix(passed, asked) {
			t.Errorf("answers are %q, want %q; asked %q, want %q", got, want, asked, passed)
		}
	})
}
