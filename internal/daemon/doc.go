// Package daemon is the one process per user on the guest that holds the links:
// one per agent, made when somebody needs it and made anew when it was lost. It
// keeps the forwards up and lends its links to `drvsock run`.
//
//	daemon   begins, reloads and ends everything
//	agent    one link over time: starts, back-off, who gets what comes in
//	session  one `drvsock run`: its requests, passed on to a link
//	serve    the requests of package control
//	journal  where the log of a daemon in the background goes
package daemon
