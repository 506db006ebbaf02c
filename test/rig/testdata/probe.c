/*
 * probe: socket calls by hand. Each line of stdin is one call, each line of
 * stdout what came of it: "ok", with a value where there is one, or the name
 * of errno. Names of sockets and files are written with %XX for the bytes that
 * a line can't hold; "-" is the empty name.
 *
 * The same lines are given to a probe on one machine and to one in `drvsock
 * run`; the answers must be the same bytes.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAXARGS = 16 };

static char out[1 << 16];
static size_t outlen;
static char **self_argv;
static int alarm_ms; /* for the next timed call */
static int how; /* 0 libc, 1 direct system calls, 2 socketcall */

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#include <stdarg.h>
static void say(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(out + outlen, sizeof out - outlen, fmt, ap);
	va_end(ap);
	if (n > 0 && outlen + n < sizeof out)
		outlen += n;
}

static void result(long r)
{
	if (r < 0)
		say("%s", strerrorname_np(errno));
	else
		say("ok");
}

static void value(long r)
{
	if (r < 0)
		say("%s", strerrorname_np(errno));
	else
		say("ok %ld", r);
}

/* decode turns %XX into bytes, in place, and returns the length. */
static size_t decode(char *s)
{
	char *d = s, *p = s;
	if (!strcmp(s, "-")) {
		*s = 0;
		return 0;
	}
	while (*p) {
		if (*p == '%' && isxdigit((unsigned char)p[1]) && isxdigit((unsigned char)p[2])) {
			char hex[3] = { p[1], p[2], 0 };
			*d++ = (char)strtol(hex, 0, 16);
			p += 3;
		} else {
			*d++ = *p++;
		}
	}
	*d = 0;
	return d - s;
}

static void encode(const char *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = b[i];
		if (c <= ' ' || c >= 127 || c == '%')
			say("%%%02x", c);
		else
			say("%c", c);
	}
}

union address {
	struct sockaddr sa;
	struct sockaddr_un un;
	struct sockaddr_in in;
	char bytes[512];
};

/* address fills a from a name; the default length has the final NUL of a path. */
static socklen_t address(union address *a, char *name, const char *len)
{
	memset(a, 0, sizeof *a);
	if (!strncmp(name, "inet:", 5)) {
		a->in.sin_family = AF_INET;
		a->in.sin_port = htons(atoi(name + 5));
		a->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof a->in;
	}
	size_t n = decode(name);
	a->un.sun_family = AF_UNIX;
	memcpy(a->bytes + 2, name, n < 400 ? n : 400);
	if (len)
		return (socklen_t)strtol(len, 0, 0);
	if (n == 0)
		return 2;
	return 2 + n + (name[0] != 0);
}

static long call(int nr, int sc, long a, long b, long c)
{
#ifdef SYS_socketcall
	if (how == 2) {
		unsigned long args[3] = { a, b, c };
		return syscall(SYS_socketcall, sc, args);
	}
#endif
	(void)sc;
	return syscall(nr, a, b, c);
}

static int do_bind(int fd, const void *a, socklen_t n)
{
	return how ? call(SYS_bind, 2, fd, (long)a, n) : bind(fd, a, n);
}

static int do_connect(int fd, const void *a, socklen_t n)
{
	return how ? call(SYS_connect, 3, fd, (long)a, n) : connect(fd, a, n);
}

static int do_listen(int fd, int n)
{
	return how ? call(SYS_listen, 4, fd, n, 0) : listen(fd, n);
}

static void say_address(const union address *a, socklen_t n)
{
	say(" len=%u", (unsigned)n);
	if (n > 2 && a->sa.sa_family == AF_UNIX) {
		say(" name=");
		encode(a->bytes + 2, n - 2);
	}
}

static int place(int from, int to)
{
	if (from < 0 || from == to)
		return from;
	int r = dup2(from, to);
	int e = errno;
	close(from);
	errno = e;
	return r;
}

static unsigned char pattern(uint64_t i) { return (unsigned char)(i * 131 + (i >> 8) * 7 + (i >> 16)); }

static void on_alarm(int sig) { (void)sig; }

static void send_bytes(int fd, uint64_t n)
{
	static char buf[1 << 16];
	uint64_t done = 0;
	while (done < n) {
		size_t k = n - done < sizeof buf ? n - done : sizeof buf;
		for (size_t i = 0; i < k; i++)
			buf[i] = pattern(done + i);
		ssize_t r = send(fd, buf, k, MSG_NOSIGNAL);
		if (r < 0) {
			say("%s", strerrorname_np(errno));
			return;
		}
		done += r;
	}
	say("ok %llu", (unsigned long long)done);
}

static void recv_bytes(int fd, uint64_t n)
{
	static char buf[1 << 16];
	uint64_t done = 0;
	while (done < n) {
		ssize_t r = recv(fd, buf, n - done < sizeof buf ? n - done : sizeof buf, 0);
		if (r < 0) {
			say("%s", strerrorname_np(errno));
			return;
		}
		if (r == 0) {
			say("ok %llu end", (unsigned long long)done);
			return;
		}
		for (ssize_t i = 0; i < r; i++)
			if ((unsigned char)buf[i] != pattern(done + i)) {
				say("wrong byte at %llu", (unsigned long long)(done + i));
				return;
			}
		done += r;
	}
	say("ok %llu", (unsigned long long)done);
}

static void send_fd(int sock, int fd)
{
	char byte = 'x';
	struct iovec iov = { &byte, 1 };
	union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } c;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c };
	memset(&c, 0, sizeof c);
	c.h.cmsg_level = SOL_SOCKET;
	c.h.cmsg_type = SCM_RIGHTS;
	c.h.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&c.h), &fd, sizeof fd);
	value(sendmsg(sock, &m, MSG_NOSIGNAL));
}

static void recv_fd(int sock, int to)
{
	char byte;
	struct iovec iov = { &byte, 1 };
	union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } c;
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c };
	ssize_t r = recvmsg(sock, &m, 0);
	struct cmsghdr *h = r < 0 ? 0 : CMSG_FIRSTHDR(&m);
	int fd;
	if (!h) {
		value(r);
		return;
	}
	memcpy(&fd, CMSG_DATA(h), sizeof fd);
	result(place(fd, to));
}

static void say_events(int n, const struct epoll_event *ev)
{
	say("ok %d", n);
	for (int fd = 0; fd < 256; fd++)
		for (int i = 0; i < n; i++) {
			if (ev[i].data.fd != fd)
				continue;
			unsigned e = ev[i].events;
			say(" %d:%s%s%s%s%s", fd, e & EPOLLIN ? "in," : "", e & EPOLLOUT ? "out," : "",
			    e & EPOLLRDHUP ? "rdhup," : "", e & EPOLLHUP ? "hup," : "", e & EPOLLERR ? "err," : "");
		}
}

static int option(const char *name)
{
	static const struct { const char *name; int o; } t[] = {
		{ "sndbuf", SO_SNDBUF }, { "rcvbuf", SO_RCVBUF }, { "type", SO_TYPE }, { "domain", SO_DOMAIN },
		{ "acceptconn", SO_ACCEPTCONN }, { "error", SO_ERROR }, { "passcred", SO_PASSCRED },
	};
	for (size_t i = 0; i < sizeof t / sizeof *t; i++)
		if (!strcmp(t[i].name, name))
			return t[i].o;
	return -1;
}

static int num(const char *s) { return s ? (int)strtol(s, 0, 0) : 0; }

static void run(char **v, int n);

struct job { char **v; int n; };

static void *in_thread(void *p)
{
	struct job *j = p;
	run(j->v, j->n);
	return 0;
}

static void become_child(int daemonise)
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid < 0) {
		result(-1);
		return;
	}
	if (pid > 0) {
		int status = 0;
		if (daemonise)
			_exit(0);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
	if (daemonise) {
		setsid();
		if (fork() > 0)
			_exit(0);
	}
	say("ok");
}

static void run(char **v, int n)
{
#define IS(word, args) (!strcmp(v[0], word) && n > (args))
	union address a;
	socklen_t len;
	char *opt = n > 3 ? v[3] : 0;
	if (IS("socket", 2)) {
		int type = !strcmp(v[2], "dgram") ? SOCK_DGRAM : !strcmp(v[2], "seqpacket") ? SOCK_SEQPACKET : SOCK_STREAM;
		int family = !strcmp(v[2], "inet") ? AF_INET : AF_UNIX;
		if (opt && !strcmp(opt, "nonblock"))
			type |= SOCK_NONBLOCK;
		if (opt && !strcmp(opt, "cloexec"))
			type |= SOCK_CLOEXEC;
		int fd = socket(family, type, 0);
		if (type & SOCK_CLOEXEC && fd >= 0)
			fd = dup3(fd, num(v[1]), O_CLOEXEC);
		else
			fd = place(fd, num(v[1]));
		result(fd);
	} else if (IS("bind", 2)) {
		len = address(&a, v[2], opt);
		result(do_bind(num(v[1]), &a, len));
	} else if (IS("connect", 2)) {
		len = address(&a, v[2], opt);
		result(do_connect(num(v[1]), &a, len));
	} else if (IS("burst", 2)) { /* connections at once that don't wait */
		int fds[256], max = num(v[2]) < 256 ? num(v[2]) : 256, ok = 0;
		len = address(&a, v[1], 0);
		for (int i = 0; i < max; i++) {
			fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
			ok += do_connect(fds[i], &a, len) == 0;
		}
		for (int i = 0; i < max; i++)
			close(fds[i]);
		value(ok);
	} else if (IS("bindptr", 3)) {
		result(do_bind(num(v[1]), (void *)strtoul(v[2], 0, 0), num(v[3])));
	} else if (IS("connectptr", 3)) {
		result(do_connect(num(v[1]), (void *)strtoul(v[2], 0, 0), num(v[3])));
	} else if (IS("bindname", 2)) { /* as in many programs: the size of the whole structure */
		address(&a, v[2], 0);
		result(do_bind(num(v[1]), &a, sizeof a.un));
	} else if (IS("connectname", 2)) {
		address(&a, v[2], 0);
		result(do_connect(num(v[1]), &a, sizeof a.un));
	} else if (IS("listen", 2)) {
		result(do_listen(num(v[1]), num(v[2])));
	} else if (IS("accept", 2)) {
		len = sizeof a;
		memset(&a, 0, sizeof a);
		int fd = accept4(num(v[1]), &a.sa, &len, opt ? SOCK_NONBLOCK : 0);
		result(place(fd, num(v[2])));
		if (fd >= 0)
			say_address(&a, len);
	} else if (IS("getsockname", 1) || IS("getpeername", 1)) {
		len = n > 2 ? (socklen_t)num(v[2]) : sizeof a;
		memset(&a, 0, sizeof a);
		int r = v[0][3] == 's' ? getsockname(num(v[1]), &a.sa, &len) : getpeername(num(v[1]), &a.sa, &len);
		result(r);
		if (r == 0)
			say_address(&a, len);
	} else if (IS("send", 2)) {
		size_t k = decode(v[2]);
		value(send(num(v[1]), v[2], k, MSG_NOSIGNAL));
	} else if (IS("sendn", 2)) {
		send_bytes(num(v[1]), strtoull(v[2], 0, 0));
	} else if (IS("recvn", 2)) {
		recv_bytes(num(v[1]), strtoull(v[2], 0, 0));
	} else if (IS("recv", 2)) {
		char buf[4096];
		ssize_t r = recv(num(v[1]), buf, num(v[2]) < 4096 ? num(v[2]) : 4096, 0);
		value(r);
		if (r > 0) {
			say(" ");
			encode(buf, r);
		}
	} else if (IS("sendfd", 2)) {
		send_fd(num(v[1]), num(v[2]));
	} else if (IS("recvfd", 2)) {
		recv_fd(num(v[1]), num(v[2]));
	} else if (IS("peercred", 1)) {
		struct ucred c;
		len = sizeof c;
		int r = getsockopt(num(v[1]), SOL_SOCKET, SO_PEERCRED, &c, &len);
		result(r);
		if (r == 0)
			say(" pid=%d uid=%u gid=%u", c.pid, c.uid, c.gid);
	} else if (IS("shutdown", 2)) {
		result(shutdown(num(v[1]), !strcmp(v[2], "rd") ? SHUT_RD : !strcmp(v[2], "wr") ? SHUT_WR : SHUT_RDWR));
	} else if (IS("close", 1)) {
		result(close(num(v[1])));
	} else if (IS("dup", 2)) {
		result(dup2(num(v[1]), num(v[2])));
	} else if (IS("nonblock", 2)) {
		int fl = fcntl(num(v[1]), F_GETFL);
		result(fl < 0 ? fl : fcntl(num(v[1]), F_SETFL, num(v[2]) ? fl | O_NONBLOCK : fl & ~O_NONBLOCK));
	} else if (IS("getfl", 1)) {
		value(fcntl(num(v[1]), F_GETFL));
	} else if (IS("setopt", 3)) {
		int x = num(v[3]);
		result(setsockopt(num(v[1]), SOL_SOCKET, option(v[2]), &x, sizeof x));
	} else if (IS("getopt", 2)) {
		int x = 0;
		len = sizeof x;
		int r = getsockopt(num(v[1]), SOL_SOCKET, option(v[2]), &x, &len);
		value(r < 0 ? r : x);
	} else if (IS("timeout", 3)) {
		int ms = num(v[3]);
		struct timeval tv = { ms / 1000, ms % 1000 * 1000 };
		result(setsockopt(num(v[1]), SOL_SOCKET, !strcmp(v[2], "send") ? SO_SNDTIMEO : SO_RCVTIMEO, &tv, sizeof tv));
	} else if (IS("epoll", 1)) {
		result(place(epoll_create1(0), num(v[1])));
	} else if (IS("epolladd", 2)) {
		struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP, .data.fd = num(v[2]) };
		if (opt && !strcmp(opt, "in"))
			e.events = EPOLLIN | EPOLLRDHUP;
		if (opt && !strcmp(opt, "edge"))
			e.events |= EPOLLET;
		result(epoll_ctl(num(v[1]), EPOLL_CTL_ADD, num(v[2]), &e));
	} else if (IS("epollwait", 2)) {
		struct epoll_event ev[32];
		int r = epoll_wait(num(v[1]), ev, 32, num(v[2]));
		if (r < 0)
			result(r);
		else
			say_events(r, ev);
	} else if (IS("poll", 2)) { /* waits for input or an end */
		struct pollfd p = { .fd = num(v[1]), .events = POLLIN };
		value(poll(&p, 1, num(v[2])));
	} else if (IS("unlink", 1)) {
		decode(v[1]);
		result(unlink(v[1]));
	} else if (IS("stat", 1) || IS("lstat", 1)) {
		struct stat st;
		decode(v[1]);
		int r = *v[0] == 's' ? stat(v[1], &st) : lstat(v[1], &st);
		result(r);
		if (r == 0)
			say(" mode=%o", (unsigned)st.st_mode & 07777);
	} else if (IS("fchmod", 2)) {
		result(fchmod(num(v[1]), strtol(v[2], 0, 8)));
	} else if (IS("chmod", 2)) {
		decode(v[2]);
		result(chmod(v[2], strtol(v[1], 0, 8)));
	} else if (IS("mkdir", 1)) {
		decode(v[1]);
		result(mkdir(v[1], 0777));
	} else if (IS("symlink", 2)) {
		decode(v[1]);
		decode(v[2]);
		result(symlink(v[1], v[2]));
	} else if (IS("rename", 2)) {
		decode(v[1]);
		decode(v[2]);
		result(rename(v[1], v[2]));
	} else if (IS("write", 1)) { /* an empty regular file */
		decode(v[1]);
		int fd = open(v[1], O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
		result(fd);
		if (fd >= 0)
			close(fd);
	} else if (IS("open", 2)) {
		decode(v[2]);
		result(place(open(v[2], O_PATH), num(v[1])));
	} else if (IS("chdir", 1)) {
		decode(v[1]);
		result(chdir(v[1]));
	} else if (IS("chroot", 1)) {
		decode(v[1]);
		result(chroot(v[1]));
	} else if (IS("umask", 1)) {
		umask(strtol(v[1], 0, 8));
		say("ok");
	} else if (IS("setuid", 1)) {
		result(setresuid(num(v[1]), num(v[1]), num(v[1])));
	} else if (IS("seteuid", 1)) {
		result(seteuid(num(v[1])));
	} else if (IS("setgid", 1)) {
		result(setresgid(num(v[1]), num(v[1]), num(v[1])));
	} else if (IS("setgroups", 0)) {
		gid_t g[MAXARGS];
		for (int i = 1; i < n; i++)
			g[i - 1] = num(v[i]);
		result(setgroups(n - 1, g));
	} else if (IS("unshare", 0)) {
		int r = unshare(CLONE_NEWNS);
		result(r < 0 ? r : mount("", "/", 0, MS_REC | MS_PRIVATE, 0));
	} else if (IS("bindmount", 2)) {
		decode(v[1]);
		decode(v[2]);
		result(mount(v[1], v[2], 0, MS_BIND, 0));
	} else if (IS("umount", 1)) {
		decode(v[1]);
		result(umount2(v[1], MNT_DETACH));
	} else if (IS("alarm", 2)) { /* alarm MS restart|interrupt: a signal MS milliseconds after the next timed call begins */
		struct sigaction sa = { .sa_handler = on_alarm, .sa_flags = v[2][0] == 'r' ? SA_RESTART : 0 };
		alarm_ms = num(v[1]);
		result(sigaction(SIGALRM, &sa, 0));
	} else if (IS("timed", 1)) { /* timed CALL…: how long it took, roughly */
		struct timespec t0, t1;
		struct itimerval it = { .it_value = { alarm_ms / 1000, alarm_ms % 1000 * 1000 } };
		alarm_ms = 0;
		clock_gettime(CLOCK_MONOTONIC, &t0);
		if (timerisset(&it.it_value))
			setitimer(ITIMER_REAL, &it, 0);
		run(v + 1, n - 1);
		clock_gettime(CLOCK_MONOTONIC, &t1);
		long ms = (t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000;
		say(" %s", ms < 250 ? "at once" : ms < 3000 ? "soon" : "late");
	} else if (IS("thread", 1)) {
		struct job j = { v + 1, n - 1 };
		pthread_t t;
		if (pthread_create(&t, 0, in_thread, &j))
			say("no thread");
		else
			pthread_join(t, 0);
	} else if (IS("vfork", 1)) { /* the call is made by a vfork child */
		pid_t pid = vfork();
		if (pid == 0) {
			run(v + 1, n - 1);
			_exit(0);
		}
		waitpid(pid, 0, 0);
	} else if (IS("fork", 0)) {
		become_child(0);
	} else if (IS("daemon", 0)) {
		become_child(1);
	} else if (IS("exec", 0)) {
		execv("/proc/self/exe", (char *[]){ self_argv[0], "again", 0 });
		result(-1);
	} else if (IS("how", 1)) {
		how = !strcmp(v[1], "libc") ? 0 : !strcmp(v[1], "direct") ? 1 : 2;
#ifndef SYS_socketcall
		if (how == 2) {
			how = 0;
			say("ENOSYS");
			return;
		}
#endif
		say("ok");
	} else if (IS("dumpable", 1)) {
		result(prctl(PR_SET_DUMPABLE, num(v[1]), 0, 0, 0));
	} else if (IS("pid", 0)) {
		say("ok %d", getpid());
	} else if (IS("sleep", 1)) {
		usleep(num(v[1]) * 1000);
		say("ok");
	} else if (IS("exit", 1)) {
		exit(num(v[1]));
	} else {
		say("no such call");
	}
}

int main(int argc, char **argv)
{
	char line[8192];
	(void)argc;
	self_argv = argv;
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdin, 0, _IONBF, 0); /* nothing may be read ahead of an exec or fork */
	if (argc > 1)
		printf("ok\n");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		char *v[MAXARGS], *save = 0;
		int n = 0;
		for (char *t = strtok_r(line, " \n", &save); t && n < MAXARGS; t = strtok_r(0, " \n", &save))
			v[n++] = t;
		if (!n)
			continue;
		outlen = 0;
		run(v, n);
		out[outlen] = 0;
		printf("%s\n", out);
		fflush(stdout);
	}
	return 0;
}
