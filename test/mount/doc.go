// Package mount holds the end-to-end tests of drvsock mount that are no play of
// the contract's: files by comparison with the folder beneath, other people's
// programs, and what goes wrong.
package mount
