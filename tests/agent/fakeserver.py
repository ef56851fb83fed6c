"""A server on loopback that responds as the agent protocol says, or wrongly on purpose."""

import base64
import contextlib
import itertools
import json
import socket
import threading
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.server import ServerProtocol
from websockets.sync.server import ServerConnection

from tests.agent.pki import Issued
from tests.patience import LIMIT

SELF = "/apiv1/devices/self"
ENROLMENT_KEY = "ak_fleet"
Response = tuple[int, Any, dict[str, str]]


def error(code: int, key: str, what: str = "No.", **params: Any) -> dict[str, Any]:
    return {"error": {"code": code, "key": key, "what": what, "params": params}}


class FakeServer:
    """`script(method, path, ...)` lines up responses that come before the usual ones."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any, dict[str, str]]] = []
        self.scripted: dict[tuple[str, str], deque[Response]] = defaultdict(deque)
        self.grant_statuses: deque[str] = deque(["ready"])
        self.devices: dict[str, dict[str, Any]] = {}
        self.dev_pk = b""
        self.refresh_token = ""
        self.access_token = ""
        self.counter = itertools.count(1)
        self.plan: dict[str, Any] = {"id": 1, "version": 0, "installs": []}
        self.certificates: dict[int, Issued] = {}
        self.bundles: dict[int, dict[str, Any]] = {}
        self.cas: dict[int, str] = {}
        self.signals: list[tuple[str, dict[str, Any]]] = []
        self.events: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.held = 0  # polls that wait
        self.heard: list[dict[str, Any]] = []  # messages on WebSockets
        self.sockets: list[ServerConnection] = []
        self.listening = SimpleNamespace(socket_closed=threading.Event())
        self.speaks = True  # whether WebSockets are answered
        self.is_closing = False
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.origin = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        with self.changed:
            self.is_closing = True
            self.changed.notify_all()
        self.end_sockets()
        self.http.shutdown()
        self.http.server_close()

    # --- What a test does ---

    def script(self, method: str, path: str, *responses: Response | tuple[int, Any]) -> None:
        self.scripted[method, path] += [(*each, {})[:3] for each in responses]  # type: ignore[misc]

    def signal(self, kind: str, **ref: Any) -> None:
        with self.changed:
            number = len(self.signals) + 1
            signal = {"type": kind, "ts_ms": 1_000 + number, "ref": ref}
            self.signals.append((f"{1_000 + number}-0", signal))
            self.changed.notify_all()
        for connection in self.sockets:
            self.send(connection, *self.signals[-1])

    def live(self, kind: str, ts_ms: int, **ref: Any) -> None:
        """Send a signal that is not in the log."""
        signal = {"type": kind, "ts_ms": ts_ms, "ref": ref}
        cursor = self.signals[-1][0] if self.signals else "0-0"
        for connection in self.sockets:
            self.send(connection, f"{ts_ms}-0", signal, cursor)

    def end_sockets(self) -> None:
        for connection in self.sockets:
            connection.close()
        self.sockets.clear()

    def acked(self) -> list[str]:
        return [each["id"] for each in self.heard if each.get("name") == "updates.ack"]

    def issue(self, number: int, issued: Issued) -> None:
        self.certificates[number] = issued
        self.signal("cert.updated", cert_id=number, serial=issued.serial)

    def put_plan(self, *installs: dict[str, Any]) -> None:
        self.plan = self.plan | {"version": self.plan["version"] + 1, "installs": list(installs)}
        self.signal("install.updated", config_id=1, version=self.plan["version"])

    def spend_access_token(self) -> None:
        self.access_token = ""

    def asked(self, path: str) -> list[Any]:
        """The bodies of the requests for a path."""
        return [body for _, asked, body, _ in self.requests if asked == path]

    def states(self) -> list[str]:
        return [event["state"] for event in self.events if event["type"] == "deployment"]

    def wait_for(self, condition: Any) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, LIMIT), f"not within {LIMIT:g} s"

    # --- The protocol ---

    def session(self) -> dict[str, Any]:
        number = next(self.counter)
        self.access_token, self.refresh_token = f"access-{number}", f"rt_{number:032x}.secret"
        return {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": "Bearer",
            "expires_in": 3600,
        }

    def respond(self, method: str, url: str, body: Any, headers: dict[str, str]) -> Response:
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self.changed:
            self.requests.append((method, parts.path, body, headers))
            self.changed.notify_all()
        if self.scripted[method, parts.path]:
            return self.scripted[method, parts.path].popleft()
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if parts.path.startswith(SELF):
            if token != self.access_token:
                return 401, error(2001, "unauthorized"), {}
            return self.own(method, parts.path.removeprefix(SELF), query, body)
        match method, parts.path:
            case "POST", "/auth/device":
                return self.grant(body)
            case "POST", "/auth/refresh":
                if body["refresh_token"] != self.refresh_token:
                    return 401, error(10003, "refresh_token_rotated"), {}
                session = self.session()
                return 200, {"data": session | {"session": session}}, {}
            case "POST", "/apiv1/device/registration":
                if body["registration_code"] != "rc_1" or body["user_id"] != 42:
                    return 401, error(2001, "unauthorized"), {}
                return self.register(body)
            case "POST", "/apiv1/me/devices":
                if token != ENROLMENT_KEY:
                    return 401, error(2001, "unauthorized", "This API key is not known."), {}
                return self.register(body)
        return 404, error(4004, "not_found"), {}

    def hold(self, sock: socket.socket) -> None:
        """Serve one WebSocket: the agent protocol, section 8."""
        connection = ServerConnection(sock, ServerProtocol(), self.listening)  # type: ignore[arg-type]
        connection.handshake(self.refusal)
        with contextlib.suppress(ConnectionClosed):
            connection.send(json.dumps({"type": "hello", "connection_id": "c1"}))
            while True:
                message = json.loads(connection.recv())
                with self.changed:
                    self.heard.append(message)
                    self.changed.notify_all()
                if message["type"] == "ping" and self.speaks:
                    connection.send(json.dumps({"type": "pong", "ts": message["ts"]}))
                if message.get("name") == "lifecycle.hello_ack":
                    resumed = message.get("resume_token", "0-0")
                    for cursor, signal in self.signals:
                        if cursor > resumed:
                            self.send(connection, cursor, signal)
                    with self.changed:
                        self.sockets.append(connection)
                        self.changed.notify_all()

    def refusal(self, connection: ServerConnection, request: Any) -> Any:
        is_own = request.headers.get("Authorization") == f"Bearer {self.access_token}"
        self.requests.append(("GET", request.path, None, dict(request.headers.raw_items())))
        if self.scripted["GET", request.path]:
            status, _, _ = self.scripted["GET", request.path].popleft()
            return connection.respond(status, "")
        return None if is_own else connection.respond(401, "")

    def send(
        self, connection: ServerConnection, number: str, signal: Any, cursor: str | None = None
    ) -> None:
        event = {"type": "event", "name": "updates.signal", "id": number, "ts_ms": signal["ts_ms"]}
        connection.send(json.dumps(event | {"resume_token": cursor or number, "payload": signal}))

    def grant(self, body: Any) -> Response:
        if body["action"] == "device_start":
            return (
                200,
                {
                    "data": {
                        "device_code": "dc_1",
                        "user_code": "WXYZ-1234",
                        "verification_uri": f"{self.origin}/device",
                        "verification_uri_complete": f"{self.origin}/device?code=WXYZ-1234",
                        "interval": 5,
                        "expires_in": 900,
                    }
                },
                {},
            )
        assert body == {"action": "device_poll", "device_code": "dc_1"}
        status = self.grant_statuses.popleft() if self.grant_statuses else "authorization_pending"
        data: dict[str, Any] = {"status": status}
        if status == "ready":
            data |= {"registration_code": "rc_1", "registration_code_ttl": 600, "user_id": 42}
        return 200, {"data": data}, {}

    def register(self, body: Any) -> Response:
        self.dev_pk = base64.b64decode(body["dev_pk"], validate=True)
        device = {"id": 11, "user_id": 42, "status": "ACTIVE", "name": body["name"]}
        self.devices[body["device_public_id"]] = device
        return 201, {"data": {"device": device, "session": self.session()}}, {}

    def own(self, method: str, path: str, query: dict[str, str], body: Any) -> Response:
        match method, path.strip("/").split("/"):
            case "POST", ["notify"]:
                with self.changed:
                    self.events += body["events"]
                    self.changed.notify_all()
                return 204, None, {}
            case "GET", ["install-config"]:
                return 200, {"data": self.plan}, {}
            case "GET", ["updates"]:
                return self.updates(query)
            case "GET", ["certificates", number] if int(number) in self.certificates:
                return 200, {"data": self.certificates[int(number)].detail}, {}
            case "GET", ["certificates", number, "deploy-materials"]:
                usual = self.certificates[int(number)].sealed(self.dev_pk)
                return 200, {"data": self.bundles.get(int(number), usual)}, {}
            case "GET", ["cas", number, "bundle"] if int(number) in self.cas:
                pem = self.cas[int(number)]
                return 200, {"data": {"id": int(number), "ca_certificate_pem": pem}}, {}
        return 404, error(4004, "not_found"), {}

    def updates(self, query: dict[str, str]) -> Response:
        cursor = query.get("cursor", "0-0")

        def newer() -> list[tuple[str, dict[str, Any]]]:
            return [each for each in self.signals if each[0] > cursor]

        with self.changed:
            self.held += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: newer() or self.is_closing, float(query["wait"]))
            self.held -= 1
            found = newer()[: int(query["limit"])]
        if not found:
            return 204, None, {"ETag": f'"{cursor}"'}
        data = {"cursor": found[-1][0], "signals": [signal for _, signal in found]}
        return 200, {"data": data}, {"ETag": f'"{found[-1][0]}"'}


def handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            if self.connection.recv(16, socket.MSG_PEEK).startswith(b"GET /api/web"):
                server.hold(self.connection)
            else:
                super().handle()

        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def answer(self, body: Any) -> None:
            if server.is_closing:  # a connection that the client kept
                self.close_connection = True
                return
            status, sent, headers = server.respond(
                self.command, self.path, body, dict(self.headers.items())
            )
            raw = sent if isinstance(sent, bytes) else json.dumps(sent).encode() if sent else b""
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler
