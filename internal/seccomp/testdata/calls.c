/* Makes each call that a filter hands over, by every way into the kernel that
 * this build offers, and prints what was passed and what came back. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static void say(const char *op, int fd, const char *what, int n, long ret)
{
	printf("%s %d %s %d -> %ld %d\n", op, fd, what, n, ret, ret < 0 ? errno : 0);
}

int main(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = "/no/where.sock"};
	int n = 2 + strlen(sa.sun_path), fd = socket(AF_UNIX, SOCK_STREAM, 0);

	say("connect", fd, sa.sun_path, n, connect(fd, (void *)&sa, n));
	say("bind", fd, sa.sun_path, n, bind(fd, (void *)&sa, n));
	say("listen", fd, "-", -3, listen(fd, -3));
	say("connect", -7, sa.sun_path, n, syscall(SYS_connect, -7, &sa, n));
	say("bind", fd, sa.sun_path, n, syscall(SYS_bind, fd, &sa, n));
	say("listen", fd, "-", 9, syscall(SYS_listen, fd, 9));
	say("connect", fd, "fault", n, syscall(SYS_connect, fd, (void *)16, n));
#ifdef SYS_socketcall
	uint32_t args[3] = {fd, (uint32_t)(uintptr_t)&sa, n};
	say("connect", fd, sa.sun_path, n, syscall(SYS_socketcall, 3, args));
	say("bind", fd, sa.sun_path, n, syscall(SYS_socketcall, 2, args));
	uint32_t backlog[2] = {fd, 5};
	say("listen", fd, "-", 5, syscall(SYS_socketcall, 4, backlog));
	say("fault", 0, "-", 0, syscall(SYS_socketcall, 3, (void *)16));
	uint32_t again[3] = {AF_UNIX, SOCK_STREAM, 0}; /* not ours: socket() itself */
	int fd2 = syscall(SYS_socketcall, 1, again);
	fprintf(stderr, "%s\n", fd2 >= 0 ? "socket made" : "no socket");
#elif defined(__x86_64__)
	say("connect", fd, sa.sun_path, n, syscall(0x40000000 | SYS_connect, fd, &sa, n));
#endif
	return 0;
}
