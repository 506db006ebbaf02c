//go:build linux && !amd64 && !arm64

package seccomp

// native is empty where the numbers of the calls aren't known here: Install
// then refuses.
var native []abi
