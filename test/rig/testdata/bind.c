/* Binds a socket to bind.sock and removes it; says what went wrong. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "bind.sock" };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	printf("binding to: '%s'\n", a.sun_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
		perror("server bind error");
	unlink(a.sun_path);
	return 0;
}
