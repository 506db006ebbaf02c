package main

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

var procDuplicate = windows.NewLazySystemDLL("ws2_32.dll").NewProc("WSADuplicateSocketW")

// wsaDuplicateSocket fills info for a duplicate of s in this process.
func wsaDuplicateSocket(s windows.Handle, info *windows.WSAProtocolInfo) error {
	r, _, err := procDuplicate.Call(uintptr(s), uintptr(windows.GetCurrentProcessId()), uintptr(unsafe.Pointer(info)))
	if r != 0 {
		return err
	}
	return nil
}
