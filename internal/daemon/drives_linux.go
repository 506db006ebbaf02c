package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"drvsock/internal/control"
	"drvsock/internal/drive"
	"drvsock/internal/transport"
)

// drives tells of guest paths what the host calls them.
type drives struct{ mounts *drive.Mounts }

func newDrives() (*drives, error) {
	m, err := drive.OpenMounts()
	if err != nil {
		return nil, err
	}
	return &drives{m}, nil
}

func (d *drives) close() { _ = d.mounts.Close() }

// check tells whether the folders are there at which an agent's drives are seen.
func (d *drives) check(p transport.Plan) error {
	_, err := d.table(p)
	return err
}

// table is made for each question: folders may be mounted while the daemon runs,
// and questions are as rare as new forwards.
func (d *drives) table(p transport.Plan) (*drive.Table, error) {
	return drive.NewTable(drive.TableConfig{Overrides: p.Views, OverridesOnly: p.Only})
}

// path gives the host's path of a guest path that lies on a drive. Links are
// followed, also the last one; what isn't there is looked for by its folder.
func (d *drives) path(p transport.Plan, guest string) (string, bool, error) {
	if !filepath.IsAbs(guest) {
		return "", false, nil
	}
	if real, err := filepath.EvalSymlinks(guest); err == nil {
		guest = real
	}
	folder, base := filepath.Split(guest)
	if base == "" {
		return "", false, nil
	}
	fd, err := unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return "", false, nil // and the listener or the connection will say so
		}
		return "", false, &os.PathError{Op: "open", Path: folder, Err: err}
	}
	defer unix.Close(fd)
	table, err := d.table(p)
	if err != nil {
		return "", false, err
	}
	host, ok, err := drive.NewResolver(table, d.mounts).Resolve(fd, os.Getpid())
	if err != nil || !ok {
		return "", false, err
	}
	return string(drive.JoinHost(host, []byte(base))), true, nil
}

// views are an agent's drives as other processes hear of them.
func views(p transport.Plan) (list []control.View) {
	for _, v := range p.Views {
		list = append(list, control.View{Letter: fmt.Sprintf("%c", v.Letter), View: v.View})
	}
	return list
}
