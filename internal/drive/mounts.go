package drive

import (
	"fmt"
	"sync"
)

// Mounts knows the mounts of this process's namespace and follows their
// changes. It may be used by several goroutines.
type Mounts struct {
	mu   sync.Mutex
	file watched
	list []Mount
	byID map[uint64]int // into list
	old  bool           // a change was reported and not yet read
}

// OpenMounts reads the mounts and returns a Mounts, which holds one descriptor
// until Close. On systems other than Linux it gives errors.ErrUnsupported.
func OpenMounts() (*Mounts, error) {
	file, err := openWatched()
	if err != nil {
		return nil, err
	}
	m := &Mounts{file: file}
	if err := m.Reload(); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

// Close gives the descriptor back. Lookups then find what was known last.
func (m *Mounts) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.file.close()
}

// Reload reads the mounts anew. It is only needed for what the kernel doesn't
// report: the renaming of folders above a mount point or a bind mount's root.
func (m *Mounts) Reload() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reload()
}

func (m *Mounts) reload() error {
	text, err := m.file.read()
	if err != nil {
		return fmt.Errorf("read own mountinfo: %w", err)
	}
	m.list = parseMounts(text)
	m.byID = make(map[uint64]int, len(m.list))
	for i := range m.list {
		m.byID[uint64(m.list[i].ID)] = i
	}
	m.old = false
	return nil
}

// fresh reads the mounts if they changed. The report of a change is given once
// per open file, so the lock is held around it: nobody may see the old mounts
// after somebody took the report. If the new ones can't be read, it is tried
// again the next time.
func (m *Mounts) fresh() {
	if m.file.changed() {
		m.old = true
	}
	if m.old {
		_ = m.reload()
	}
}

// All returns the mounts as they are now, in mountinfo's order.
func (m *Mounts) All() []Mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh()
	return append([]Mount(nil), m.list...)
}

// Lookup returns the mount of this namespace with the id that statx(2) gives
// for STATX_MNT_ID. With nothing changed it costs one poll(2).
func (m *Mounts) Lookup(id uint64) (Mount, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh()
	i, ok := m.byID[id]
	if !ok {
		return Mount{}, false
	}
	return m.list[i], true
}

// Of returns a lookup for what process pid can reach: the mounts of this
// namespace, then those in /proc/PID/mountinfo. The order is free, since an id
// belongs to one mount in all namespaces, and the first is the cheaper. A
// process that chrooted doesn't list all its mounts, but this one does.
func (m *Mounts) Of(pid int) func(id uint64) (Mount, bool) {
	return func(id uint64) (Mount, bool) {
		if mount, ok := m.Lookup(id); ok {
			return mount, true
		}
		list, err := mountsOf(pid)
		if err != nil {
			return Mount{}, false
		}
		for i := range list {
			if uint64(list[i].ID) == id {
				return list[i], true
			}
		}
		return Mount{}, false
	}
}
