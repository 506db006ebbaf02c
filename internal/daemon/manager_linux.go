package daemon

import (
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// manager is the service manager, if there is one: sd_notify(3). Nobody else
// need know, so errors mean nothing.
type manager struct{}

func (manager) ready(status string) { _, _ = sd.SdNotify(false, sd.SdNotifyReady+"\nSTATUS="+status) }

// reloading says when, as Type=notify-reload wants it.
func (manager) reloading() {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return
	}
	_, _ = sd.SdNotify(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, ts.Nano()/1000))
}

func (manager) stopping() { _, _ = sd.SdNotify(false, sd.SdNotifyStopping) }

func (manager) status(s string) { _, _ = sd.SdNotify(false, "STATUS="+s) }

// Activated returns the control socket that a service manager made and passed on
// (sd_listen_fds(3)), nil if it didn't. Other sockets are closed.
func Activated() (*net.UnixListener, error) {
	var found *net.UnixListener
	var err error
	for _, f := range activation.Files(true) {
		if found == nil && err == nil {
			found, err = listenerOf(f)
		}
		_ = f.Close()
	}
	return found, err
}

func listenerOf(f *os.File) (*net.UnixListener, error) {
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket that was passed as %s: %w", f.Name(), err)
	}
	u, ok := ln.(*net.UnixListener)
	if !ok {
		_ = ln.Close()
		return nil, fmt.Errorf("the socket that was passed as %s is no AF_UNIX stream socket", f.Name())
	}
	u.SetUnlinkOnClose(false) // the manager's
	return u, nil
}
