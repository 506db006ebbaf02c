package view

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"drvsock/internal/config"
	"drvsock/internal/drive"
	"drvsock/internal/mount"
	"drvsock/internal/report"
	"drvsock/internal/transport"
)

// OnDrive sets what o says of the folder dir, an absolute path without links: what
// the host calls it, and whose new sockets' files are.
func OnDrive(plan transport.Plan, dir string, o *mount.Options) error {
	table, err := drive.NewTable(drive.TableConfig{Overrides: plan.Views, OverridesOnly: plan.Only})
	if err != nil {
		return err
	}
	mounts, err := drive.OpenMounts()
	if err != nil {
		return err
	}
	defer mounts.Close()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "mount", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	path, ok, err := drive.NewResolver(table, mounts).Resolve(fd, os.Getpid())
	if err != nil {
		return err
	}
	if !ok {
		return report.Hint(fmt.Errorf("%s is on no drive of the host", dir), "say where a drive is seen, as in drive = [\"C=/mnt/c\"] in config.toml, or --foreground --drive C=/mnt/c")
	}
	o.HostPath = path
	var sx unix.Statx_t
	if unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &sx) == nil {
		if m, ok := mounts.Lookup(sx.Mnt_id); ok && (m.FSType == "9p" || m.FSType == "virtiofs") {
			o.Own = o.Own || hasMetadata(m.Super)
		}
	}
	return nil
}

// hasMetadata tells if a mount of DrvFS keeps owners of files, by the option
// "metadata" among those in "aname=drvfs;path=C:\;uid=1000;metadata;…".
func hasMetadata(super string) bool {
	for _, o := range strings.FieldsFunc(super, func(r rune) bool { return r == ',' || r == ';' }) {
		if o == "metadata" {
			return true
		}
	}
	return false
}

// onEmbedded is OnDrive where the agent plays a host on this machine and dir is
// where one of its drives is seen: the host's own folder is shown then, whatever
// lies at dir. ok is false for other folders.
//
// The agent runs already and knows its drives by their paths, so no view may lie
// over those: it would be asked for what it asks.
func onEmbedded(a config.Agent, dir string, o *mount.Options) (ok bool, err error) {
	for _, e := range a.Embed {
		letter, dirs, err := transport.SplitDrive("embed", e)
		if err != nil {
			return false, err
		}
		from, view, two := strings.Cut(dirs, ":")
		if !two {
			view = from
		}
		if from, err = filepath.EvalSymlinks(from); err != nil {
			return false, fmt.Errorf("drive %c: %w", letter, err)
		}
		if within(dir, from) || within(from, dir) {
			return false, report.Hint(fmt.Errorf("the agent itself needs %s, where it plays drive %c", from, letter),
				"let the drive be seen elsewhere, as in embed = [\"%c=%s:/mnt/%c\"], or use drvsock mount --foreground --embed", letter, from, letter|0x20)
		}
		if real, err := filepath.EvalSymlinks(view); err == nil && real == dir {
			o.HostPath, o.Beneath = []byte{letter, ':', '\\'}, from
			return true, nil
		}
	}
	return false, nil
}

// within tells whether path is folder or lies below it; both are absolute and
// without links.
func within(path, folder string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(folder, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// Advise adds to the error of a mount over dir what helps, where that is known.
func Advise(err error, dir string) error {
	if err == nil || report.HintOf(err) != "" {
		return err
	}
	if _, serr := os.Stat("/dev/fuse"); serr != nil {
		return report.Hint(err, "there is no /dev/fuse: the kernel needs FUSE, and a container has to be given the device")
	}
	if os.Geteuid() == 0 {
		return err
	}
	if f, ferr := os.OpenFile("/dev/fuse", os.O_RDWR, 0); ferr != nil {
		return report.Hint(err, "/dev/fuse is closed to this user: sudo chmod a+rw /dev/fuse")
	} else {
		_ = f.Close()
	}
	if _, lerr := exec.LookPath("fusermount3"); lerr != nil {
		return report.Hint(err, "an ordinary user needs fusermount3: sudo apt-get install fuse3")
	}
	if unix.Access(dir, unix.W_OK) != nil {
		return report.Hint(err, "fusermount3 wants %s to be a folder that this user may write to", dir)
	}
	return err
}

// CheckOther tells whether this user may open a view to other accounts.
func CheckOther(wanted bool) error { return checkOther(wanted, os.Geteuid(), "/etc/fuse.conf") }

func checkOther(wanted bool, uid int, conf string) error {
	if !wanted || uid == 0 {
		return nil
	}
	b, err := os.ReadFile(conf)
	if err == nil {
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "#")
			if strings.TrimSpace(line) == "user_allow_other" {
				return nil
			}
		}
	}
	return report.Hint(fmt.Errorf("%s does not let users open a mount to other accounts", conf),
		"echo user_allow_other | sudo tee -a %s", conf)
}
