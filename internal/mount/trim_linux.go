package mount

import (
	"golang.org/x/sys/unix"
)

// The kernel knows as many files as it likes, and each takes a descriptor of
// ours. Past a share of what this process may have, it is asked to forget those
// that it has known for longest; what is in use it looks up again.

// name is where a file was found.
type name struct {
	dir  uint64
	base string
}

// trimmer has the kernel forget files.
type trimmer struct {
	most int       // files that may be known
	wake chan bool // closed when the view ends
	ids  []uint64  // in the order in which they were found; guarded by view.mu
	over bool      // guarded by view.mu
}

func newTrimmer() trimmer {
	t := trimmer{most: 4096, wake: make(chan bool, 1)}
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		t.most = int(min(l.Cur/2, 1<<19))
	}
	return t
}

// found notes a new node; v.mu is held.
func (v *view) found(n *node, at name) {
	if n.kind == unix.S_IFDIR || n.kind == unix.S_IFSOCK || at.base == "" {
		return
	}
	n.at = at
	v.trim.ids = append(v.trim.ids, n.id)
	if len(v.nodes) > v.trim.most && !v.trim.over {
		select {
		case v.trim.wake <- true:
		default:
		}
	}
}

// forgetOld runs until the view ends.
func (v *view) forgetOld() {
	for range v.trim.wake {
		for _, at := range v.oldest() {
			v.server.EntryNotify(at.dir, at.base)
		}
	}
}

// oldest takes out what shall be forgotten, a quarter of what may be known.
func (v *view) oldest() []name {
	v.mu.Lock()
	defer v.mu.Unlock()
	count := max(len(v.nodes)-v.trim.most, 0)
	if count == 0 {
		return nil
	}
	count += v.trim.most / 4
	var list []name
	i := 0
	for ; i < len(v.trim.ids) && len(list) < count; i++ {
		if n := v.nodes[v.trim.ids[i]]; n != nil {
			list = append(list, n.at)
		}
	}
	v.trim.ids = append([]uint64(nil), v.trim.ids[i:]...)
	return list
}

// endTrim ends forgetOld.
func (v *view) endTrim() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.trim.over = true
	close(v.trim.wake)
}
