package pageant

import (
	"crypto/rand"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

var procOpenFileMapping = windows.NewLazySystemDLL("kernel32.dll").NewProc("OpenFileMappingA")

// memory is a mapped piece of shared memory. close ends its use.
type memory struct {
	handle windows.Handle
	addr   uintptr
	bytes  []byte
}

// createMemory makes shared memory of size bytes that this account alone can open,
// and returns its name.
func createMemory(size int) (*memory, string, error) {
	sd, _, err := private()
	if err != nil {
		return nil, "", err
	}
	sa := windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(sa))
	var random [8]byte
	_, _ = rand.Read(random[:])
	name := fmt.Sprintf("PageantRequest%x", random)
	name16, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return nil, "", err
	}
	h, err := windows.CreateFileMapping(windows.InvalidHandle, &sa, windows.PAGE_READWRITE, 0, uint32(size), name16)
	if errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		_ = windows.CloseHandle(h) // another's
	}
	if err != nil {
		return nil, "", fmt.Errorf("shared memory: %w", err)
	}
	m, err := view(h)
	return m, name, err
}

// openMemory opens shared memory by the name that a client gave, a string of bytes
// of its own code page with a NUL at the end, if it belongs to this account.
func openMemory(name []byte) (*memory, error) {
	const access = windows.FILE_MAP_READ | windows.FILE_MAP_WRITE | windows.READ_CONTROL
	r, _, err := procOpenFileMapping.Call(access, 0, uintptr(unsafe.Pointer(&name[0])))
	if r == 0 {
		return nil, fmt.Errorf("shared memory %q: %w", name, err)
	}
	h := windows.Handle(r)
	if err := owned(h, true); err != nil {
		_ = windows.CloseHandle(h)
		return nil, fmt.Errorf("shared memory %q: %w", name, err)
	}
	return view(h)
}

// view maps all of h, and owns it.
func view(h windows.Handle) (*memory, error) {
	addr, err := windows.MapViewOfFile(h, windows.FILE_MAP_READ|windows.FILE_MAP_WRITE, 0, 0, 0)
	if err != nil {
		_ = windows.CloseHandle(h)
		return nil, fmt.Errorf("view of shared memory: %w", err)
	}
	m := &memory{handle: h, addr: addr}
	var info windows.MemoryBasicInformation
	if err := windows.VirtualQuery(addr, &info, unsafe.Sizeof(info)); err != nil {
		m.close()
		return nil, fmt.Errorf("size of shared memory: %w", err)
	}
	// The region ends where its pages stop being alike, so all of it is there.
	m.bytes = unsafe.Slice((*byte)(pointer(addr)), min(info.RegionSize, maxMessage))
	return m, nil
}

func (m *memory) close() {
	_ = windows.UnmapViewOfFile(m.addr)
	_ = windows.CloseHandle(m.handle)
}

// pointer makes a pointer of an address that the system gave, which lies outside
// of Go's memory.
func pointer(addr uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&addr)) }
