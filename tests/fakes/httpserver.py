"""The part that all fakes over HTTP share: a server on loopback with a thread of its own."""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class FakeHTTP:
    """The server. Use it as a context manager. A subclass names its handler."""

    handler: type["Handler"]

    def __enter__(self) -> Self:
        bound = type("Bound", (self.handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Reads one request for its `fake`, and sends the answer."""

    fake: Any

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def json(self) -> Any:
        """Return the decoded body, or None without a body."""
        sent = self.body()
        return json.loads(sent) if sent else None

    def send(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""

    def handle(self) -> None:
        with suppress(OSError):  # the client was killed
            super().handle()
