/*
 * GnuPG's sockets for Windows, by GnuPG's own library.
 *
 *   assuan serve FILE         listens by a file with a port and a nonce
 *   assuan ask FILE COMMAND   connects and prints what the server answers
 *
 * A server says "listening" and runs until stdin ends; the file stays. Beside the
 * commands that every server of libassuan has, it knows KEEP, which asks for DATA
 * and gives it back.
 *
 * The library's own files of Cygwin's form can't be had: up to 3.0.2 it finds no
 * room in its table of such sockets (insert_cygwin_fd), and reads 49 bytes of a
 * file that has 53 (read_port_and_nonce).
 */
#include <winsock2.h>
#include <windows.h>
#include <stdio.h>
#include <assuan.h>

enum { MOST = 16 << 20 };

static gpg_error_t keep(assuan_context_t ctx, char *line)
{
	unsigned char *data;
	size_t n;
	gpg_error_t err = assuan_inquire(ctx, "DATA", &data, &n, MOST);
	(void)line;
	if (!err) {
		err = assuan_send_data(ctx, data, n);
		assuan_free(ctx, data);
	}
	return err;
}

static DWORD WINAPI serve_client(void *arg)
{
	assuan_fd_t fd = arg;
	assuan_context_t ctx;
	if (assuan_new(&ctx)) {
		assuan_sock_close(fd);
		return 1;
	}
	if (!assuan_init_socket_server(ctx, fd, ASSUAN_SOCKET_SERVER_ACCEPTED) &&
	    !assuan_register_command(ctx, "KEEP", keep, NULL))
		while (!assuan_accept(ctx))
			if (assuan_process(ctx))
				break;
	assuan_release(ctx);
	return 0;
}

static assuan_sock_nonce_t nonce;

static DWORD WINAPI serve(void *arg)
{
	assuan_fd_t listener = arg;
	for (;;) {
		SOCKET s = accept((SOCKET)listener, NULL, NULL);
		if (s == INVALID_SOCKET)
			return 1;
		if (assuan_sock_check_nonce((assuan_fd_t)s, &nonce)) {
			puts("stranger");
			fflush(stdout);
			assuan_sock_close((assuan_fd_t)s);
			continue;
		}
		CloseHandle(CreateThread(NULL, 0, serve_client, (void *)s, 0, NULL));
	}
}

static int listens(const char *file)
{
	struct sockaddr_un name;
	assuan_fd_t fd = assuan_sock_new(AF_LOCAL, SOCK_STREAM, 0);
	if (fd == ASSUAN_INVALID_FD)
		return 3;
	DeleteFileA(file); /* as gpg-agent does with that of one before it */
	if (assuan_sock_set_sockaddr_un(file, (struct sockaddr *)&name, NULL) ||
	    assuan_sock_bind(fd, (struct sockaddr *)&name, sizeof name) ||
	    assuan_sock_get_nonce((struct sockaddr *)&name, sizeof name, &nonce) || listen((SOCKET)fd, 64)) {
		perror(file);
		return 1;
	}
	puts("listening");
	fflush(stdout);
	CloseHandle(CreateThread(NULL, 0, serve, fd, 0, NULL));
	while (getchar() != EOF)
		;
	return 0;
}

static gpg_error_t print(void *arg, const void *data, size_t n)
{
	(void)arg;
	fwrite(data, 1, n, stdout);
	return 0;
}

static int ask(const char *file, const char *command)
{
	assuan_context_t ctx;
	gpg_error_t err = assuan_new(&ctx);
	if (!err)
		err = assuan_socket_connect(ctx, file, ASSUAN_INVALID_PID, 0);
	if (!err)
		err = assuan_transact(ctx, command, print, NULL, NULL, NULL, NULL, NULL);
	if (err)
		printf("%s", gpg_strerror(err));
	puts("");
	return err != 0;
}

int main(int argc, char **argv)
{
	WSADATA data;
	if (argc < 3 || WSAStartup(MAKEWORD(2, 2), &data))
		return 2;
	gpgrt_check_version(NULL);
	assuan_set_gpg_err_source(GPG_ERR_SOURCE_USER_1);
	if (assuan_sock_init())
		return 3;
	if (argc == 4 && !strcmp(argv[1], "ask"))
		return ask(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return listens(argv[2]);
	return 2;
}
