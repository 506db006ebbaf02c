// Package demo plays Microsoft's post on AF_UNIX between Windows and WSL on one
// machine: a folder plays the host's drive, a view of it in which plain sockets
// fail as they do in WSL 2 plays the guest, and small programs that know nothing
// of drvsock talk to each other by way of `drvsock run`.
//
// Follow it from the story: story_linux.go says what is run and what must come
// of it, stage_linux.go sets up and takes down what it is run on, play_linux.go
// runs one command after the other, and the program files hold the small
// programs.
package demo
