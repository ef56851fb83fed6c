"""Answer the challenges of a CA: the agent protocol, section 10.

http-01 is RFC 8555, section 8.3, and tls-alpn-01 is RFC 8737. A listener runs only while it has a
challenge. Only the thread of the WebSocket calls `Challenges`.
"""

import contextlib
import re
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any, ClassVar

from certctrl_agent import files, versions
from certctrl_agent.config import Address, Config
from certctrl_agent.errors import AgentError, InstallError
from certctrl_agent.state import State

PATH = "/.well-known/acme-challenge/"
TOKEN = re.compile("[A-Za-z0-9_-]{1,200}")  # RFC 8555, section 8.1
ALPN = "acme-tls/1"
TTL = 300  # seconds, if the server names none
CLIENT_SECONDS = 10.0  # for one client
MOST_CLIENTS = 100  # of one listener at a time; more are turned away
FILES = "webroot"  # the value of the state with the files that were written
PUBLIC = 0o644


class Challenges:
    """The challenges that this machine answers now. `log` shows a line to people."""

    def __init__(
        self,
        state: State,
        config: Config,
        log: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.state = state
        self.config = config
        self.log = log
        self.now = now
        self.serving = dict[str, tuple[float, contextlib.ExitStack]]()  # ends at, what to undo
        self.listeners = dict[tuple[type[Listener], Address], Listener]()
        for path in state.load(FILES, []):  # a killed agent left them
            Path(path).unlink(missing_ok=True)
        state.save(FILES, [])

    def take(self, signal: dict[str, Any]) -> bool:
        """Do what a signal says. Return whether it is done, so that it can be acknowledged."""
        kind, ref = signal.get("type"), signal.get("ref")
        try:
            match kind:
                case "acme.http01.start":
                    self.start(signal, ref, self.serve_http)
                case "acme.tlsalpn01.start":
                    self.start(signal, ref, self.serve_tls)
                case "acme.http01.stop" | "acme.tlsalpn01.stop":
                    self.stop(text(ref, "challenge_id"))
        except (AgentError, OSError, ValueError, OverflowError) as error:
            self.log(f"{kind}: {error} The challenge is not answered.")
            return False
        return True

    def start(
        self,
        signal: dict[str, Any],
        ref: Any,
        serve: Callable[[contextlib.ExitStack, str, dict[str, Any]], str],
    ) -> None:
        """Serve until the stop, or until the time of the signal and `ttl_seconds` are over."""
        number = text(ref, "challenge_id")
        begins, ttl = signal.get("ts_ms"), ref.get("ttl_seconds") or TTL
        if type(begins) is not int or type(ttl) is not int:
            raise ValueError("The signal does not say how long it is valid.")
        ends = begins / 1000 + ttl
        if number in self.serving or ends <= self.now():
            return
        with contextlib.ExitStack() as undo:
            where = serve(undo, number, ref)
            self.serving[number] = (ends, undo.pop_all())
        self.log(f"Answering {signal['type'].split('.')[1]} {where}.")

    def stop(self, number: str) -> None:
        if number in self.serving:
            self.serving.pop(number)[1].close()

    def expire(self) -> None:
        """Stop what was never stopped."""
        for number, (ends, _) in list(self.serving.items()):
            if ends <= self.now():
                self.stop(number)

    def close(self) -> None:
        for number in list(self.serving):
            self.stop(number)

    # --- http-01 ---

    def serve_http(self, undo: contextlib.ExitStack, number: str, ref: dict[str, Any]) -> str:
        token, content = text(ref, "token"), text(ref, "key_authorization").encode()
        if not TOKEN.fullmatch(token):
            raise ValueError("The token is not base64url.")
        if self.config.webroot:
            path = Path(f"{self.config.webroot}{PATH}{token}")
            self.write(undo, path, content)
            return f"with the file {path}"
        listen = ref.get("listen")
        named = listen.get("http") if isinstance(listen, dict) else None
        where = self.config.http_listen or address_of(named)
        self.listener(HttpListener, where, undo).add(undo, number, (PATH + token, content))
        return f"at {where[0]} port {where[1]}"

    def write(self, undo: contextlib.ExitStack, path: Path, content: bytes) -> None:
        """Write a file below the webroot, until `undo`."""
        assert self.config.webroot
        if not self.config.webroot.is_dir():
            raise InstallError(f"The webroot {self.config.webroot} is not a folder. Make it.")
        versions.check_way(path)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.state.save(FILES, [*self.state.load(FILES, []), str(path)])
        undo.callback(self.remove, path)
        files.replace(path, content, PUBLIC)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.state.save(FILES, [each for each in self.state.load(FILES, []) if each != str(path)])

    # --- tls-alpn-01 ---

    def serve_tls(self, undo: contextlib.ExitStack, number: str, ref: dict[str, Any]) -> str:
        name = text(ref, "domain").lower()
        context = self.context_of(ref.get("certificate"))
        where = self.config.tls_listen or address_of(ref.get("listen"))
        self.listener(TlsListener, where, undo).add(undo, number, (name, context))
        return f"for {name} at {where[0]} port {where[1]}"

    def context_of(self, pair: Any) -> ssl.SSLContext:
        """Return the context that shows the certificate. `ssl` reads it from a file only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([ALPN])
        folder = self.state.folder
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", suffix=".new") as file:
            file.write(text(pair, "cert_pem") + "\n" + text(pair, "key_pem"))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def listener(
        self, kind: "type[Listener]", where: Address, undo: contextlib.ExitStack
    ) -> "Listener":
        """Return the listener at an address. It ends with its last challenge."""
        key = (kind, where)
        if key not in self.listeners:
            self.listeners[key] = kind(where)
        listener = self.listeners[key]

        def end() -> None:
            if not listener.answers:
                self.listeners.pop(key)
                listener.shutdown()
                listener.server_close()

        undo.callback(end)
        return listener


class Listener(ThreadingTCPServer):
    """A listener for several challenges. `answers` has an entry for each, by its id."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = MOST_CLIENTS
    handler: ClassVar[type[BaseRequestHandler]]

    def __init__(self, where: Address) -> None:
        self.places = threading.Semaphore(MOST_CLIENTS)
        self.address_family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self.answers = dict[str, tuple[str, Any]]()
        try:
            super().__init__(where, self.handler)
        except (OSError, OverflowError) as error:
            raise OSError(f"Cannot listen at {where[0]} port {where[1]}: {error}.") from None
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()

    def add(self, undo: contextlib.ExitStack, number: str, answer: tuple[str, Any]) -> None:
        self.answers[number] = answer
        undo.callback(self.answers.pop, number)

    def answer(self, asked: str) -> Any:
        """Return the newest answer to what a client asks for, or None."""
        found = [content for name, content in list(self.answers.values()) if name == asked]
        return found[-1] if found else None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.places.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        request.settimeout(CLIENT_SECONDS)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing, because anyone may send anything here."""


class HttpHandler(BaseHTTPRequestHandler):
    server: "HttpListener"

    def do_GET(self) -> None:
        content = self.server.answer(self.path)
        body = b"" if content is None else content
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def version_string(self) -> str:
        return "certctrl-agent"

    def log_message(self, *args: Any) -> None:
        """Say nothing, because anyone may ask anything here."""


class HttpListener(Listener):
    handler = HttpHandler


class TlsHandler(BaseRequestHandler):
    server: "TlsListener"

    def handle(self) -> None:
        """Complete the handshake. RFC 8737, section 3: nothing is sent after it."""
        with contextlib.suppress(OSError):
            self.server.context.wrap_socket(self.request, server_side=True).close()


class TlsListener(Listener):
    """Shows a certificate to a client that names its domain."""

    handler = TlsHandler

    def __init__(self, where: Address) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self.choose
        super().__init__(where)

    def choose(self, tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        context = self.answer((name or "").lower())
        if context is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        tls.context = context
        return None


def text(ref: Any, member: str) -> str:
    value = ref.get(member) if isinstance(ref, dict) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f'The signal has no "{member}".')
    return value


def address_of(listen: Any) -> Address:
    host, port = text(listen, "bind"), listen.get("port")
    if type(port) is not int or not 0 <= port < 65536:
        raise ValueError(f"The signal has the port {port!r}.")
    return host, port
