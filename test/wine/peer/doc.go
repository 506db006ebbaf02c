// Command peer is a server and a client for Unix sockets by package net, for
// Windows and Linux, by which the end-to-end tests reach both ends. On Windows it
// takes pipes of messages too, as Docker's programs do: by package go-winio.
//
// A server says "listening" and serves until its standard input ends. What a
// program says is one line each; the tests compare the lines of both ends.
package main
