package hyperv

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"unsafe"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// listen listens for one machine. Windows lets processes of the account that
// the machine belongs to do so, and no other (the machine's security
// descriptor); another one gets WSAEACCES.
func listen(id ID, port uint32) (net.Listener, error) {
	ln, err := winio.ListenHvsock(&winio.HvsockAddr{VMID: id, ServiceID: winio.VsockServiceID(port)})
	if err != nil {
		return nil, err
	}
	_ = keepAsleep(ln)
	return awake{ln}, nil
}

// awake is a listener whose connections outlive the host's sleep.
type awake struct{ *winio.HvsockListener }

func (a awake) Accept() (net.Conn, error) {
	c, err := a.HvsockListener.Accept()
	if err == nil {
		_ = keepAsleep(c)
	}
	return c, err
}

// Options of hvsocket.h.
const (
	hvProtocolRaw     = 1 // HV_PROTOCOL_RAW
	connectedSuspends = 4 // HVSOCKET_CONNECTED_SUSPEND
)

// keepAsleep has the socket of a listener or connection live through the host's
// sleep, as WSL does with its own. Without it the link is lost then and made
// anew.
func keepAsleep(of any) error {
	h, err := handleOf(of)
	if err != nil {
		return err
	}
	on := uint32(1)
	return windows.Setsockopt(h, hvProtocolRaw, connectedSuspends, (*byte)(unsafe.Pointer(&on)), int32(unsafe.Sizeof(on)))
}

// handleOf reads the handle of a go-winio listener or connection, which has no
// way to ask for it. A test tells if a newer one keeps it elsewhere.
func handleOf(of any) (windows.Handle, error) {
	v := reflect.Indirect(reflect.ValueOf(of))
	for _, name := range []string{"sock", "handle"} {
		if v.Kind() == reflect.Struct {
			v = reflect.Indirect(v.FieldByName(name))
		}
	}
	if v.Kind() != reflect.Uintptr {
		return 0, fmt.Errorf("no handle in %T", of)
	}
	return windows.Handle(v.Uint()), nil
}

func inUse(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }

var finders = []finder{
	{"command lines of wslhost.exe and wslrelay.exe", helpers},
	{"registry", computeSystems},
}

// helpers reads the command lines of WSL's helpers that this account runs.
func helpers() ([]ID, error) {
	snap, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPPROCESS, 0)
	if err != nil {
		return nil, fmt.Errorf("list of processes: %w", err)
	}
	defer windows.CloseHandle(snap)
	e := windows.ProcessEntry32{Size: uint32(unsafe.Sizeof(windows.ProcessEntry32{}))}
	var ids []ID
	for err = windows.Process32First(snap, &e); err == nil; err = windows.Process32Next(snap, &e) {
		if !isHelper(windows.UTF16ToString(e.ExeFile[:])) {
			continue
		}
		line, err := commandLine(e.ProcessID)
		if err != nil {
			continue // another account's, or gone
		}
		if id, ok := idOnCommandLine(line); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// commandLine reads that of a process of this account.
func commandLine(pid uint32) (string, error) {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return "", err
	}
	defer windows.CloseHandle(h)
	if err := ours(h); err != nil {
		return "", err
	}
	// A UNICODE_STRING, and then its at most 64 KiB.
	buf := make([]uintptr, (64<<10)/unsafe.Sizeof(uintptr(0))+8)
	var n uint32
	if err := windows.NtQueryInformationProcess(h, windows.ProcessCommandLineInformation,
		unsafe.Pointer(&buf[0]), uint32(len(buf)*int(unsafe.Sizeof(buf[0]))), &n); err != nil {
		return "", err
	}
	return (*windows.NTUnicodeString)(unsafe.Pointer(&buf[0])).String(), nil
}

// ours tells whether a process is of this account.
func ours(h windows.Handle) error {
	var t windows.Token
	if err := windows.OpenProcessToken(h, windows.TOKEN_QUERY, &t); err != nil {
		return err
	}
	defer t.Close()
	theirs, err := t.GetTokenUser()
	if err != nil {
		return err
	}
	own, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return err
	}
	if !theirs.User.Sid.Equals(own.User.Sid) {
		return errors.New("another account's")
	}
	return nil
}

// computeSystems reads the system's list of virtual machines, which everybody
// may.
func computeSystems() ([]ID, error) {
	k, err := registry.OpenKey(registry.LOCAL_MACHINE,
		`SOFTWARE\Microsoft\Windows NT\CurrentVersion\HostComputeService\VolatileStore\ComputeSystem`, registry.ENUMERATE_SUB_KEYS)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	names, err := k.ReadSubKeyNames(-1)
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, name := range names {
		if id, err := ParseID(name); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
