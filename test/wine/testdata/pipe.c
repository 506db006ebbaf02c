/*
 * Named pipes, as a C program for Windows uses them.
 *
 *   pipe echo byte|message NAME   serves any number of clients, each of which
 *                                 gets back what it sends, until stdin ends
 *   pipe hand                     makes the calls that it is told
 *
 * By hand, each line of stdin is a call and each line of stdout what came of it:
 * "ok", with a value where there is one, or the number of the error. H is a digit
 * that names a pipe's end.
 *
 *   serve-byte H NAME           makes an instance that one client can connect to
 *   serve-message H NAME        likewise, of messages
 *   accept H                    waits for that
 *   connect H NAME
 *   send H BYTES                noise, in pieces of several sizes: ok SHA-256
 *   recv H BYTES                ok SHA-256
 *   swap H BYTES                both at once: ok SHA-256 SHA-256
 *   read H                      ReadFile, once: ok BYTES
 *   end H                       writes an empty message
 *   close H                     lets the other end read what was sent
 *   client H                    ok PROCESS
 *   pid                         ok PROCESS
 *   sid                         ok SID, this account's
 *   dacl H                      ok SDDL, by GetSecurityInfo
 *   named NAME                  the same of a file or pipe by GetNamedSecurityInfo
 */
#include <windows.h>
#include <aclapi.h>
#include <sddl.h>
#include <wincrypt.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 64 << 20, PIECE = 50000 };

static HANDLE ends[10];

static HANDLE instance(const wchar_t *name, int message)
{
	return CreateNamedPipeW(name, PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED,
		message ? PIPE_TYPE_MESSAGE : PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, 65536, 65536, 0, NULL);
}

/* Waits for what was begun with o. */
static DWORD finish(HANDLE h, OVERLAPPED *o, BOOL done, DWORD *n)
{
	DWORD err = done ? 0 : GetLastError();
	if (!err || err == ERROR_IO_PENDING)
		err = GetOverlappedResult(h, o, n, TRUE) ? 0 : GetLastError();
	CloseHandle(o->hEvent);
	return err;
}

static DWORD accept_client(HANDLE h)
{
	OVERLAPPED o = { .hEvent = CreateEventW(NULL, TRUE, FALSE, NULL) };
	DWORD n, err;
	if (ConnectNamedPipe(h, &o) || GetLastError() == ERROR_PIPE_CONNECTED) {
		CloseHandle(o.hEvent);
		return 0;
	}
	err = finish(h, &o, FALSE, &n);
	return err;
}

static DWORD read_some(HANDLE h, void *buf, DWORD size, DWORD *n)
{
	OVERLAPPED o = { .hEvent = CreateEventW(NULL, TRUE, FALSE, NULL) };
	DWORD err;
	*n = 0;
	err = finish(h, &o, ReadFile(h, buf, size, NULL, &o), n);
	return err == ERROR_MORE_DATA ? 0 : err;
}

static DWORD write_all(HANDLE h, const void *buf, DWORD size)
{
	OVERLAPPED o = { .hEvent = CreateEventW(NULL, TRUE, FALSE, NULL) };
	DWORD n = 0, err = finish(h, &o, WriteFile(h, buf, size, NULL, &o), &n);
	return err || n == size ? err : ERROR_WRITE_FAULT;
}

static void say_sha(HCRYPTHASH hash)
{
	BYTE sum[32];
	DWORD i, n = sizeof sum;
	if (!CryptGetHashParam(hash, HP_HASHVAL, sum, &n, 0))
		n = 0;
	printf(" ");
	for (i = 0; i < n; i++)
		printf("%02x", sum[i]);
	CryptDestroyHash(hash);
}

static HCRYPTHASH new_sha(void)
{
	static HCRYPTPROV provider;
	HCRYPTHASH hash = 0;
	if (!provider)
		CryptAcquireContextW(&provider, NULL, NULL, PROV_RSA_AES, CRYPT_VERIFYCONTEXT);
	CryptCreateHash(provider, CALG_SHA_256, 0, 0, &hash);
	return hash;
}

struct sending { HANDLE h; DWORD left, err; HCRYPTHASH hash; };

static DWORD WINAPI send_noise(void *arg)
{
	static BYTE buf[PIECE];
	struct sending *s = arg;
	ULONGLONG x = 88172645463325252ull ^ GetTickCount64() ^ GetCurrentProcessId();
	while (s->left && !s->err) {
		DWORD i, n = 1 + x % PIECE;
		if (n > s->left)
			n = s->left;
		for (i = 0; i < n; i++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			buf[i] = x >> 32;
		}
		CryptHashData(s->hash, buf, n, 0);
		s->err = write_all(s->h, buf, n);
		s->left -= n;
	}
	return 0;
}

static DWORD receive(HANDLE h, DWORD left, HCRYPTHASH hash)
{
	static BYTE buf[PIECE];
	while (left) {
		DWORD n, err = read_some(h, buf, left < PIECE ? left : PIECE, &n);
		if (err)
			return err;
		if (!n)
			return ERROR_HANDLE_EOF;
		CryptHashData(hash, buf, n, 0);
		left -= n;
	}
	return 0;
}

static DWORD WINAPI echo_client(void *arg)
{
	HANDLE h = arg;
	BYTE *buf = HeapAlloc(GetProcessHeap(), 0, PIECE);
	DWORD n, err;
	while (!(err = read_some(h, buf, PIECE, &n)) && n)
		if (write_all(h, buf, n))
			break;
	if (!err && !n)
		write_all(h, buf, 0); /* its end for the client's */
	FlushFileBuffers(h);
	DisconnectNamedPipe(h);
	CloseHandle(h);
	HeapFree(GetProcessHeap(), 0, buf);
	return 0;
}

struct service { const wchar_t *name; int message; };

static DWORD WINAPI echo(void *arg)
{
	struct service *s = arg;
	HANDLE h = instance(s->name, s->message);
	puts(h == INVALID_HANDLE_VALUE ? "no pipe" : "listening");
	fflush(stdout);
	while (h != INVALID_HANDLE_VALUE && !accept_client(h)) {
		HANDLE client = h;
		h = instance(s->name, s->message);
		CloseHandle(CreateThread(NULL, 0, echo_client, client, 0, NULL));
	}
	return 0;
}

static void say_dacl(DWORD err, PSECURITY_DESCRIPTOR sd)
{
	wchar_t *text;
	if (!err && !ConvertSecurityDescriptorToStringSecurityDescriptorW(sd, SDDL_REVISION_1, DACL_SECURITY_INFORMATION, &text, NULL))
		err = GetLastError();
	if (err)
		printf("%lu\n", err);
	else
		printf("ok %ls\n", text);
}

static void say_sid(void)
{
	struct { TOKEN_USER user; BYTE room[SECURITY_MAX_SID_SIZE]; } t;
	HANDLE token;
	DWORD n;
	wchar_t *text;
	if (OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token) && GetTokenInformation(token, TokenUser, &t, sizeof t, &n) &&
	    ConvertSidToStringSidW(t.user.User.Sid, &text))
		printf("ok %ls\n", text);
	else
		printf("%lu\n", GetLastError());
}

static HANDLE dial(const wchar_t *name)
{
	for (;;) {
		HANDLE h = CreateFileW(name, GENERIC_READ | GENERIC_WRITE, 0, NULL, OPEN_EXISTING, FILE_FLAG_OVERLAPPED, NULL);
		if (h != INVALID_HANDLE_VALUE || GetLastError() != ERROR_PIPE_BUSY || !WaitNamedPipeW(name, 10000))
			return h;
	}
}

static void call(const char *word, HANDLE *h, DWORD n, const char *arg)
{
	static BYTE buf[PIECE];
	wchar_t name[300];
	PSECURITY_DESCRIPTOR sd;
	DWORD err = 0;
	ULONG who;

	MultiByteToWideChar(CP_UTF8, 0, arg, -1, name, 300);
	if (!strcmp(word, "serve-byte") || !strcmp(word, "serve-message") || !strcmp(word, "connect")) {
		*h = *word == 'c' ? dial(name) : instance(name, word[6] == 'm');
		err = *h == INVALID_HANDLE_VALUE ? GetLastError() : 0;
	} else if (!strcmp(word, "accept")) {
		err = accept_client(*h);
	} else if (!strcmp(word, "send") || !strcmp(word, "recv") || !strcmp(word, "swap")) {
		struct sending s = { *h, *word == 'r' ? 0 : n, 0, new_sha() };
		HCRYPTHASH got = new_sha();
		HANDLE thread = CreateThread(NULL, 0, send_noise, &s, 0, NULL);
		if (strcmp(word, "send"))
			err = receive(*h, n, got);
		WaitForSingleObject(thread, err ? 5000 : INFINITE);
		CloseHandle(thread);
		if (!err)
			err = s.err;
		if (!err) {
			printf("ok");
			if (strcmp(word, "recv"))
				say_sha(s.hash);
			if (strcmp(word, "send"))
				say_sha(got);
			puts("");
			return;
		}
	} else if (!strcmp(word, "read")) {
		err = read_some(*h, buf, PIECE, &n);
		if (!err) {
			printf("ok %lu\n", n);
			return;
		}
	} else if (!strcmp(word, "end")) {
		err = write_all(*h, buf, 0);
	} else if (!strcmp(word, "close")) {
		FlushFileBuffers(*h);
		err = CloseHandle(*h) ? 0 : GetLastError();
	} else if (!strcmp(word, "client")) {
		if (GetNamedPipeClientProcessId(*h, &who)) {
			printf("ok %lu\n", who);
			return;
		}
		err = GetLastError();
	} else if (!strcmp(word, "pid")) {
		printf("ok %lu\n", GetCurrentProcessId());
		return;
	} else if (!strcmp(word, "sid")) {
		say_sid();
		return;
	} else if (!strcmp(word, "dacl")) {
		err = GetSecurityInfo(*h, SE_KERNEL_OBJECT, DACL_SECURITY_INFORMATION, NULL, NULL, NULL, NULL, &sd);
		say_dacl(err, sd);
		return;
	} else if (!strcmp(word, "named")) {
		err = GetNamedSecurityInfoW(name, SE_FILE_OBJECT, DACL_SECURITY_INFORMATION, NULL, NULL, NULL, NULL, &sd);
		say_dacl(err, sd);
		return;
	} else {
		puts("what?");
		return;
	}
	if (err)
		printf("%lu\n", err);
	else
		puts("ok");
}

/* A line is CALL [H [BYTES]] [NAME]; a name begins with a backslash or a drive. */
static int by_hand(void)
{
	char line[400];
	while (fgets(line, sizeof line, stdin)) {
		char word[20] = "", arg[300] = "";
		unsigned h = 0, n = 0;
		line[strcspn(line, "\r\n")] = 0;
		if (sscanf(line, "%19s %u %u", word, &h, &n) < 3)
			n = 0;
		if (strpbrk(line, "\\"))
			strncpy(arg, strrchr(line, ' ') + 1, sizeof arg - 1);
		if (h > 9 || n > MOST)
			return 2;
		call(word, &ends[h], n, arg);
		fflush(stdout);
	}
	return 0;
}

int wmain(int argc, wchar_t **argv)
{
	struct service s;
	if (argc == 2 && !wcscmp(argv[1], L"hand"))
		return by_hand();
	if (argc != 4 || wcscmp(argv[1], L"echo"))
		return 2;
	s.message = *argv[2] == L'm';
	s.name = argv[3];
	CloseHandle(CreateThread(NULL, 0, echo, &s, 0, NULL));
	while (getchar() != EOF)
		;
	return 0;
}
