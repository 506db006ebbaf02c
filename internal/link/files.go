package link

import (
	"io"
	"os"
)

// Files makes a link's transport of two ends of pipes, such as a command's
// stdout and stdin. It owns both. Where the system can, it makes them
// non-blocking, so that Close ends a Read and a Write under way, enlarges the
// pipes, splices (see Stream.SendFrom), and has TryWrite (see New). On Linux it
// also lets the runtime use a few threads more, see package wait.
//
// On Windows an anonymous pipe knows only blocking calls: there Close leaves a
// Read under way until the other side writes or closes.
func Files(r, w *os.File) (io.ReadWriteCloser, error) { return files(r, w) }

// A pair is two files as one transport.
type pair struct {
	r, w *os.File
}

func (p *pair) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pair) Write(b []byte) (int, error) { return p.w.Write(b) }

// Close closes both files.
func (p *pair) Close() error {
	err := p.w.Close()
	if rerr := p.r.Close(); err == nil {
		err = rerr
	}
	return err
}
