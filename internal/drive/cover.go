package drive

import "strings"

// cover finds the mount that the text of an absolute, clean path lies on: the
// one the kernel would end up on by walking it, were there no symbolic links.
// ok is false if mounts has none for it.
//
// The walk goes down from the mounts whose parent isn't listed. On each mount
// the one attached nearest below hides what lies deeper. A mount that is listed
// after all those passed through counts as attached as well if it names any of
// them, or none in the list, for its parent: WSL's own tools go by the order alone, and files written
// by hand tend to name one parent for all. For the kernel's own list that is
// wrong only below an older mount that was moved (MS_MOVE) over it afterwards.
func cover(mounts []Mount, path string) (m Mount, ok bool) {
	cur, latest := -1, -1
	passed := make(map[int]bool)  // ids of the mounts on the way
	entered := make(map[int]bool) // indices
	listed := make(map[int]bool, len(mounts))
	for i := range mounts {
		listed[mounts[i].ID] = true
	}
	for {
		next := -1
		for i := range mounts {
			n := &mounts[i]
			if entered[i] {
				continue
			}
			if _, in := below(n.Point, path); !in {
				continue
			}
			switch {
			case cur < 0:
				if listed[n.Parent] && n.Parent != n.ID {
					continue
				}
			case n.Parent == mounts[cur].ID:
			default:
				_, deeper := below(mounts[cur].Point, n.Point)
				if i < latest || !deeper || listed[n.Parent] && !passed[n.Parent] {
					continue
				}
			}
			if next < 0 || len(n.Point) < len(mounts[next].Point) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		cur, latest = next, max(latest, next)
		entered[cur] = true
		passed[mounts[cur].ID] = true
	}
	if cur < 0 {
		return Mount{}, false
	}
	return mounts[cur], true
}

// inMount returns the path inside m's file system of a path that m covers.
func (m *Mount) inMount(path string) string {
	rest, _ := below(m.Point, path)
	return strings.TrimSuffix(m.Root, "/") + "/" + rest
}
