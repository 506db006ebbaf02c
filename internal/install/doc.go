// Package install finds the Windows program that is the agent, and puts the one
// that came with this program where Windows can start it quickly: on one of its
// own drives. From a Linux file system that takes about 25 seconds
// (jstarks/npiperelay#26).
//
// A file in the store bears its content in its name. So builds of several guests
// lie side by side, none is ever written while it runs, which Windows forbids,
// and a guest finds its own without starting it.
package install
