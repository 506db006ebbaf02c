// Package wine runs Windows programs in the rig that ./setup makes: a Wine prefix
// in which AF_UNIX works, for tests and demonstrations on Linux. README.md says
// what it can do and where it differs from Windows.
package wine
