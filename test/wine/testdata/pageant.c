/*
 * PuTTY's agent by its window, as programs for Windows know it.
 *
 *   pageant serve      is the agent until stdin ends; it has one key, and gives
 *                      every other question back as the answer
 *   pageant ask HEX    asks it, and prints the answer in hex; both without the
 *                      length in front
 */
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x804e50ba, MOST = 8192 };

/* SSH_AGENT_IDENTITIES_ANSWER, one key of ssh-ed25519 with a comment. */
static const BYTE keys[] =
	"\x0c\0\0\0\x01\0\0\0\x33\0\0\0\x0bssh-ed25519\0\0\0\x20"
	"0123456789abcdef0123456789abcdef\0\0\0\x0c" "from Pageant";

static void put32(BYTE *p, DWORD n)
{
	p[0] = n >> 24, p[1] = n >> 16, p[2] = n >> 8, p[3] = n;
}

static DWORD get32(const BYTE *p)
{
	return (DWORD)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static LRESULT answer(const COPYDATASTRUCT *d)
{
	HANDLE map;
	BYTE *p;
	if ((DWORD)d->dwData != MAGIC || !d->cbData || ((const char *)d->lpData)[d->cbData - 1])
		return 0;
	map = OpenFileMappingA(FILE_MAP_ALL_ACCESS, FALSE, d->lpData);
	p = map ? MapViewOfFile(map, FILE_MAP_WRITE, 0, 0, 0) : NULL;
	if (!p)
		return 0;
	if (get32(p) == 1 && p[4] == 11) { /* SSH_AGENTC_REQUEST_IDENTITIES */
		put32(p, sizeof keys - 1);
		memcpy(p + 4, keys, sizeof keys - 1);
	}
	UnmapViewOfFile(p);
	CloseHandle(map);
	return 1;
}

static LRESULT CALLBACK window(HWND h, UINT m, WPARAM w, LPARAM l)
{
	if (m == WM_COPYDATA)
		return answer((const COPYDATASTRUCT *)l);
	return DefWindowProcA(h, m, w, l);
}

static DWORD WINAPI wait_for_end(void *arg)
{
	while (getchar() != EOF)
		;
	PostThreadMessageA((DWORD)(DWORD_PTR)arg, WM_QUIT, 0, 0);
	return 0;
}

static int serve(void)
{
	WNDCLASSA class = { .lpfnWndProc = window, .lpszClassName = "Pageant", .hInstance = GetModuleHandleA(NULL) };
	MSG m;
	if (!RegisterClassA(&class) || !CreateWindowA("Pageant", "Pageant", 0, 0, 0, 0, 0, HWND_MESSAGE, NULL, class.hInstance, NULL))
		return 1;
	CloseHandle(CreateThread(NULL, 0, wait_for_end, (void *)(DWORD_PTR)GetCurrentThreadId(), 0, NULL));
	puts("listening");
	fflush(stdout);
	while (GetMessageA(&m, NULL, 0, 0) > 0)
		DispatchMessageA(&m);
	return 0;
}

/* What PuTTY says of its shared memory: whose it is, by which Pageant lets it in. */
static SECURITY_ATTRIBUTES *mine(void)
{
	static struct { TOKEN_USER user; BYTE room[SECURITY_MAX_SID_SIZE]; } t;
	static SECURITY_DESCRIPTOR sd;
	static SECURITY_ATTRIBUTES sa = { sizeof sa, &sd, FALSE };
	HANDLE token;
	DWORD n;
	if (!OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &token) || !GetTokenInformation(token, TokenUser, &t, sizeof t, &n) ||
	    !InitializeSecurityDescriptor(&sd, SECURITY_DESCRIPTOR_REVISION) || !SetSecurityDescriptorOwner(&sd, t.user.User.Sid, FALSE))
		return NULL;
	return &sa;
}

static int ask(const char *hex)
{
	char name[40];
	COPYDATASTRUCT d = { .dwData = MAGIC, .lpData = name };
	HWND h = FindWindowA("Pageant", "Pageant");
	HANDLE map;
	BYTE *p;
	DWORD i, n = strlen(hex) / 2;
	d.cbData = 1 + sprintf(name, "PageantRequest%08lx", GetCurrentThreadId());
	map = CreateFileMappingA(INVALID_HANDLE_VALUE, mine(), PAGE_READWRITE, 0, MOST, name);
	p = map ? MapViewOfFile(map, FILE_MAP_WRITE, 0, 0, 0) : NULL;
	if (!h || !p || n > MOST - 4) {
		puts(h ? "no memory" : "no Pageant");
		return 1;
	}
	put32(p, n);
	for (i = 0; i < n; i++) {
		char digits[3] = { hex[2 * i], hex[2 * i + 1], 0 };
		p[4 + i] = strtoul(digits, NULL, 16);
	}
	if (!SendMessageA(h, WM_COPYDATA, 0, (LPARAM)&d)) {
		puts("refused");
		return 1;
	}
	n = get32(p);
	for (i = 0; i < n && i < MOST - 4; i++)
		printf("%02x", p[4 + i]);
	puts("");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "serve"))
		return serve();
	if (argc == 3 && !strcmp(argv[1], "ask"))
		return ask(argv[2]);
	return 2;
}
