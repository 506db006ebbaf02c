package control

import "time"

// Bounds of the conversation. A client that is slower or longer is cut off.
const (
	maxRequest  = 64 << 10 // bytes of a request
	maxResponse = 8 << 20  // bytes of a response
	requestWait = 5 * time.Second
	answerWait  = 5 * time.Second // for the writing of a response
	// patience is a client's for any answer. The longest waits in a daemon are for
	// a link and for a forward's listener.
	patience = time.Minute
)
