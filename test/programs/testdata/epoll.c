/*
 * An echo server and its client over a Unix socket, on epoll. Every socket is
 * registered before it is bound or connected, and what epoll says of it until
 * then is taken out first.
 *
 *   epoll lt|et server|client PATH [CONNECTIONS BYTES]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MANY 1024

struct conn {
	int fd, number, in_over, out_over;
	size_t sent, got;   /* client: of all; server: of buf */
	unsigned char buf[65536];
};

static struct sockaddr_un addr = { .sun_family = AF_UNIX };
static int ep, edge, conns, left;
static size_t bytes;
static struct conn *all[MANY];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static unsigned char pattern(int c, size_t i)
{
	return (unsigned char)(c + i % 251);
}

static void watch(int op, int fd, unsigned events)
{
	struct epoll_event e = { .events = events | (edge ? EPOLLET : 0), .data.fd = fd };

	if (epoll_ctl(ep, op, fd, &e) < 0)
		die("epoll_ctl");
}

/* A socket that epoll knows and has reported already. */
static int fresh(unsigned events)
{
	struct epoll_event e;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || fd >= MANY)
		die("socket");
	watch(EPOLL_CTL_ADD, fd, events);
	if (edge && epoll_wait(ep, &e, 1, 0) < 0)
		die("epoll_wait");
	return fd;
}

static struct conn *add(int fd, int number)
{
	struct conn *c = calloc(1, sizeof *c);

	if (!c || fd >= MANY)
		die("connection");
	c->fd = fd;
	c->number = number;
	return all[fd] = c;
}

static void finish(struct conn *c)
{
	all[c->fd] = NULL;
	close(c->fd);
	free(c);
	left--;
}

/* The client's part: send the pattern, end, expect it back. */
static void client(struct conn *c)
{
	unsigned char b[30000];
	ssize_t n;

	while (!c->out_over) {
		size_t k, len = bytes - c->sent < sizeof b ? bytes - c->sent : sizeof b;

		for (k = 0; k < len; k++)
			b[k] = pattern(c->number, c->sent + k);
		n = len ? send(c->fd, b, len, MSG_NOSIGNAL) : 0;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			die("send");
		c->sent += (size_t)n;
		if (c->sent < bytes)
			continue;
		c->out_over = 1;
		if (shutdown(c->fd, SHUT_WR) < 0)
			die("shutdown");
		watch(EPOLL_CTL_MOD, c->fd, EPOLLIN);
	}
	while ((n = recv(c->fd, b, sizeof b, 0)) > 0) {
		ssize_t k;

		for (k = 0; k < n; k++, c->got++)
			if (b[k] != pattern(c->number, c->got)) {
				fprintf(stderr, "byte %zu is wrong\n", c->got);
				exit(1);
			}
	}
	if (n < 0 && errno != EAGAIN)
		die("recv");
	if (n == 0) {
		if (c->got != bytes || !c->out_over) {
			fprintf(stderr, "%zu bytes of %zu came back\n", c->got, bytes);
			exit(1);
		}
		finish(c);
	}
}

/* The server's part: whatever comes goes back. */
static void echo(struct conn *c)
{
	ssize_t n;

	for (;;) {
		while (c->sent < c->got) {
			n = send(c->fd, c->buf + c->sent, c->got - c->sent, MSG_NOSIGNAL);
			if (n < 0 && errno == EAGAIN) {
				watch(EPOLL_CTL_MOD, c->fd, EPOLLOUT);
				return;
			}
			if (n < 0) {
				finish(c);
				return;
			}
			c->sent += (size_t)n;
		}
		c->sent = c->got = 0;
		n = recv(c->fd, c->buf, sizeof c->buf, 0);
		if (n < 0 && errno == EAGAIN) {
			watch(EPOLL_CTL_MOD, c->fd, EPOLLIN);
			return;
		}
		if (n <= 0) {
			finish(c);
			return;
		}
		c->got = (size_t)n;
	}
}

int main(int argc, char **argv)
{
	struct epoll_event events[64];
	struct sockaddr_un peer;
	socklen_t size = sizeof peer;
	int i, k, n, listener = -1, last = -1;

	if (argc < 4 || strlen(argv[3]) >= sizeof addr.sun_path)
		return 2;
	edge = !strcmp(argv[1], "et");
	strcpy(addr.sun_path, argv[3]);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (ep < 0)
		die("epoll_create1");
	if (!strcmp(argv[2], "server")) {
		listener = fresh(EPOLLIN);
		if (bind(listener, (struct sockaddr *)&addr, sizeof addr) < 0)
			die("bind");
		if (listen(listener, 128) < 0)
			die("listen");
		left = 1;
	} else {
		left = conns = atoi(argv[4]);
		bytes = (size_t)atol(argv[5]);
		for (i = 0; i < conns; i++)
			add(fresh(EPOLLIN | EPOLLOUT), i);
		for (i = 0; i < MANY; i++) {
			if (!all[i])
				continue;
			if (connect(i, (struct sockaddr *)&addr, sizeof addr) < 0)
				die("connect");
			last = i;
		}
		if (getpeername(last, (struct sockaddr *)&peer, &size) < 0)
			die("getpeername");
		for (i = 0; i < MANY; i++) /* connected is writable: no event need come */
			if (all[i])
				client(all[i]);
	}
	while (left > 0) {
		n = epoll_wait(ep, events, 64, 20000);
		if (n == 0) {
			fprintf(stderr, "no event, %d connections left\n", left);
			if (listener < 0)
				return 1;
		}
		for (i = 0; i < n; i++) {
			int fd = events[i].data.fd;

			if (fd == listener) {
				while ((k = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
					add(k, 0);
					left++;
					watch(EPOLL_CTL_ADD, k, EPOLLIN);
				}
			} else if (all[fd] && listener >= 0) {
				echo(all[fd]);
			} else if (all[fd]) {
				client(all[fd]);
			}
		}
	}
	printf("%d %zu %s\n", conns, bytes, peer.sun_path);
	return 0;
}
