package seccomp

import "golang.org/x/sys/unix"

// An abi is one table of system calls. Its numbers are those of the kernel's
// syscall_64.tbl, syscall_32.tbl (x86), scripts/syscall.tbl (arm64) and
// syscall.tbl (arm).
type abi struct {
	audit                        uint32 // AUDIT_ARCH_*, what seccomp_data.arch holds
	bind, connect, listen, prctl uint32
	getsockopt                   uint32
	// socketcall is the one call through which 32-bit x86 programs reach all
	// socket calls; direct ones came with Linux 4.3 and are used as well. 0 on
	// tables without it.
	socketcall uint32
	// ignore is a bit of the number that the table's calls may carry: x32 calls
	// are x86-64 calls with __X32_SYSCALL_BIT.
	ignore uint32
	// compat marks the table of the machine's 32-bit programs.
	compat bool
}

const x32Bit = 0x40000000 // __X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h

var (
	abiX8664   = abi{audit: unix.AUDIT_ARCH_X86_64, bind: 49, connect: 42, listen: 50, prctl: 157, getsockopt: 55, ignore: x32Bit}
	abiI386    = abi{audit: unix.AUDIT_ARCH_I386, bind: 361, connect: 362, listen: 363, prctl: 172, getsockopt: 365, socketcall: 102, compat: true}
	abiAArch64 = abi{audit: unix.AUDIT_ARCH_AARCH64, bind: 200, connect: 203, listen: 201, prctl: 167, getsockopt: 209}
	abiARM     = abi{audit: unix.AUDIT_ARCH_ARM, bind: 282, connect: 283, listen: 284, prctl: 172, getsockopt: 295, compat: true}
)

// abis are all tables known, those of other machines too: they are told apart
// by their audit value.
var abis = []abi{abiX8664, abiI386, abiAArch64, abiARM}

// The calls behind socketcall (include/uapi/linux/net.h).
const (
	sysBind    = 2
	sysConnect = 3
	sysListen  = 4
)
