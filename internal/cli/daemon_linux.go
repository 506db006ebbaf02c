package cli

import (
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"drvsock/internal/config"
	"drvsock/internal/control"
	"drvsock/internal/daemon"
	"drvsock/internal/report"
	"drvsock/internal/transport"
)

func runDaemon(s Streams, f daemonFlags) error {
	if f.ready < 0 {
		return beDaemon(s, f, nil)
	}
	// Who started this waits for a word.
	unix.CloseOnExec(f.ready)
	starter := os.NewFile(uintptr(f.ready), "ready")
	if err := beDaemon(s, f, starter); err != nil {
		control.Tell(starter, err) // which is lost if it was told before
		return exit{exitFailure}
	}
	return nil
}

func beDaemon(s Streams, f daemonFlags, starter *os.File) error {
	if f.detach {
		return control.Detach(f.ready, restArgs(f))
	}
	folder, err := control.OpenFolder(true)
	if err != nil {
		return err
	}
	defer folder.Close()
	path := config.Path()
	cfg := daemon.Config{
		File: path, Load: func() (*config.File, error) { return config.Load(path) },
		Folder: folder, OnDemand: f.onDemand, IdleAfter: f.idle,
		Level: slog.LevelInfo, Background: starter != nil,
	}
	if f.verbose {
		cfg.Level = slog.LevelDebug
	}
	cfg.Log = report.NewLog(s.Err, cfg.Level)
	if starter != nil {
		// A service's variable, if that is who started this, and its manager would
		// take this daemon's end for the service's.
		_ = os.Unsetenv("NOTIFY_SOCKET")
	}
	if cfg.Listener, err = daemon.Activated(); err != nil {
		return err
	}
	if f.agent.Link != "" || len(f.agent.Embed) > 0 || len(f.agent.Drive) > 0 {
		abs, err := transport.Absolute(f.agent)
		if err != nil {
			return err
		}
		cfg.Agent = &abs
	}
	if starter != nil {
		cfg.Ready = func() { control.Tell(starter, nil) }
	}
	unix.Umask(0o077) // of the log and of folders; sockets' modes are told with each
	cfg.Stop, cfg.Hup = daemon.Signals()
	return daemon.Run(cfg)
}

// restArgs are the arguments of the daemon that is started in place of this
// process.
func restArgs(f daemonFlags) []string {
	args := agentArgs(f.agent)
	if f.onDemand {
		args = append(args, "--"+control.FlagOnDemand)
	}
	if f.verbose {
		args = append(args, "--verbose")
	}
	if f.idle > 0 {
		args = append(args, "--idle", f.idle.String())
	}
	return args
}
