package seccomp

// native holds the tables of this machine, the most used one first.
var native = []abi{abiX8664, abiI386}
