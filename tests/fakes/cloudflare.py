"""A server on loopback with the part of Cloudflare's API v4 that an ACME client calls.

It follows https://developers.cloudflare.com/api/resources/dns/ for the bearer token, the envelope,
the error codes and the paging. It writes records into a name server by signed updates (RFC 2136).
So the name server shows them. Every call is recorded.
"""

import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import dns.name
import dns.query
import dns.rcode
import dns.tsig
import dns.update

from tests.patience import LIMIT

BASE = "/client/v4"
Params = Mapping[str, str]


class Refused(Exception):
    """An answer with `success: false`."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


NO_TOKEN = Refused(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
BAD_TOKEN = Refused(403, 9109, "Invalid access token")
NO_ROUTE = Refused(
    404, 7003, "Could not route to this path, perhaps your object identifier is invalid?"
)
NO_RECORD = Refused(404, 81044, "Record does not exist.")
TWICE = Refused(400, 81058, "An identical record already exists.")


@dataclass(frozen=True)
class Primary:
    """The name server of the zones."""

    port: int
    key: dns.tsig.Key = field(repr=False)
    host: str = "127.0.0.1"

    def change(self, zone: str, fill: Callable[[dns.update.UpdateMessage], None]) -> None:
        update = dns.update.UpdateMessage(zone)
        update.use_tsig(self.key)
        fill(update)
        answer = dns.query.tcp(update, self.host, timeout=LIMIT, port=self.port)
        assert answer.rcode() == dns.rcode.NOERROR, dns.rcode.to_text(answer.rcode())


@dataclass
class Cloudflare:
    """The server. Use it as a context manager.

    `zones` is {id: name}. `before_work` is called when a call arrives. `before_answer` is called
    when its work is done. Both get (method, path) and may delay the call.
    """

    zones: Mapping[str, str]
    token: str = field(repr=False)
    primary: Primary
    most_per_page: int = 100
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    before_work: Callable[[str, str], None] = lambda method, path: None
    before_answer: Callable[[str, str], None] = lambda method, path: None

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return the value for the setting CLOUDFLARE_API_URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{BASE}"

    def answer(
        self, method: str, target: str, authorization: str, body: Any
    ) -> tuple[int, dict[str, Any]]:
        """Handle one call. Return its status and body."""
        path, params = parted(target)
        self.calls.append((method, path))
        self.before_work(method, path)
        try:
            self._check(authorization)
            with self._lock:
                answer = 200, envelope(**self._act(method, path, params, body))
        except Refused as no:
            answer = no.status, envelope(None, errors=[{"code": no.code, "message": no.message}])
        self.before_answer(method, path)
        return answer

    def add(self, zone_id: str, name: str, content: str, ttl: int = 60) -> dict[str, Any]:
        """Add a TXT record. `content` is in quotation marks, as Cloudflare stores it."""
        same = (zone_id, name, content)
        if same in {
            (each["zone_id"], each["name"], each["content"]) for each in self.records.values()
        }:
            raise TWICE
        record = {
            "id": secrets.token_hex(16),
            "type": "TXT",
            "name": name,
            "content": content,
            "ttl": ttl,
        }
        self.primary.change(
            self.zones[zone_id], lambda it: it.add(dns.name.from_text(name), ttl, "TXT", content)
        )
        self.records[record["id"]] = record | {"zone_id": zone_id}
        return self.records[record["id"]]

    def _check(self, authorization: str) -> None:
        if not authorization:
            raise NO_TOKEN
        if authorization != f"Bearer {self.token}":
            raise BAD_TOKEN

    def _act(self, method: str, path: str, params: Params, body: Any) -> dict[str, Any]:
        match method, *path.strip("/").split("/"):
            case "GET", "zones":
                found = [self._zone(each) for each in self.zones]
                return self._page(
                    [each for each in found if params.get("name", each["name"]) == each["name"]],
                    params,
                )
            case "GET", "zones", zone_id if zone_id in self.zones:
                return {"result": self._zone(zone_id)}
            case "GET", "zones", zone_id, "dns_records" if zone_id in self.zones:
                return self._page(
                    [each for each in self.records.values() if is_asked(each, zone_id, params)],
                    params,
                )
            case "POST", "zones", zone_id, "dns_records" if zone_id in self.zones:
                return {"result": self._post(zone_id, body)}
            case "DELETE", "zones", zone_id, "dns_records", record_id if zone_id in self.zones:
                return {"result": self._delete(record_id)}
        raise NO_ROUTE

    def _zone(self, zone_id: str) -> dict[str, Any]:
        return {"id": zone_id, "name": self.zones[zone_id], "status": "active", "type": "full"}

    def _page(self, found: list[dict[str, Any]], params: Params) -> dict[str, Any]:
        page = int(params.get("page", 1))
        size = min(int(params.get("per_page", 20)), self.most_per_page)
        rows = found[(page - 1) * size : page * size]
        counts = {
            "count": len(rows),
            "total_count": len(found),
            "total_pages": -(-len(found) // size),
        }
        return {"result": rows, "result_info": {"page": page, "per_page": size, **counts}}

    def _post(self, zone_id: str, body: Any) -> dict[str, Any]:
        zone = self.zones[zone_id]
        name = body["name"]
        if body["type"] != "TXT" or not re.fullmatch(r'"[^"]*"', body["content"]):
            raise Refused(400, 9207, "Content for TXT record must be in quotation marks.")
        if name != zone and not name.endswith(f".{zone}"):
            raise Refused(400, 9021, f"DNS name is not inside {zone}.")
        return self.add(zone_id, name, body["content"], body["ttl"])

    def _delete(self, record_id: str) -> dict[str, str]:
        if record_id not in self.records:
            raise NO_RECORD
        gone = self.records.pop(record_id)
        name = dns.name.from_text(gone["name"])
        self.primary.change(
            self.zones[gone["zone_id"]], lambda it: it.delete(name, "TXT", gone["content"])
        )
        return {"id": record_id}


def is_asked(record: Mapping[str, Any], zone_id: str, params: Params) -> bool:
    wanted = {"zone_id": zone_id} | {
        name: params[name] for name in ("type", "name", "content") if name in params
    }
    return wanted.items() <= record.items()


def parted(target: str) -> tuple[str, Params]:
    """Return the path below the base, and the query parameters."""
    url = urlsplit(target)
    return url.path.removeprefix(BASE), {
        name: values[0] for name, values in parse_qs(url.query).items()
    }


def envelope(
    result: Any = None,
    errors: list[dict[str, Any]] | None = None,
    result_info: dict[str, Any] | None = None,
) -> dict[str, Any]:
    body = {"success": not errors, "errors": errors or [], "messages": [], "result": result}
    return body | ({"result_info": result_info} if result_info else {})


def handler_of(cloudflare: Cloudflare) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(sent) if sent else None
            authorization = self.headers.get("Authorization", "")
            status, said = cloudflare.answer(self.command, self.path, authorization, body)
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the client was killed
                super().handle()

    return Handler
