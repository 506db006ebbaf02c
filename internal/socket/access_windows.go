package socket

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"

	"drvsock/internal/errno"
)

// Rights in SDDL. A pipe's other accounts get what GENERIC_READ and
// GENERIC_WRITE mean without FILE_CREATE_PIPE_INSTANCE, with which they could
// serve the pipe themselves; to connect with GENERIC_WRITE doesn't need it.
const (
	allRights  = "GA"
	fileAll    = "FA"
	fileOthers = "FRFW"
	pipeOthers = "0x12019b"
)

// descriptor returns the SDDL of a protected DACL that lets this process's
// account do everything, the accounts of access what others says, and nobody
// else anything.
func descriptor(access []string, own, others string) (string, error) {
	user, err := ownSID()
	if err != nil {
		return "", err
	}
	var sddl strings.Builder
	fmt.Fprintf(&sddl, "D:P(A;;%s;;;%s)", own, user)
	for _, account := range access {
		sid, err := sidOf(account)
		if err != nil {
			return "", err
		}
		if !sid.Equals(user) {
			fmt.Fprintf(&sddl, "(A;;%s;;;%s)", others, sid)
		}
	}
	return sddl.String(), nil
}

// fileACL is the descriptor of a file.
func fileACL(access []string, others string) (string, error) {
	return descriptor(access, fileAll, others)
}

func ownSID() (*windows.SID, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("account of this process: %w", err)
	}
	return user.User.Sid, nil
}

// sidOf reads an account's name, or its SID.
func sidOf(account string) (*windows.SID, error) {
	var sid *windows.SID
	var err error
	if strings.HasPrefix(strings.ToUpper(account), "S-1-") {
		sid, err = windows.StringToSid(account)
	} else {
		sid, _, _, err = windows.LookupSID("", account)
	}
	if errors.Is(err, windows.ERROR_NONE_MAPPED) || errors.Is(err, windows.ERROR_INVALID_SID) {
		return nil, refuse(errno.EINVAL, "there is no account %q", account)
	}
	if err != nil {
		return nil, fmt.Errorf("account %q: %w", account, err)
	}
	return sid, nil
}

// accountOf names the account of a SID, as DOMAIN\name, or by its numbers where
// it has no name.
func accountOf(sid *windows.SID) string {
	name, domain, _, err := sid.LookupAccount("")
	switch {
	case err != nil:
		return sid.String()
	case domain == "":
		return name
	}
	return domain + `\` + name
}

// isOwn reports whether sid owns what this process makes: its account, or for
// some administrators their group.
func isOwn(sid *windows.SID) bool {
	if user, err := ownSID(); err == nil && sid.Equals(user) {
		return true
	}
	token := windows.GetCurrentProcessToken()
	buf := make([]byte, 256)
	var n uint32
	if err := windows.GetTokenInformation(token, windows.TokenOwner, &buf[0], uint32(len(buf)), &n); err != nil {
		return false
	}
	owner := *(**windows.SID)(unsafe.Pointer(&buf[0])) // TOKEN_OWNER
	return sid.Equals(owner)
}
