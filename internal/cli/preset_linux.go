package cli

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"drvsock/internal/control"
	"drvsock/internal/preset"
)

// presetPlace is where presets listen on this machine.
func presetPlace() (preset.Place, error) {
	f, err := control.OpenFolder(true)
	if err != nil {
		return preset.Place{}, err
	}
	defer f.Close()
	p := preset.Place{Own: filepath.Dir(f.Socket()), Runtime: os.Getenv("XDG_RUNTIME_DIR")}
	if !filepath.IsAbs(p.Runtime) {
		p.Runtime = "/run/user/" + strconv.Itoa(os.Geteuid())
		if unix.Access(p.Runtime, unix.W_OK|unix.X_OK) != nil {
			p.Runtime = ""
		}
	}
	return p, nil
}
