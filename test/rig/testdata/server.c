/* Listens on server.sock, prints the addresses that it sees and sends one text
 * to the first client. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int serve(int fd)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "server.sock" };
	const char *text = "this is a test";
	socklen_t len = sizeof a;
	ssize_t n;
	int c;

	if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
		return perror("server bind error"), 0;
	if (listen(fd, 5) < 0)
		return perror("listen error"), 0;
	if (getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return perror("getsockname error"), 0;
	printf("getsockname on listening socket: %s\n", a.sun_path);
	printf("server listening on: %s\n", "server.sock");
	fflush(stdout);
	len = sizeof a;
	memset(&a, 0, sizeof a);
	if ((c = accept(fd, (struct sockaddr *)&a, &len)) < 0)
		return perror("accept error"), 0;
	printf("accept returned address: %s, address size: %d\n", a.sun_path, (int)len);
	if ((n = send(c, text, strlen(text), 0)) < 0)
		return perror("send"), 0;
	printf("sent data successfully, bytes sent: %zd, data: %s\n", n, text);
	return 0;
}

int main(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	serve(fd);
	unlink("server.sock");
	return 0;
}
