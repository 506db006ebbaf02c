// Package wine holds the end-to-end tests with real Windows programs: drvsock.exe
// as the agent, servers and clients built for Windows, under Wine in the rig of
// package drvsock/wine. README.md says what is shown here and nowhere else.
package wine
