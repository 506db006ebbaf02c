/*
 * A ws2_32.dll for Wine that knows AF_UNIX, for tests only.
 *
 * No Wine that Debian has implements AF_UNIX. Here a Unix stream socket is a TCP
 * socket on a random address of 127/8, and the socket's file is a plain file that
 * holds this address. The functions below stand in for those of ws2_32 that see
 * addresses or make sockets; all others, send and recv among them, are forwarded
 * to Wine's own DLL, which the rig installs as ws2_32r.dll (see setup).
 * README.md lists what differs from Windows.
 *
 * Functions named x_NAME are exported as NAME; r_NAME is Wine's own.
 */
#define WIN32_LEAN_AND_MEAN
#define _WIN32_WINNT 0x0A00
#include <winsock2.h>
#include <ws2tcpip.h>
#include <mswsock.h>
#include <afunix.h>
#include <windows.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_UN 108 /* sizeof sun_path, its NUL included */
#define FILE_MAGIC "AF_UNIX of the rig: "
#define DUP_MAGIC "afunix1"

BOOLEAN NTAPI SystemFunction036(PVOID, ULONG); /* RtlGenRandom */

/*
 * What one socket is. Handles made by WSADuplicateSocket name the same socket, so
 * they share it. This much also crosses to another process, in the szProtocol of
 * a WSAPROTOCOL_INFO, whose narrow form has 256 bytes of room.
 */
struct state {
    char magic[8]; /* DUP_MAGIC */
    DWORD pid, id; /* where it was made, and its number there */
    ULONG ip;      /* network order; 0 if not bound */
    USHORT port;   /* network order */
    BYTE bound, listening;
    char path[PATH_MAX_UN], peer[PATH_MAX_UN];
};
struct sock {
    struct state st;
    int refs; /* handles */
};
/* FILE_COMPLETION_INFORMATION */
struct completion {
    HANDLE port;
    ULONG_PTR key;
};
struct handle {
    SOCKET s;
    struct completion waiting; /* port NULL: none */
    struct sock *sock;
    struct handle *next;
};
_Static_assert(sizeof(struct state) <= WSAPROTOCOL_LEN + 1, "state fits into WSAPROTOCOL_INFOA");

#define BUCKETS 4096
static struct handle *table[BUCKETS];
static DWORD last_id;
static SRWLOCK lock = SRWLOCK_INIT; /* over the table and all in it */

/* ---- Wine's own functions ---- */

#define REAL(X) \
    X(SOCKET, WSASocketW, (int, int, int, LPWSAPROTOCOL_INFOW, GROUP, DWORD)) \
    X(SOCKET, WSASocketA, (int, int, int, LPWSAPROTOCOL_INFOA, GROUP, DWORD)) \
    X(int, WSADuplicateSocketW, (SOCKET, DWORD, LPWSAPROTOCOL_INFOW)) \
    X(int, WSADuplicateSocketA, (SOCKET, DWORD, LPWSAPROTOCOL_INFOA)) \
    X(int, bind, (SOCKET, const struct sockaddr *, int)) \
    X(int, listen, (SOCKET, int)) \
    X(int, connect, (SOCKET, const struct sockaddr *, int)) \
    X(int, WSAConnect, (SOCKET, const struct sockaddr *, int, LPWSABUF, LPWSABUF, LPQOS, LPQOS)) \
    X(SOCKET, accept, (SOCKET, struct sockaddr *, int *)) \
    X(SOCKET, WSAAccept, (SOCKET, struct sockaddr *, LPINT, LPCONDITIONPROC, DWORD_PTR)) \
    X(int, getsockname, (SOCKET, struct sockaddr *, int *)) \
    X(int, getpeername, (SOCKET, struct sockaddr *, int *)) \
    X(int, setsockopt, (SOCKET, int, int, const char *, int)) \
    X(int, closesocket, (SOCKET)) \
    X(int, WSARecv, (SOCKET, LPWSABUF, DWORD, LPDWORD, LPDWORD, LPWSAOVERLAPPED, LPWSAOVERLAPPED_COMPLETION_ROUTINE)) \
    X(int, WSASend, (SOCKET, LPWSABUF, DWORD, LPDWORD, DWORD, LPWSAOVERLAPPED, LPWSAOVERLAPPED_COMPLETION_ROUTINE)) \
    X(int, WSAIoctl, (SOCKET, DWORD, LPVOID, DWORD, LPVOID, DWORD, LPDWORD, LPWSAOVERLAPPED, \
                      LPWSAOVERLAPPED_COMPLETION_ROUTINE)) \
    X(void, WSASetLastError, (int))

#define DECLARE(ret, name, args) static ret(WINAPI *r_##name) args;
REAL(DECLARE)
static LPFN_ACCEPTEX r_AcceptEx;
static LPFN_GETACCEPTEXSOCKADDRS r_GetAcceptExSockaddrs;
static LPFN_CONNECTEX r_ConnectEx;
static LPFN_TRANSMITFILE r_TransmitFile;

static BOOL CALLBACK load(PINIT_ONCE once, PVOID param, PVOID *context)
{
    HMODULE real = LoadLibraryA("ws2_32r.dll");
    (void)once, (void)param, (void)context;
    if (!real) {
        fprintf(stderr, "afunix: ws2_32r.dll: error %lu\n", GetLastError());
        ExitProcess(97);
    }
#define LOAD(ret, name, args) *(FARPROC *)&r_##name = GetProcAddress(real, #name);
    REAL(LOAD)
    return TRUE;
}
static void init(void)
{
    static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
    InitOnceExecuteOnce(&once, load, NULL, NULL);
}
static int fail(int error)
{
    r_WSASetLastError(error);
    return SOCKET_ERROR;
}
static SOCKET no_socket(int error)
{
    r_WSASetLastError(error);
    return INVALID_SOCKET;
}

/* ---- the table ---- */

static struct handle **slot(SOCKET s) /* under the lock */
{
    struct handle **p = &table[(s >> 2) % BUCKETS];
    while (*p && (*p)->s != s) p = &(*p)->next;
    return p;
}
static void forget_locked(SOCKET s)
{
    struct handle **p = slot(s), *h = *p;
    if (!h) return;
    *p = h->next;
    if (--h->sock->refs == 0) free(h->sock);
    free(h);
}
static void forget(SOCKET s)
{
    AcquireSRWLockExclusive(&lock);
    forget_locked(s);
    ReleaseSRWLockExclusive(&lock);
}
/*
 * note makes s a Unix socket: one with the state st, or a new one if st is NULL.
 * A state of this process whose socket is still open means that socket.
 */
static void note(SOCKET s, const struct state *st)
{
    struct handle *h = calloc(1, sizeof *h), *o;
    struct sock *k = NULL;
    if (!h) abort();
    AcquireSRWLockExclusive(&lock);
    forget_locked(s); /* left over from a handle that was closed by CloseHandle */
    if (st && st->pid == GetCurrentProcessId())
        for (int i = 0; i < BUCKETS && !k; i++)
            for (o = table[i]; o && !k; o = o->next)
                if (o->sock->st.id == st->id) k = o->sock;
    if (!k) {
        if (!(k = calloc(1, sizeof *k))) abort();
        if (st) k->st = *st;
        memcpy(k->st.magic, DUP_MAGIC, sizeof DUP_MAGIC);
        k->st.pid = GetCurrentProcessId();
        k->st.id = ++last_id;
    }
    k->refs++;
    h->s = s;
    h->sock = k;
    *slot(s) = h;
    ReleaseSRWLockExclusive(&lock);
}
/*
 * accepted makes s the accepting side of a connection to listener. AcceptEx gets a
 * socket that is there already and may have its completion port.
 */
static void accepted(SOCKET s, const struct state *listener)
{
    struct state st = {0}; /* pid 0: no socket that is there already */
    st.bound = 1;
    memcpy(st.path, listener->path, sizeof st.path);
    AcquireSRWLockExclusive(&lock);
    struct handle *h = *slot(s);
    if (h) {
        h->sock->st.bound = 1;
        memcpy(h->sock->st.path, st.path, sizeof st.path);
    }
    ReleaseSRWLockExclusive(&lock);
    if (!h) note(s, &st);
}
static BOOL get(SOCKET s, struct state *out)
{
    AcquireSRWLockShared(&lock);
    struct handle *h = *slot(s);
    if (h) *out = h->sock->st;
    ReleaseSRWLockShared(&lock);
    return h != NULL;
}
static void set_peer(SOCKET s, const char *path)
{
    AcquireSRWLockExclusive(&lock);
    struct handle *h = *slot(s);
    if (h) strcpy(h->sock->st.peer, path);
    ReleaseSRWLockExclusive(&lock);
}

/* ---- completion ports ---- */

/*
 * Handles of one socket share a file object, and in Wine 8 that belongs to its
 * first completion port and key for good: FileReplaceCompletionInformation, by
 * which Go takes a socket back from os.File to hand its duplicate to package net,
 * is not implemented. So a handle's port is set only when it is first used for
 * input or output; a handle that is duplicated and closed never sets one.
 */
#define FILE_COMPLETION_INFORMATION_CLASS 30
typedef LONG(NTAPI *set_information)(HANDLE, PVOID, PVOID, ULONG, ULONG);
static set_information r_NtSetInformationFile;

static LONG NTAPI my_NtSetInformationFile(HANDLE f, PVOID status, PVOID info, ULONG len, ULONG class)
{
    BOOL ours = FALSE;
    if (class == FILE_COMPLETION_INFORMATION_CLASS && info && len >= sizeof(struct completion)) {
        AcquireSRWLockExclusive(&lock);
        struct handle *h = *slot((SOCKET)f);
        if (h) {
            memcpy(&h->waiting, info, sizeof h->waiting);
            ours = TRUE;
        }
        ReleaseSRWLockExclusive(&lock);
    }
    return ours ? 0 : r_NtSetInformationFile(f, status, info, len, class);
}
/* used sets the completion port of a handle that is about to be used. */
static void used(SOCKET s)
{
    ULONG_PTR status[2]; /* IO_STATUS_BLOCK */
    AcquireSRWLockShared(&lock);
    struct handle *h = *slot(s);
    BOOL waiting = h && h->waiting.port;
    ReleaseSRWLockShared(&lock);
    if (!waiting) return;
    /* Under the lock: another thread's operation must not start before. */
    AcquireSRWLockExclusive(&lock);
    h = *slot(s);
    if (h && h->waiting.port) {
        r_NtSetInformationFile((HANDLE)s, status, &h->waiting, sizeof h->waiting, FILE_COMPLETION_INFORMATION_CLASS);
        h->waiting.port = NULL;
    }
    ReleaseSRWLockExclusive(&lock);
}
/* CreateIoCompletionPort reaches NtSetInformationFile by kernelbase's imports. */
BOOL WINAPI DllMain(HINSTANCE self, DWORD reason, LPVOID reserved)
{
    (void)self, (void)reserved;
    if (reason != DLL_PROCESS_ATTACH) return TRUE;
    BYTE *base = (BYTE *)GetModuleHandleA("kernelbase.dll");
    if (!base) return TRUE;
    IMAGE_NT_HEADERS *nt = (void *)(base + ((IMAGE_DOS_HEADER *)base)->e_lfanew);
    IMAGE_IMPORT_DESCRIPTOR *d =
        (void *)(base + nt->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT].VirtualAddress);
    for (; d->Name; d++) {
        if (_stricmp((char *)base + d->Name, "ntdll.dll") || !d->OriginalFirstThunk) continue;
        IMAGE_THUNK_DATA *name = (void *)(base + d->OriginalFirstThunk), *to = (void *)(base + d->FirstThunk);
        for (; name->u1.AddressOfData; name++, to++) {
            DWORD old;
            if (IMAGE_SNAP_BY_ORDINAL(name->u1.Ordinal)) continue;
            IMAGE_IMPORT_BY_NAME *n = (void *)(base + name->u1.AddressOfData);
            if (strcmp((char *)n->Name, "NtSetInformationFile")) continue;
            if (!VirtualProtect(&to->u1.Function, sizeof(void *), PAGE_READWRITE, &old)) return TRUE;
            r_NtSetInformationFile = (set_information)to->u1.Function;
            InterlockedExchangePointer((PVOID *)&to->u1.Function, my_NtSetInformationFile);
            VirtualProtect(&to->u1.Function, sizeof(void *), old, &old);
        }
    }
    return TRUE;
}

/* ---- addresses ---- */

static int put_name(const char *path, struct sockaddr *a, int *len)
{
    SOCKADDR_UN un = {0};
    if (!a || !len || *len < (int)sizeof un) return fail(WSAEFAULT);
    un.sun_family = AF_UNIX;
    strcpy(un.sun_path, path);
    memcpy(a, &un, sizeof un);
    *len = sizeof un;
    return 0;
}
/* take_name reads a path out of an address and returns 0 or a WSA error. */
static int take_name(const struct sockaddr *a, int len, char *path, wchar_t *wide)
{
    const SOCKADDR_UN *un = (const void *)a;
    int room = len - (int)offsetof(SOCKADDR_UN, sun_path), n;
    if (!a || room < 1) return WSAEFAULT;
    if (a->sa_family != AF_UNIX) return WSAEAFNOSUPPORT;
    if (room > PATH_MAX_UN) room = PATH_MAX_UN;
    n = (int)strnlen(un->sun_path, room);
    if (n == 0) return WSAEINVAL; /* unnamed and abstract: not on Windows either */
    if (n >= PATH_MAX_UN) return WSAEFAULT;
    memcpy(path, un->sun_path, n);
    path[n] = 0;
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, PATH_MAX_UN) ? 0 : WSAEINVAL;
}
/* resolve finds the TCP address of the socket that the file named by a stands for. */
static int resolve(const struct sockaddr *a, int len, char *path, struct sockaddr_in *in)
{
    wchar_t wide[PATH_MAX_UN];
    char text[64];
    DWORD n = 0;
    unsigned ip, port;
    int error = take_name(a, len, path, wide);
    if (error) return error;
    /* To connect takes write permission. */
    HANDLE f = CreateFileW(wide, GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL,
                           OPEN_EXISTING, 0, NULL);
    if (f == INVALID_HANDLE_VALUE) return GetLastError() == ERROR_ACCESS_DENIED ? WSAEACCES : WSAECONNREFUSED;
    if (!ReadFile(f, text, sizeof text - 1, &n, NULL)) n = 0;
    CloseHandle(f);
    text[n] = 0;
    if (strncmp(text, FILE_MAGIC, strlen(FILE_MAGIC)) || sscanf(text + strlen(FILE_MAGIC), "%x %u", &ip, &port) != 2)
        return WSAECONNREFUSED;
    memset(in, 0, sizeof *in);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = ip;
    in->sin_port = (USHORT)port;
    return 0;
}

/* ---- making sockets ---- */

SOCKET WINAPI x_WSASocketW(int af, int type, int proto, LPWSAPROTOCOL_INFOW info, GROUP group, DWORD flags)
{
    SOCKET s;
    BOOL on = TRUE;
    struct state st;
    init();
    if (info && !memcmp(info->szProtocol, DUP_MAGIC, sizeof DUP_MAGIC)) {
        memcpy(&st, info->szProtocol, sizeof st);
        s = r_WSASocketW(af, type, proto, info, group, flags);
        if (s != INVALID_SOCKET) note(s, &st);
        return s;
    }
    if (info || af != AF_UNIX) {
        s = r_WSASocketW(af, type, proto, info, group, flags);
        if (s != INVALID_SOCKET) forget(s);
        return s;
    }
    if (type != SOCK_STREAM) return no_socket(WSAESOCKTNOSUPPORT);
    if (proto) return no_socket(WSAEPROTONOSUPPORT);
    s = r_WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, group, flags);
    if (s == INVALID_SOCKET) return s;
    /* Unix sockets don't wait to fill a segment. Accepted sockets inherit it. */
    r_setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (void *)&on, sizeof on);
    note(s, NULL);
    return s;
}
SOCKET WINAPI x_WSASocketA(int af, int type, int proto, LPWSAPROTOCOL_INFOA info, GROUP group, DWORD flags)
{
    init();
    if (info && !memcmp(info->szProtocol, DUP_MAGIC, sizeof DUP_MAGIC)) {
        WSAPROTOCOL_INFOW w = {0};
        memcpy(&w, info, offsetof(WSAPROTOCOL_INFOA, szProtocol));
        memcpy(w.szProtocol, info->szProtocol, sizeof(struct state));
        return x_WSASocketW(af, type, proto, &w, group, flags);
    }
    if (!info) return x_WSASocketW(af, type, proto, NULL, group, flags);
    SOCKET s = r_WSASocketA(af, type, proto, info, group, flags);
    if (s != INVALID_SOCKET) forget(s);
    return s;
}
SOCKET WINAPI x_socket(int af, int type, int proto)
{
    return x_WSASocketW(af, type, proto, NULL, 0, WSA_FLAG_OVERLAPPED);
}
int WINAPI x_WSADuplicateSocketW(SOCKET s, DWORD pid, LPWSAPROTOCOL_INFOW info)
{
    struct state st;
    init();
    int r = r_WSADuplicateSocketW(s, pid, info);
    if (r || !get(s, &st)) return r;
    info->iAddressFamily = AF_UNIX;
    info->iProtocol = 0;
    memcpy(info->szProtocol, &st, sizeof st);
    return 0;
}
int WINAPI x_WSADuplicateSocketA(SOCKET s, DWORD pid, LPWSAPROTOCOL_INFOA info)
{
    struct state st;
    WSAPROTOCOL_INFOW w;
    init();
    if (!get(s, &st) || !info) return r_WSADuplicateSocketA(s, pid, info);
    int r = x_WSADuplicateSocketW(s, pid, &w);
    if (r) return r;
    memset(info, 0, sizeof *info);
    memcpy(info, &w, offsetof(WSAPROTOCOL_INFOA, szProtocol));
    memcpy(info->szProtocol, w.szProtocol, sizeof st);
    return 0;
}
int WINAPI x_closesocket(SOCKET s)
{
    init();
    forget(s); /* first: the number may be someone's again at once */
    return r_closesocket(s);
}

/* ---- naming and connecting ---- */

static int bind_error(DWORD error)
{
    switch (error) {
    case ERROR_FILE_EXISTS:
    case ERROR_ALREADY_EXISTS: return WSAEADDRINUSE;
    case ERROR_ACCESS_DENIED: return WSAEACCES;
    default: return WSAENETDOWN;
    }
}
int WINAPI x_bind(SOCKET s, const struct sockaddr *a, int len)
{
    struct state st;
    struct sockaddr_in in = {0};
    int in_len = sizeof in;
    char path[PATH_MAX_UN], text[64];
    wchar_t wide[PATH_MAX_UN];
    unsigned random;
    DWORD n;
    init();
    if (!get(s, &st)) return r_bind(s, a, len);
    int error = take_name(a, len, path, wide);
    if (error) return fail(error);
    if (st.bound) return fail(WSAEINVAL);
    HANDLE f = CreateFileW(wide, GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, NULL, CREATE_NEW,
                           FILE_ATTRIBUTE_NORMAL, NULL);
    if (f == INVALID_HANDLE_VALUE) return fail(bind_error(GetLastError()));
    /* Random, so that what a stale file names stays free for good. */
    SystemFunction036(&random, sizeof random);
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = __builtin_bswap32(0x7f010000u + random % 0xfd0000u);
    if (r_bind(s, (void *)&in, sizeof in) || r_getsockname(s, (void *)&in, &in_len)) {
        CloseHandle(f);
        DeleteFileW(wide);
        return SOCKET_ERROR;
    }
    snprintf(text, sizeof text, FILE_MAGIC "%x %u\n", (unsigned)in.sin_addr.s_addr, in.sin_port);
    WriteFile(f, text, strlen(text), &n, NULL);
    CloseHandle(f);
    AcquireSRWLockExclusive(&lock);
    struct handle *h = *slot(s);
    if (h) {
        h->sock->st.bound = 1;
        h->sock->st.ip = in.sin_addr.s_addr;
        h->sock->st.port = in.sin_port;
        strcpy(h->sock->st.path, path);
    }
    ReleaseSRWLockExclusive(&lock);
    return 0;
}
int WINAPI x_listen(SOCKET s, int backlog)
{
    init();
    AcquireSRWLockExclusive(&lock);
    struct handle *h = *slot(s);
    BOOL unbound = h && !h->sock->st.bound;
    if (h && !unbound) h->sock->st.listening = 1;
    ReleaseSRWLockExclusive(&lock);
    return unbound ? fail(WSAEINVAL) : r_listen(s, backlog);
}
int WINAPI x_connect(SOCKET s, const struct sockaddr *a, int len)
{
    struct state st;
    struct sockaddr_in in;
    char path[PATH_MAX_UN];
    init();
    if (!get(s, &st)) return r_connect(s, a, len);
    int error = resolve(a, len, path, &in);
    if (error) return fail(error);
    set_peer(s, path);
    int r = r_connect(s, (void *)&in, sizeof in);
    /* A TCP socket of Linux that was refused says so once more at the next try (inet_stream_connect). */
    if (r && GetLastError() == WSAECONNABORTED) r = r_connect(s, (void *)&in, sizeof in);
    return r;
}
int WINAPI x_WSAConnect(SOCKET s, const struct sockaddr *a, int len, LPWSABUF b1, LPWSABUF b2, LPQOS q1, LPQOS q2)
{
    struct state st;
    init();
    if (!get(s, &st)) return r_WSAConnect(s, a, len, b1, b2, q1, q2);
    return x_connect(s, a, len);
}
SOCKET WINAPI x_accept(SOCKET s, struct sockaddr *a, int *len)
{
    struct state st;
    init();
    if (!get(s, &st)) {
        SOCKET c = r_accept(s, a, len);
        if (c != INVALID_SOCKET) forget(c);
        return c;
    }
    if (a && (!len || *len < (int)sizeof(SOCKADDR_UN))) return no_socket(WSAEFAULT);
    SOCKET c = r_accept(s, NULL, NULL);
    if (c == INVALID_SOCKET) return c;
    forget(c);
    accepted(c, &st);
    if (a) put_name("", a, len);
    return c;
}
SOCKET WINAPI x_WSAAccept(SOCKET s, struct sockaddr *a, LPINT len, LPCONDITIONPROC cond, DWORD_PTR data)
{
    struct state st;
    init();
    if (get(s, &st)) return x_accept(s, a, len);
    SOCKET c = r_WSAAccept(s, a, len, cond, data);
    if (c != INVALID_SOCKET) forget(c);
    return c;
}
int WINAPI x_getsockname(SOCKET s, struct sockaddr *a, int *len)
{
    struct state st;
    init();
    return get(s, &st) ? put_name(st.path, a, len) : r_getsockname(s, a, len);
}
int WINAPI x_getpeername(SOCKET s, struct sockaddr *a, int *len)
{
    struct state st;
    struct sockaddr_in in;
    int in_len = sizeof in;
    init();
    if (!get(s, &st)) return r_getpeername(s, a, len);
    if (r_getpeername(s, (void *)&in, &in_len)) return SOCKET_ERROR;
    return put_name(st.peer, a, len);
}

/* ---- input and output ---- */

int WINAPI x_WSARecv(SOCKET s, LPWSABUF bufs, DWORD count, LPDWORD got, LPDWORD flags, LPWSAOVERLAPPED o,
                     LPWSAOVERLAPPED_COMPLETION_ROUTINE done)
{
    init();
    used(s);
    return r_WSARecv(s, bufs, count, got, flags, o, done);
}
int WINAPI x_WSASend(SOCKET s, LPWSABUF bufs, DWORD count, LPDWORD sent, DWORD flags, LPWSAOVERLAPPED o,
                     LPWSAOVERLAPPED_COMPLETION_ROUTINE done)
{
    init();
    used(s);
    return r_WSASend(s, bufs, count, sent, flags, o, done);
}

/* ---- extension functions, which programs get by WSAIoctl ---- */

static BOOL PASCAL my_AcceptEx(SOCKET l, SOCKET s, PVOID buf, DWORD data, DWORD local, DWORD remote, LPDWORD got, LPOVERLAPPED o)
{
    struct state st;
    used(l);
    if (get(l, &st)) accepted(s, &st);
    return r_AcceptEx(l, s, buf, data, local, remote, got, o);
}
/* The buffer has the TCP address of the listener, which tells whose it was. */
static void PASCAL my_GetAcceptExSockaddrs(PVOID buf, DWORD data, DWORD local, DWORD remote, struct sockaddr **l, LPINT l_len,
                                           struct sockaddr **r, LPINT r_len)
{
    char path[PATH_MAX_UN];
    BOOL found = FALSE;
    r_GetAcceptExSockaddrs(buf, data, local, remote, l, l_len, r, r_len);
    struct sockaddr_in *in = (void *)*l;
    /* Wine puts an int in front of each address. */
    DWORD need = sizeof(SOCKADDR_UN) + sizeof(int);
    if (!in || in->sin_family != AF_INET || local < need || remote < need) return;
    AcquireSRWLockShared(&lock);
    for (int i = 0; i < BUCKETS && !found; i++)
        for (struct handle *h = table[i]; h && !found; h = h->next) {
            struct state *st = &h->sock->st;
            if (!st->listening || st->port != in->sin_port || st->ip != in->sin_addr.s_addr) continue;
            strcpy(path, st->path);
            found = TRUE;
        }
    ReleaseSRWLockShared(&lock);
    if (!found) return;
    *l_len = *r_len = sizeof(SOCKADDR_UN);
    put_name(path, *l, l_len);
    put_name("", *r, r_len);
}
static BOOL PASCAL my_ConnectEx(SOCKET s, const struct sockaddr *a, int len, PVOID buf, DWORD n, LPDWORD sent, LPOVERLAPPED o)
{
    struct state st;
    struct sockaddr_in to, from = {0};
    char path[PATH_MAX_UN];
    if (!get(s, &st)) return r_ConnectEx(s, a, len, buf, n, sent, o);
    int error = resolve(a, len, path, &to);
    if (error) return fail(error), FALSE;
    if (!st.bound) { /* ConnectEx wants a bound socket */
        from.sin_family = AF_INET;
        from.sin_addr.s_addr = __builtin_bswap32(INADDR_LOOPBACK);
        r_bind(s, (void *)&from, sizeof from);
    }
    set_peer(s, path);
    used(s);
    return r_ConnectEx(s, (void *)&to, sizeof to, buf, n, sent, o);
}
static BOOL PASCAL my_TransmitFile(SOCKET s, HANDLE f, DWORD n, DWORD per, LPOVERLAPPED o, LPTRANSMIT_FILE_BUFFERS b, DWORD flags)
{
    used(s);
    return r_TransmitFile(s, f, n, per, o, b, flags);
}
int WINAPI x_WSAIoctl(SOCKET s, DWORD code, LPVOID in, DWORD in_len, LPVOID out, DWORD out_len, LPDWORD got, LPWSAOVERLAPPED o,
                      LPWSAOVERLAPPED_COMPLETION_ROUTINE done)
{
    static const GUID accept_ex = WSAID_ACCEPTEX, sockaddrs = WSAID_GETACCEPTEXSOCKADDRS, connect_ex = WSAID_CONNECTEX,
                      transmit = WSAID_TRANSMITFILE;
    init();
    int r = r_WSAIoctl(s, code, in, in_len, out, out_len, got, o, done);
    if (r || code != SIO_GET_EXTENSION_FUNCTION_POINTER || in_len < sizeof(GUID) || out_len < sizeof(void *)) return r;
    void **f = out;
    if (!memcmp(in, &accept_ex, sizeof accept_ex)) {
        r_AcceptEx = *f;
        *f = my_AcceptEx;
    } else if (!memcmp(in, &sockaddrs, sizeof sockaddrs)) {
        r_GetAcceptExSockaddrs = *f;
        *f = my_GetAcceptExSockaddrs;
    } else if (!memcmp(in, &connect_ex, sizeof connect_ex)) {
        r_ConnectEx = *f;
        *f = my_ConnectEx;
    } else if (!memcmp(in, &transmit, sizeof transmit)) {
        r_TransmitFile = *f;
        *f = my_TransmitFile;
    }
    return 0;
}
