/* Binds to client.sock, connects to server.sock and prints the addresses and
 * the bytes that it gets. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int talk(int fd)
{
	struct sockaddr_un own = { .sun_family = AF_UNIX, .sun_path = "client.sock" };
	struct sockaddr_un peer = { .sun_family = AF_UNIX, .sun_path = "server.sock" };
	char text[100] = "";
	socklen_t len = sizeof own;
	ssize_t n;

	if (bind(fd, (struct sockaddr *)&own, sizeof own) < 0)
		return perror("server bind error"), 0;
	if (getsockname(fd, (struct sockaddr *)&own, &len) < 0)
		return perror("getsockname(client)"), 0;
	printf("getsockname returned: %s, addressize: %d\n", own.sun_path, (int)len);
	printf("client: connecting to %s\n", peer.sun_path);
	if (connect(fd, (struct sockaddr *)&peer, sizeof peer) < 0)
		return perror("connect error"), 0;
	printf("client: connected to the server\n");
	len = sizeof own;
	if (getpeername(fd, (struct sockaddr *)&own, &len) < 0)
		return perror("getpeername(client)"), 0;
	printf("getpeername returned: %s, addressize: %d\n", own.sun_path, (int)len);
	if ((n = recv(fd, text, sizeof text, 0)) < 0)
		return perror("recv"), 0;
	printf("received: %zd bytes, %s\n", n, text);
	return 0;
}

int main(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	talk(fd);
	unlink("client.sock");
	return 0;
}
