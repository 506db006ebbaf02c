// Package control is how other processes talk to the daemon: where its socket
// is, who may use it, and one request and response as a line of JSON each.
//
// Both ends check the other: the daemon answers its own user and root, and a
// client believes its own user's daemon, or root's. The folder is the user's own
// and closed to others.
package control
