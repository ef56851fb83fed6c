"""The HTTP servers of the fault proxy. They use one thread for each connection."""

import contextlib
import socketserver
import ssl
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from lab.upstream import Answer, Request, tidied

IDLE = 60.0  # seconds

Serve = Callable[[Request], Answer | None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body are sent together
    timeout = IDLE

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, self.path, tidied(self.headers.items()), body)
        answer = cast("Server", self.server).serve(request)
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer)

    do_GET = do_HEAD = do_POST

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, *args: Any) -> None:
        """Log nothing. The tests read the tallies."""


class Server(ThreadingHTTPServer):
    """Responds with the result of `serve`. None closes the connection without a response.

    With a context it uses HTTPS.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listen: str, serve: Serve, context: ssl.SSLContext | None = None) -> None:
        self.serve = serve
        self.context = context
        host, _, port = listen.rpartition(":")
        super().__init__((host, int(port)), Handler)

    def server_bind(self) -> None:
        # HTTPServer's own method asks the DNS for our name
        socketserver.TCPServer.server_bind(self)
        self.server_name = "localhost"
        self.server_port = self.server_address[1]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Make the TLS handshake on the connection's thread, so that a slow one delays nobody."""
        if self.context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(IDLE)
        with (
            contextlib.suppress(OSError),
            self.context.wrap_socket(request, server_side=True) as tls,
        ):
            super().finish_request(tls, client_address)


def context_of(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
