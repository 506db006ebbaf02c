package hyperv

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"drvsock/internal/errno"
)

var errHost = errno.Errorf(errno.EAFNOSUPPORT, errno.LayerAgent, "this host has no Hyper-V sockets")

// maxMachines bounds the machines that are listened for.
const maxMachines = 8

// A finder finds the machines of this account, by a way that has a name.
type finder struct {
	way  string
	find func() ([]ID, error)
}

// machines is the one that was named, or what the first finder that finds any
// finds.
//
// A guest that can names its own, as its init says: that is exact, and starts no
// machine that doesn't run. Where it can't, WSL's helpers have the id on their
// command lines; they may not run. The system's list of all machines comes last:
// others than WSL's are in it, and some builds of Windows don't keep it.
func machines(named string, finders []finder) ([]ID, error) {
	if named != "" {
		id, err := ParseID(named)
		if err != nil {
			return nil, errno.Errorf(errno.EINVAL, errno.LayerAgent, "%v", err)
		}
		return []ID{id}, nil
	}
	var errs []error
	for _, f := range finders {
		ids, err := f.find()
		if err == nil && len(ids) == 0 {
			err = errors.New("none")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.way, err))
			continue
		}
		ids = slices.Clone(ids)
		slices.SortFunc(ids, func(a, b ID) int { return strings.Compare(a.String(), b.String()) })
		ids = slices.Compact(ids)
		return ids[:min(len(ids), maxMachines)], nil
	}
	if len(errs) == 0 {
		return nil, errHost
	}
	return nil, fmt.Errorf("no virtual machine is known: %w", errors.Join(errs...))
}

// idOnCommandLine finds the machine's id on the command line of one of WSL's
// helpers, which have it behind --vm-id.
func idOnCommandLine(line string) (ID, bool) {
	const flag = "--vm-id"
	words := strings.Fields(line)
	for i, w := range words {
		w = strings.Trim(w, `"`)
		value, ok := strings.CutPrefix(w, flag+"=")
		if !ok && w == flag && i+1 < len(words) {
			value, ok = words[i+1], true
		}
		if !ok {
			continue
		}
		if id, err := ParseID(strings.Trim(value, `"`)); err == nil {
			return id, true
		}
	}
	return ID{}, false
}

// isHelper tells whether an executable's name is that of a helper of WSL's that
// bears the machine's id.
func isHelper(name string) bool {
	return strings.EqualFold(name, "wslhost.exe") || strings.EqualFold(name, "wslrelay.exe")
}
