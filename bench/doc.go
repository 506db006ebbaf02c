// Bench measures drvsock beside the two things it stands between: a native
// AF_UNIX connection and one hop through socat. docs/performance.md has the
// results and says how to read them.
//
//	go run ./bench            every figure, a table
//	go run ./bench -json F    also as JSON, with every round
//	go run ./bench -svg F     also as a plot
//	go run ./bench -peers    with ssh -L, a chain on yamux, a process for each connection
//	go run ./bench -idle 10000   memory that idle connections cost
//
// One client process per contestant lives through the whole run and is told
// what to do line by line; contestants take turns, in a new order each round,
// so that a busy machine is busy for all of them. Client and server are this
// program again. They use plain blocking system calls on threads of their own,
// allocate nothing while they measure and have the garbage collector off.
package main
