// Package standin mounts a folder so that Unix sockets in it behave as they do
// for a Linux program on a Windows drive in WSL 2: files, folders and symbolic
// links work, a socket that the host made is there but refuses connections with
// ECONNREFUSED, and bind fails with EOPNOTSUPP.
//
// It stands in for DrvFS where there is no Windows: in tests and in the demo.
// The folder beneath plays the host's drive, the mount the guest's view of it.
// microsoft/WSL#5961 and #8321 have the behaviour that it plays.
//
// [Spawn] serves the view from a process of its own and is what to use where
// programs are started with a working folder in the view. [Mount] serves it from
// the calling process, see there for what that forbids.
package standin
