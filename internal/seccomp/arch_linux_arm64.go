package seccomp

// native holds the tables of this machine, the most used one first.
var native = []abi{abiAArch64, abiARM}
