package cli

import (
	"context"
	"errors"
	"os/exec"

	"drvsock/internal/control"
)

// ask makes one request to the daemon. A daemon that is started for it ends by
// itself when it isn't needed.
func ask(ctx context.Context, o control.Options, req control.Request) (*control.Response, error) {
	if o.Start {
		o.Args = append([]string{"--" + control.FlagOnDemand}, o.Args...)
	}
	c, err := control.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Do(ctx, req)
}

// exe is where this process finds drvsock.exe, "" for nowhere: a daemon that a
// service manager started doesn't have Windows' folders on its PATH.
func exe() string {
	path, err := exec.LookPath("drvsock.exe")
	if err != nil {
		return ""
	}
	return path
}

// noDaemon tells whether err says that none runs.
func noDaemon(err error) bool { return errors.Is(err, control.ErrNone) }
