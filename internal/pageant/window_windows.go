package pageant

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
)

// user32.dll, which x/sys lacks most of.
var (
	user32                 = windows.NewLazySystemDLL("user32.dll")
	procRegisterClassEx    = user32.NewProc("RegisterClassExW")
	procUnregisterClass    = user32.NewProc("UnregisterClassW")
	procCreateWindowEx     = user32.NewProc("CreateWindowExW")
	procDefWindowProc      = user32.NewProc("DefWindowProcW")
	procGetMessage         = user32.NewProc("GetMessageW")
	procDispatchMessage    = user32.NewProc("DispatchMessageW")
	procPostMessage        = user32.NewProc("PostMessageW")
	procPostQuitMessage    = user32.NewProc("PostQuitMessage")
	procFindWindow         = user32.NewProc("FindWindowW")
	procSendMessageTimeout = user32.NewProc("SendMessageTimeoutW")
)

const (
	windowName = "Pageant" // of the class and of the window
	magic      = 0x804e50ba

	wmDestroy  = 0x0002
	wmClose    = 0x0010
	wmCopyData = 0x004a

	messageOnly = ^uintptr(2) // HWND_MESSAGE, -3

	maxName = 1024 // of shared memory, in bytes
)

// copyData is COPYDATASTRUCT.
type copyData struct {
	data uintptr
	size uint32
	ptr  unsafe.Pointer
}

// classEx is WNDCLASSEXW.
type classEx struct {
	size, style                        uint32
	proc                               uintptr
	classExtra, windowExtra            int32
	instance, icon, cursor, background uintptr
	menu, name                         *uint16
	smallIcon                          uintptr
}

// msg is MSG.
type msg struct {
	window  windows.HWND
	message uint32
	w, l    uintptr
	time    uint32
	x, y    int32
	private uint32
}

// asking bounds the threads that wait for answers of the window, which gives them
// one after the other anyway.
var asking = make(chan struct{}, 8)

func findWindow() windows.HWND {
	name, err := windows.UTF16PtrFromString(windowName)
	if err != nil {
		return 0
	}
	// It finds windows that are for messages alone too, such as gpg-agent's.
	h, _, _ := procFindWindow.Call(uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(name)))
	return windows.HWND(h)
}

// dialWindow returns a connection to the window that plays Pageant now; each of
// its messages goes to whichever does then.
func dialWindow() (Conn, error) {
	if findWindow() == 0 {
		return nil, errAbsent
	}
	return newExchange(ask), nil
}

// ask has msg answered by the window.
func ask(msg []byte) ([]byte, error) {
	asking <- struct{}{}
	defer func() { <-asking }()
	window := findWindow()
	if window == 0 {
		return nil, errAbsent
	}
	// All of the largest size: gpg-agent takes 16 KiB for granted, of whatever size
	// the memory is.
	mem, name, err := createMemory(maxMessage)
	if err != nil {
		return nil, err
	}
	defer mem.close()
	copy(mem.bytes, msg)
	text := append([]byte(name), 0)
	data := &copyData{magic, uint32(len(text)), unsafe.Pointer(&text[0])}
	var result uintptr
	// Flags 0, not SMTO_ABORTIFHUNG: a window that asks its user doesn't look alive.
	r, _, err := procSendMessageTimeout.Call(uintptr(window), wmCopyData, 0, uintptr(unsafe.Pointer(data)), 0,
		uintptr(answerTime.Milliseconds()), uintptr(unsafe.Pointer(&result)))
	runtime.KeepAlive(text)
	if r == 0 {
		return nil, because("question to Pageant's window", err)
	}
	if result == 0 {
		return nil, errno.Errorf(errno.ECONNRESET, errno.LayerHost, "Pageant's window doesn't take a question of %d bytes", len(msg))
	}
	return message(mem.bytes)
}

// window is the one that plays Pageant, with the thread that serves it.
type window struct {
	handle windows.HWND
	serve  func(name []byte) bool // answers the question in the shared memory of that name, NUL at its end
	ended  chan struct{}          // closed at the thread's end
}

var (
	// windowProc is made once: the runtime keeps callbacks for ever.
	windowProc = sync.OnceValue(func() uintptr { return windows.NewCallback(handleMessage) })
	// playing is the window of this process; its class allows for one.
	playing struct {
		sync.Mutex
		*window
	}
)

// openWindow makes the window and begins to serve it.
func openWindow(serve func(name []byte) bool) (*window, error) {
	if findWindow() != 0 {
		return nil, errno.Errorf(errno.EADDRINUSE, errno.LayerHost, "there is a Pageant in this session")
	}
	w := &window{serve: serve, ended: make(chan struct{})}
	playing.Lock()
	if playing.window != nil {
		playing.Unlock()
		return nil, errno.Errorf(errno.EADDRINUSE, errno.LayerHost, "this process plays Pageant already")
	}
	playing.window = w
	playing.Unlock()
	started := make(chan error, 1)
	go w.loop(started)
	if err := <-started; err != nil {
		<-w.ended
		return nil, err
	}
	return w, nil
}

// close ends the window and waits for its thread, which is busy as long as serve
// is.
func (w *window) close() {
	_, _, _ = procPostMessage.Call(uintptr(w.handle), wmClose, 0, 0)
	<-w.ended
}

// loop makes the window and serves it, on the one thread that can, until it is
// closed, which another program can do too.
func (w *window) loop(started chan<- error) {
	defer close(w.ended)
	defer func() {
		playing.Lock()
		playing.window = nil
		playing.Unlock()
	}()
	runtime.LockOSThread() // and never unlocked: the thread ends with this
	name, err := windows.UTF16PtrFromString(windowName)
	if err != nil {
		started <- err
		return
	}
	var instance windows.Handle
	if err := windows.GetModuleHandleEx(windows.GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, nil, &instance); err != nil {
		started <- fmt.Errorf("module of this program: %w", err)
		return
	}
	class := &classEx{proc: windowProc(), instance: uintptr(instance), name: name}
	class.size = uint32(unsafe.Sizeof(*class))
	if r, _, err := procRegisterClassEx.Call(uintptr(unsafe.Pointer(class))); r == 0 {
		started <- because("window class", err)
		return
	}
	defer func() {
		_, _, _ = procUnregisterClass.Call(uintptr(unsafe.Pointer(name)), uintptr(instance))
	}()
	// A window for messages alone, as gpg-agent's, needs no screen. FindWindow finds
	// it, which clients use ("Window Features, Message-Only Windows": FindWindowEx
	// with neither parent nor child looks at them too).
	h, _, err := procCreateWindowEx.Call(0, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(name)), 0,
		0, 0, 0, 0, messageOnly, 0, uintptr(instance), 0)
	if h == 0 {
		started <- because("window", err)
		return
	}
	w.handle = windows.HWND(h)
	started <- nil
	var m msg
	for {
		r, _, _ := procGetMessage.Call(uintptr(unsafe.Pointer(&m)), 0, 0, 0)
		if int32(r) <= 0 { // WM_QUIT, or an error
			return
		}
		_, _, _ = procDispatchMessage.Call(uintptr(unsafe.Pointer(&m)))
	}
}

// because is the error of a call that failed. Calls about windows may fail and leave
// no reason, where there is no desktop for one.
func because(what string, err error) error {
	if errors.Is(err, windows.ERROR_SUCCESS) {
		return errno.Errorf(errno.EIO, errno.LayerHost, "%s: the system refuses it and gives no reason", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// handleMessage is the window procedure. The system calls it on the window's
// thread.
func handleMessage(h windows.HWND, message uint32, wparam, lparam uintptr) uintptr {
	switch message {
	case wmCopyData:
		playing.Lock()
		w := playing.window
		playing.Unlock()
		name, err := questionName((*copyData)(pointer(lparam)))
		if err == nil && w != nil && w.serve(name) {
			return 1
		}
		return 0
	case wmDestroy:
		_, _, _ = procPostQuitMessage.Call(0)
		return 0
	}
	r, _, _ := procDefWindowProc.Call(uintptr(h), uintptr(message), wparam, lparam)
	return r
}

var errForeign = errors.New("a message of another kind")

// questionName returns the name of the shared memory that a question lies in, with
// its NUL.
func questionName(d *copyData) ([]byte, error) {
	if d == nil || uint32(d.data) != magic || d.ptr == nil || d.size < 2 || d.size > maxName {
		return nil, errForeign
	}
	name := append([]byte(nil), unsafe.Slice((*byte)(d.ptr), d.size)...)
	if name[len(name)-1] != 0 {
		return nil, errForeign
	}
	return name, nil
}
