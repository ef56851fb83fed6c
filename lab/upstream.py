"""The CA behind the fault proxy: requests, responses and kept connections."""

import base64
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

# Seconds. The other side may have closed an older connection, and a signed request is not sent
# twice.
IDLE = 20.0
TIMEOUT = 120.0
NOT_PASSED_ON = (
    "Connection",
    "Keep-Alive",
    "Te",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Content-Length",
)
PROBLEM = "application/problem+json"
ERROR = "urn:ietf:params:acme:error:"


@dataclass
class Request:
    """A request of a client, with tidied headers.

    `endpoint` is the directory's name for the path, or empty.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    endpoint: str = ""

    @cached_property
    def jws(self) -> Mapping[str, Any]:
        """Return the flattened JWS (RFC 8555, section 6.2), or {} when the body is not one."""
        if self.method != "POST":
            return {}
        try:
            return dict(json.loads(self.body))
        except (ValueError, TypeError):
            return {}

    @property
    def account(self) -> str:
        """Return the `kid` of the JWS."""
        return str(unpacked(self.jws.get("protected")).get("kid", ""))

    @property
    def payload(self) -> Mapping[str, Any]:
        """Return the payload of the JWS, empty for POST-as-GET."""
        return unpacked(self.jws.get("payload"))

    @property
    def origin(self) -> str:
        """Return the origin that the client uses for the CA."""
        return f"https://{self.headers.get('Host', 'localhost')}"


def tidied(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers to pass on, each name once and in one spelling."""
    found: dict[str, str] = {}
    for spelling, value in headers:
        if (name := spelling.title()) not in NOT_PASSED_ON:
            found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def unpacked(part: Any) -> Mapping[str, Any]:
    """Return the JSON object in a base64url text, or {} for other text."""
    try:
        found = json.loads(base64.urlsafe_b64decode(f"{part}==")) if part else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """Return the JSON object in the body, or {} without one."""
        if "json" not in self.headers.get("Content-Type", ""):
            return {}
        found = json.loads(self.body) if self.body else {}
        return found if isinstance(found, dict) else {}

    @property
    def is_ok(self) -> bool:
        return 200 <= self.status < 300

    def with_document(self, document: Mapping[str, Any], **headers: str) -> "Answer":
        """Return a copy with another body."""
        return replace(
            self, body=json.dumps(document).encode(), headers={**self.headers, **headers}
        )


def json_answer(document: Mapping[str, Any], **headers: str) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}).with_document(document, **headers)


def problem(
    status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None
) -> Answer:
    """Return a problem document of RFC 8555, section 6.7."""
    document = {"type": ERROR + kind, "detail": detail, "status": status}
    return Answer(
        status, {"Content-Type": PROBLEM, **(headers or {})}, json.dumps(document).encode()
    )


class Upstream:
    """The CA, with one connection per thread. Raises OSError or HTTPException when it is away."""

    def __init__(self, directory_url: str, ca: str = "") -> None:
        self.place = urlsplit(directory_url)
        self.context = ssl.create_default_context(cafile=ca or None)
        self._kept = threading.local()

    def forward(self, request: Request) -> Answer:
        """Return the CA's response.

        The Host stays that of the client, because URLs and signatures contain it.
        """
        connection = self._connection()
        try:
            connection.request(
                request.method, request.path, request.body or None, dict(request.headers)
            )
            response = connection.getresponse()
            body = response.read()
        except BaseException:
            connection.close()
            raise
        return Answer(response.status, tidied(response.getheaders()), body)

    def _connection(self) -> http.client.HTTPConnection:
        now = time.monotonic()
        if now - getattr(self._kept, "used_at", -IDLE) >= IDLE:
            if old := getattr(self._kept, "connection", None):
                old.close()
            self._kept.connection = self._new()
        self._kept.used_at = now
        connection: http.client.HTTPConnection = self._kept.connection
        return connection

    def _new(self) -> http.client.HTTPConnection:
        host = self.place.hostname or ""
        port = self.place.port
        if self.place.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=self.context)
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT)
