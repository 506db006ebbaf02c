package pageant

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/Microsoft/go-winio"
)

// The test binary also plays both ends, for the tests that run on Linux with
// Windows beside it: "serve WAY" and "ask WAY COUNT SIZE".
func TestMain(m *testing.M) {
	play := map[string]func([]string) error{"serve": serveMain, "ask": askMain}
	if len(os.Args) > 2 && play[os.Args[1]] != nil {
		if err := play[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	verify(m)
}

// serveMain plays Pageant by one way or both and answers each message with its
// SHA-256 and as many bytes more, until its input ends. Then it says how many
// goroutines are left.
func serveMain(args []string) error {
	before := runtime.NumGoroutine()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch args[0] {
	case "window": // a stranger has the pipe
		name, err := pipeName()
		if err != nil {
			return err
		}
		other, err := winio.ListenPipe(name, nil)
		if err != nil {
			return err
		}
		defer other.Close()
	}
	l, err := Listen(log)
	if err != nil {
		return err
	}
	if l.listener.pipe != nil {
		// Wine's pipes of a name are right after a first connection only.
		if c, err := winio.DialPipeContext(context.Background(), l.listener.pipe.Addr().String()); err == nil {
			_ = c.Close()
		}
	}
	if args[0] == "window" && l.listener.pipe != nil { // Wine lets two have a name
		_ = l.listener.pipe.Close()
	}
	fmt.Printf("pipe %v window %v\n", l.listener.pipe != nil, l.listener.window != nil)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, caller, err := l.Accept()
			if err != nil {
				ended <- nil
				return
			}
			fmt.Printf("caller %d %q %q\n", caller.PID, caller.Program, caller.User)
			go func() {
				defer conn.Close()
				for {
					msg, err := readMessage(conn)
					if err != nil {
						return
					}
					if _, err := conn.Write(reply(msg)); err != nil {
						log.Error("reply", "error", err)
						return
					}
				}
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := l.Close(); err != nil {
		return err
	}
	<-ended
	for range 100 {
		if runtime.NumGoroutine() <= before+2 { // winio's, which stays
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Printf("left %d\n", runtime.NumGoroutine()-before)
	return nil
}

func reply(msg []byte) []byte {
	sum := sha256.Sum256(msg)
	return framed(string(sum[:]) + string(msg[4:]))
}

// askMain asks COUNT questions of SIZE bytes over one connection.
func askMain(args []string) error {
	count, _ := strconv.Atoi(args[1])
	size, _ := strconv.Atoi(args[2])
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var conn Conn
	var err error
	switch args[0] {
	case "pipe":
		conn, err = dialPipe(ctx)
	case "window":
		conn, err = dialWindow()
	default:
		conn, err = Dial(ctx)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	r := bufio.NewReader(conn)
	begin := time.Now()
	for i := range count {
		q := framed(string(bytes.Repeat([]byte{byte(i)}, size)))
		if _, err := conn.Write(q); err != nil {
			return fmt.Errorf("question %d: %w", i, err)
		}
		if i == count-1 {
			if err := conn.CloseWrite(); err != nil {
				return err
			}
		}
		a, err := readMessage(r)
		if err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
		if !bytes.Equal(a, reply(q)) {
			return fmt.Errorf("answer %d is wrong", i)
		}
	}
	if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
		return fmt.Errorf("after the answers: %q, %w", b, err)
	}
	fmt.Printf("%T %d answers, %v each\n", conn, count, time.Since(begin)/time.Duration(count))
	return nil
}
