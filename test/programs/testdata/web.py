# An HTTP server on a Unix socket: GET /N gives N bytes, POST gives back.
import http.server
import os
import socketserver
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        n = int(self.path[1:])
        block = bytes(range(251))
        self.answer((block * (n // 251 + 1))[:n])

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def address_string(self):
        return "a Unix socket"

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


os.umask(0)  # its clients may be other accounts
Server(sys.argv[1], Handler).serve_forever()
