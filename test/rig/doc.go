// Package rig is what the end-to-end tests stand on: a folder that plays the
// host's drive, a view of it in which sockets fail as on a drive in WSL 2, the
// drvsock program built from this tree, accounts for agent and program, and
// the programs that the tests start. It is for Linux.
//
// Every process that a Rig starts is gone when its test ends; a test that
// leaves one behind fails.
package rig
