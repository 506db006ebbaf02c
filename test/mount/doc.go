// Package mount holds the end-to-end tests of drvsock mount: files by
// comparison with the folder beneath, sockets by the scenarios of the contract.
package mount
