/*
 * Raw Winsock, as a C program for Windows uses it.
 *
 *   winsock get PATH    prints what the server at PATH sends
 *   winsock bind PATH   binds, says so, and keeps the socket until stdin ends
 *   winsock listen PATH listens as well
 *
 * The error of a refused call is printed as a number, with exit status 1. The
 * file of a bound socket stays, as closesocket leaves it.
 */
#include <winsock2.h>
#include <afunix.h>
#include <windows.h>
#include <stdio.h>

static int refused(const char *call)
{
	printf("%s: %d\n", call, WSAGetLastError());
	return 1;
}

static int get(SOCKET s, const struct sockaddr_un *name)
{
	char buf[4096];
	int n;
	if (connect(s, (const struct sockaddr *)name, sizeof *name))
		return refused("connect");
	while ((n = recv(s, buf, sizeof buf, 0)) > 0)
		fwrite(buf, 1, n, stdout);
	return n < 0 ? refused("recv") : 0;
}

static int hold(SOCKET s, const struct sockaddr_un *name, int listening)
{
	if (bind(s, (const struct sockaddr *)name, sizeof *name))
		return refused("bind");
	if (listening && listen(s, SOMAXCONN))
		return refused("listen");
	puts(listening ? "listening" : "bound");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}

/* Names are UTF-8 in a sockaddr_un, whatever the code page of the arguments. */
int wmain(int argc, wchar_t **argv)
{
	WSADATA data;
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	SOCKET s;
	int code;

	if (argc != 3 || !WideCharToMultiByte(CP_UTF8, 0, argv[2], -1, name.sun_path, sizeof name.sun_path, NULL, NULL))
		return 2;
	if (WSAStartup(MAKEWORD(2, 2), &data))
		return 3;
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	if (s == INVALID_SOCKET)
		return refused("socket");
	code = *argv[1] == L'g' ? get(s, &name) : hold(s, &name, *argv[1] == L'l');
	closesocket(s);
	WSACleanup();
	return code;
}
