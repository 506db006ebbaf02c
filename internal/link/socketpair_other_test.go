//go:build !linux

package link

var socketPair = netPipe
