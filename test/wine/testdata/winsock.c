/*
 * Raw Winsock, as a C program for Windows uses it.
 *
 *   winsock get PATH    prints what the server at PATH sends
 *   winsock cygwin PATH likewise, by Cygwin's stand-in for a socket at PATH
 *   winsock Echo PATH   makes such a stand-in, says so, and serves clients, which
 *                       get back what they send, until stdin ends
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

/* MSG_WAITALL is not everywhere. */
static int all(SOCKET s, void *buf, int size)
{
	int n, had = 0;
	while (had < size && (n = recv(s, (char *)buf + had, size - had, 0)) > 0)
		had += n;
	return had == size;
}

static int print(SOCKET s)
{
	char buf[4096];
	int n;
	while ((n = recv(s, buf, sizeof buf, 0)) > 0)
		fwrite(buf, 1, n, stdout);
	return n < 0 ? refused("recv") : 0;
}

static int get(SOCKET s, const struct sockaddr_un *name)
{
	if (connect(s, (const struct sockaddr *)name, sizeof *name))
		return refused("connect");
	return print(s);
}

static unsigned own_secret[4] = { 0, 0, 0xfedcba98, 0x00010203 };

/*
 * Both sides say the secret of the file, then what Cygwin knows of a process: its
 * number, user and group, 32 bits each.
 */
static int get_cygwin(const wchar_t *path)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	unsigned secret[4], cred[3] = { GetCurrentProcessId(), 1000, 513 }, port;
	char echo[sizeof secret];
	FILE *f = _wfopen(path, L"rb");
	SOCKET s = socket(AF_INET, SOCK_STREAM, 0);
	if (!f || fscanf(f, "!<socket >%u s %8x-%8x-%8x-%8x", &port, secret, secret + 1, secret + 2, secret + 3) != 5)
		return 4;
	fclose(f);
	if (!(GetFileAttributesW(path) & FILE_ATTRIBUTE_SYSTEM))
		puts("no attribute SYSTEM");
	to.sin_port = htons(port);
	if (connect(s, (const struct sockaddr *)&to, sizeof to))
		return refused("connect");
	if (send(s, (const char *)secret, sizeof secret, 0) != sizeof secret ||
	    !all(s, echo, sizeof echo) || memcmp(echo, secret, sizeof secret) ||
	    send(s, (const char *)cred, sizeof cred, 0) != sizeof cred || !all(s, cred, sizeof cred))
		return refused("greeting");
	return print(s);
}

static DWORD WINAPI echo_cygwin(void *arg)
{
	SOCKET l = (SOCKET)arg, s;
	while ((s = accept(l, NULL, NULL)) != INVALID_SOCKET) {
		unsigned got[4], cred[3];
		char buf[4096];
		int n;
		if (all(s, got, sizeof got) && !memcmp(got, own_secret, sizeof got) &&
		    send(s, (const char *)got, sizeof got, 0) == sizeof got &&
		    all(s, cred, sizeof cred)) {
			cred[0] = GetCurrentProcessId();
			send(s, (const char *)cred, sizeof cred, 0);
			while ((n = recv(s, buf, sizeof buf, 0)) > 0 && send(s, buf, n, 0) == n)
				;
		} else {
			puts("stranger");
			fflush(stdout);
		}
		closesocket(s);
	}
	return 0;
}

static int serve_cygwin(const wchar_t *path)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int len = sizeof at;
	SOCKET l = socket(AF_INET, SOCK_STREAM, 0);
	FILE *f;
	if (bind(l, (const struct sockaddr *)&at, sizeof at) || listen(l, SOMAXCONN) || getsockname(l, (struct sockaddr *)&at, &len))
		return refused("listen");
	own_secret[0] = GetCurrentProcessId() * 2654435761u;
	own_secret[1] = GetTickCount() * 2246822519u;
	f = _wfopen(path, L"wb");
	if (!f)
		return 4;
	fprintf(f, "!<socket >%u s %08x-%08x-%08x-%08x%c", ntohs(at.sin_port), own_secret[0], own_secret[1], own_secret[2], own_secret[3], 0);
	fclose(f);
	SetFileAttributesW(path, FILE_ATTRIBUTE_SYSTEM);
	CloseHandle(CreateThread(NULL, 0, echo_cygwin, (void *)l, 0, NULL));
	puts("listening");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
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
	if (*argv[1] == L'c')
		return get_cygwin(argv[2]);
	if (*argv[1] == L'E')
		return serve_cygwin(argv[2]);
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	if (s == INVALID_SOCKET)
		return refused("socket");
	code = *argv[1] == L'g' ? get(s, &name) : hold(s, &name, *argv[1] == L'l');
	closesocket(s);
	WSACleanup();
	return code;
}
