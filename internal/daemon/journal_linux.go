package daemon

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"drvsock/internal/control"
)

// maxLog is the size in bytes from which the log is begun anew; the one before
// it is kept.
const maxLog = 1 << 20

// A Journal is the log of a daemon in the background: a bounded file, each line
// with its time. What the runtime says when it crashes goes there too.
type Journal struct {
	folder *control.Folder

	mu   sync.Mutex
	file *os.File
	size int64
	max  int64
}

// OpenJournal opens the log in the daemon's folder and makes it this process's
// stderr.
func OpenJournal(f *control.Folder) (*Journal, error) {
	j := &Journal{folder: f, max: maxLog}
	if err := j.open(false); err != nil {
		return nil, err
	}
	return j, nil
}

func (j *Journal) open(rotate bool) error {
	file, err := j.folder.OpenLog(rotate)
	if err != nil {
		return err
	}
	st, err := file.Stat()
	if err == nil {
		err = unix.Dup3(int(file.Fd()), 2, 0)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size = file, st.Size()
	return nil
}

// Write writes one record, with the time in front.
func (j *Journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := append(time.Now().AppendFormat(nil, "2006-01-02T15:04:05.000Z07:00 "), p...)
	if j.size > 0 && j.size+int64(len(line)) > j.max {
		if err := j.open(true); err != nil {
			j.size = 0 // the old one goes on for another round
		}
	}
	n, err := j.file.Write(line)
	j.size += int64(n)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
