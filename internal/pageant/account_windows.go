package pageant

import (
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// crypt32.dll, which x/sys lacks a part of.
var procCryptProtectMemory = windows.NewLazySystemDLL("crypt32.dll").NewProc("CryptProtectMemory")

// protectCrossProcess is CRYPTPROTECTMEMORY_CROSS_PROCESS of dpapi.h: the same for
// all processes of this account's logon.
const protectCrossProcess = 1

// pipes is where pipes are.
const pipes = `\\.\pipe\`

// userSID returns the SID of the account of this process.
func userSID() (*windows.SID, error) {
	u, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("account of this process: %w", err)
	}
	return u.User.Sid, nil
}

// ownerSID returns the owner that objects of this process get by default, which
// is the administrators' group where it has their rights.
func ownerSID() (*windows.SID, error) {
	sd, err := windows.GetSecurityInfo(windows.CurrentProcess(), windows.SE_KERNEL_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return nil, fmt.Errorf("owner of this process: %w", err)
	}
	sid, _, err := sd.Owner()
	return sid, err
}

// private returns the security descriptor, and its form as text, of an object that
// this account alone can open. The owner is said because clients and Pageant
// look at it, and without it would be a group for an elevated process.
func private() (*windows.SECURITY_DESCRIPTOR, string, error) {
	sid, err := userSID()
	if err != nil {
		return nil, "", err
	}
	text := fmt.Sprintf("O:%[1]sD:P(A;;GA;;;%[1]s)", sid)
	sd, err := windows.SecurityDescriptorFromString(text)
	if err != nil {
		return nil, "", fmt.Errorf("security descriptor %s: %w", text, err)
	}
	return sd, text, nil
}

// owned reports whether the kernel's object h belongs to this account; groups, too,
// if it may belong to the group of administrators for an elevated process.
func owned(h windows.Handle, groups bool) error {
	sd, err := windows.GetSecurityInfo(h, windows.SE_KERNEL_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	owner, _, err := sd.Owner()
	if err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	user, err := userSID()
	if err != nil {
		return err
	}
	if owner != nil && owner.Equals(user) {
		return nil
	}
	if group, err := ownerSID(); groups && err == nil && owner != nil && owner.Equals(group) {
		return nil
	}
	if owner == nil { // so it is of much under Wine
		return fmt.Errorf("it belongs to nobody: %w", windows.ERROR_ACCESS_DENIED)
	}
	return fmt.Errorf("it belongs to %v and not to this account: %w", owner, windows.ERROR_ACCESS_DENIED)
}

// accountName returns DOMAIN\name of this account, or the SID.
func accountName() string {
	sid, err := userSID()
	if err != nil {
		return ""
	}
	name, domain, _, err := sid.LookupAccount("")
	if err != nil {
		return sid.String()
	}
	return domain + `\` + name
}

// puttyUser returns the name of this account as PuTTY takes it for its pipe
// (windows/utils/get_username.c): what a user principal name has before its @, if
// there is one, else the account's name.
func puttyUser() (string, error) {
	buf := make([]uint16, 512)
	n := uint32(len(buf))
	if windows.GetUserNameEx(windows.NameUserPrincipal, &buf[0], &n) == nil && n > 0 {
		name, _, _ := strings.Cut(windows.UTF16ToString(buf), "@")
		if name != "" {
			return name, nil
		}
	}
	sid, err := userSID()
	if err != nil {
		return "", err
	}
	name, _, _, err := sid.LookupAccount("")
	if err != nil {
		return "", fmt.Errorf("name of %v: %w", sid, err)
	}
	return name, nil
}

// pipeName returns the name that PuTTY gives Pageant's pipe on this account's
// logon.
func pipeName() (string, error) {
	user, err := puttyUser()
	if err != nil {
		return "", err
	}
	block := hidden
	if procCryptProtectMemory.Find() == nil {
		_, _, _ = procCryptProtectMemory.Call(uintptr(unsafe.Pointer(&block)), uintptr(len(block)), protectCrossProcess)
	}
	return pipes + pipeOf(user, block), nil
}
