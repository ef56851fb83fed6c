"""A CA on loopback: it sends the replies of the test, right or wrong, and keeps the requests."""

import base64
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from authorities.acme import connection_to

PREFIX = "urn:ietf:params:acme:error:"
NOW = "2030-01-01T00:00:00Z"


@dataclass
class Reply:
    status: int = 200
    body: Any = None  # JSON, or bytes as they are
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False  # close the connection instead
    nonce: bool = True


@dataclass
class Asked:
    method: str
    path: str
    protected: dict[str, Any]
    payload: Any  # the decoded JSON; None for POST-as-GET
    headers: dict[str, str]


def problem(
    kind: str, detail: str = "The CA's own words.", status: int = 400, **more: Any
) -> Reply:
    headers = more.pop("headers", {})
    body = {"type": PREFIX + kind, "detail": detail, **more}
    return Reply(status, body, {"Content-Type": "application/problem+json", **headers})


class Stub:
    """A CA that grants every request, except where `tell(path, *replies)` queued other replies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.told: dict[str, deque[Reply]] = defaultdict(deque)
        self.nonces = count(1)
        self.issued_nonces: list[str] = []
        self.connections = 0
        self.directory = ["newNonce", "newAccount", "newOrder", "revokeCert"]
        self.sends_nonces_on_get = False

    @property
    def directory_url(self) -> str:
        return f"{self.url}/dir"

    def tell(self, path: str, *replies: Reply) -> None:
        self.told[path].extend(replies)

    def offers(self, *names: str) -> None:
        """Add these entries to the directory."""
        self.directory += names

    def paths(self) -> list[str]:
        return [f"{each.method} {each.path}" for each in self.asked]

    def reply_to(self, method: str, path: str) -> Reply:
        if self.told[path]:
            return self.told[path].popleft()
        return self.usual(path)

    def usual(self, path: str) -> Reply:
        order = {
            "status": "pending",
            "expires": NOW,
            "identifiers": [{"type": "dns", "value": "example.com"}],
            "authorizations": [f"{self.url}/authz/1"],
            "finalize": f"{self.url}/finalize/1",
        }
        authorization = {
            "status": "pending",
            "identifier": {"type": "dns", "value": "example.com"},
            "challenges": [
                {
                    "type": "dns-01",
                    "url": f"{self.url}/chall/1",
                    "status": "pending",
                    "token": "t" * 43,
                }
            ],
        }
        return {
            "/dir": Reply(body={name: f"{self.url}/{name}" for name in self.directory}),
            "/newNonce": Reply(),
            "/newAccount": Reply(201, {"status": "valid"}, {"Location": f"{self.url}/account/1"}),
            "/newOrder": Reply(201, order, {"Location": f"{self.url}/order/1"}),
            "/order/1": Reply(body=order),
            "/finalize/1": Reply(
                body=order | {"status": "processing"}, headers={"Retry-After": "7"}
            ),
            "/authz/1": Reply(body=authorization),
            "/chall/1": Reply(body=authorization["challenges"][0]),
        }.get(path, Reply(404, b"not found"))

    def new_nonce(self) -> str:
        nonce = (
            base64.urlsafe_b64encode(f"nonce-{next(self.nonces):06}".encode()).decode().rstrip("=")
        )
        self.issued_nonces.append(nonce)
        return nonce


def _json_of(part: str) -> Any:
    decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return json.loads(decoded) if decoded else None


@contextmanager
def running(made: Callable[[str], "Stub"] = Stub) -> Iterator[Stub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 64 * 1024  # head and body in one packet, or each answer takes 40 ms

        def setup(self) -> None:
            stub.connections += 1
            super().setup()

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            jws = json.loads(body) if body[:1] == b"{" else {}
            payload = _json_of(jws["payload"]) if jws else body.decode()
            asked = Asked(
                self.command,
                self.path,
                _json_of(jws["protected"]) if jws else {},
                payload,
                {name.lower(): value for name, value in self.headers.items()},
            )
            stub.asked.append(asked)
            reply = stub.reply_to(self.command, self.path.partition("?")[0])
            if reply.drop:
                self.close_connection = True
                return
            self.send(reply)

        do_GET = do_POST = do_HEAD = handle_one

        def send(self, reply: Reply) -> None:
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            kind = "text/html" if isinstance(reply.body, bytes) else "application/json"
            headers = {"Content-Type": kind, "Content-Length": str(len(body))} | dict(reply.headers)
            if reply.nonce and (self.command != "GET" or stub.sends_nonces_on_get):
                headers["Replay-Nonce"] = stub.new_nonce()
            self.send_response(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    connection_to.cache_clear()  # an earlier CA may have had the same port
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub = made(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
