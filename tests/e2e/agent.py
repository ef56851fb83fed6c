"""A small agent: it enrols, holds a WebSocket, and serves the challenges that it gets."""

import base64
import contextlib
import json
import socket
import ssl
import tempfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from nacl.public import PrivateKey  # noqa: TID251
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.e2e.processes import Site
from tests.patience import LIMIT


class Agent:
    """One device of the site's owner. `answers` is False for one that confirms nothing."""

    def __init__(self, site: Site, answers: bool = True) -> None:
        self.site = site
        self.answers = answers
        self.heard: list[str] = []
        self.serving: dict[str, contextlib.ExitStack] = {}
        enrolled = self.enrol()
        self.id = int(enrolled["device"]["id"])
        self.token = enrolled["session"]["access_token"]

    def __enter__(self) -> "Agent":
        uri = f"ws://127.0.0.1:{self.site.port}/api/websocket/{self.id}"
        headers = {"Authorization": f"Bearer {self.token}"}
        self.opened = contextlib.ExitStack()
        self.socket = self.opened.enter_context(
            connect(uri, additional_headers=headers, ping_interval=None, proxy=None)
        )
        hello = json.loads(self.socket.recv(LIMIT))
        self.say("lifecycle.hello_ack", payload={"connection_id": hello["connection_id"]})
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.opened.close()
        self.thread.join(LIMIT)
        for served in self.serving.values():
            served.close()

    def enrol(self) -> Any:
        """Enrol by the device code grant. The site's owner approves."""
        grant = f"{self.site.address}/auth/device"
        plain = requests.Session()
        plain.trust_env = False
        started = plain.post(grant, json={"action": "device_start"}).json()["data"]
        decision = {"action": "device_verify", "user_code": started["user_code"], "approve": True}
        assert self.site.session.post(grant, json=decision).ok
        poll = {"action": "device_poll", "device_code": started["device_code"]}
        ready = plain.post(grant, json=poll).json()["data"]
        body = {
            "user_id": ready["user_id"],
            "registration_code": ready["registration_code"],
            "device_public_id": str(uuid.uuid4()),
            "dev_pk": base64.b64encode(bytes(PrivateKey.generate().public_key)).decode(),
            "name": "edge 1",
        }
        answer = plain.post(f"{self.site.address}/apiv1/device/registration", json=body)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def say(self, name: str, **members: Any) -> None:
        self.socket.send(json.dumps({"type": "event", "name": name} | members))

    def run(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = json.loads(self.socket.recv())
                if message.get("name") == "updates.signal":
                    self.take(message)

    def take(self, message: Any) -> None:
        payload = message["payload"]
        self.heard.append(payload["type"])
        if not self.answers:
            return
        match payload["type"]:
            case "acme.http01.start":
                self.serve(payload["ref"], answer_http)
            case "acme.tlsalpn01.start":
                self.serve(payload["ref"], answer_tls)
            case "acme.http01.stop" | "acme.tlsalpn01.stop":
                self.serving.pop(payload["ref"]["challenge_id"]).close()
        self.say("updates.ack", id=message["id"], resume_token=message["id"], payload={})

    def serve(self, ref: Any, answer: Any) -> None:
        with contextlib.ExitStack() as opened:
            answer(opened, ref)
            self.serving[ref["challenge_id"]] = opened.pop_all()


def answer_http(opened: contextlib.ExitStack, ref: Any) -> None:
    """Serve the key authorization at the path of the token, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == f"/.well-known/acme-challenge/{ref['token']}"
            body = ref["key_authorization"].encode() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    listen = ref["listen"]["http"]
    server = ThreadingHTTPServer((listen["bind"], listen["port"]), Handler)
    run(opened, server)


def answer_tls(opened: contextlib.ExitStack, ref: Any) -> None:
    """Show the certificate to clients that ask for acme-tls/1 and this server name."""
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
    (folder / "pair.pem").write_text(ref["certificate"]["cert_pem"] + ref["certificate"]["key_pem"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    context.set_alpn_protocols(["acme-tls/1"])

    def check(tls: ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        return None if name == ref["domain"] else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    context.sni_callback = check  # type: ignore[assignment]

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            with contextlib.suppress(OSError):
                context.wrap_socket(self.request, server_side=True).close()
            super().setup()

        def handle(self) -> None:
            pass

    listen = ref["listen"]
    server = ThreadingHTTPServer((listen["bind"], listen["port"]), Handler)
    run(opened, server)


def run(opened: contextlib.ExitStack, server: ThreadingHTTPServer) -> None:
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    opened.callback(thread.join, LIMIT)
    opened.callback(server.server_close)
    opened.callback(server.shutdown)
