"""A CA of fixed responses for the fault proxy. It keeps the requests."""

import base64
import json
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab.ca import Authority
from lab.upstream import Answer, Request, json_answer, problem

HOST = "ca.test"
HERE = f"https://{HOST}"
ACCOUNT = f"{HERE}/account/1"
META = {"meta": {"website": HERE}}
PATHS = {"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/order"}


def signed(path: str, payload: Any = None, account: str = ACCOUNT) -> Request:
    """Return a POST as clients send it, without a valid signature. Without a payload it reads."""
    jws = {
        "protected": packed({"kid": account, "url": HERE + path}),
        "payload": packed(payload),
        "signature": "AA",
    }
    return Request(
        "POST",
        path,
        {"Host": HOST, "Content-Type": "application/jose+json"},
        json.dumps(jws).encode(),
    )


def new_order(*names: str, account: str = ACCOUNT, **members: Any) -> Request:
    identifiers = [{"type": "dns", "value": name} for name in names]
    return signed(PATHS["newOrder"], {"identifiers": identifiers, **members}, account)


def packed(document: Any) -> str:
    text = b"" if document is None else json.dumps(document).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


class TinyCA:
    """Replaces `lab.upstream.Upstream`. `answers` by path replace the usual responses."""

    place = urlsplit(f"{HERE}/dir")

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.answers: dict[str, Answer] = {}
        self.authority = Authority("tiny CA")

    def paths(self) -> list[str]:
        """Return the paths of the requests, without the directory and nonces."""
        return [
            request.path
            for request in self.asked
            if request.path not in ("/dir", PATHS["newNonce"])
        ]

    def forward(self, request: Request) -> Answer:
        self.asked.append(request)
        nonce = {"Replay-Nonce": f"nonce-{len(self.asked)}"}
        if request.path in self.answers:
            return self.answers[request.path]
        if request.path == "/dir":
            host = request.headers["Host"]
            return json_answer(
                {name: f"https://{host}{path}" for name, path in PATHS.items()} | META
            )
        if request.path == PATHS["newOrder"]:
            order = f"{HERE}/orders/{len(self.asked)}"
            return Answer(201, nonce | {"Location": order}, b"").with_document(
                self.order("pending", order), **{"Content-Type": "application/json"}
            )
        return Answer(200 if request.method == "HEAD" else 404, nonce)

    def order(self, status: str, url: str = f"{HERE}/orders/1") -> dict[str, Any]:
        document = {
            "status": status,
            "identifiers": [],
            "authorizations": [],
            "finalize": f"{url}/finalize",
        }
        return document | ({"certificate": f"{HERE}/certificate/1"} if status == "valid" else {})

    def shows(self, path: str, document: dict[str, Any]) -> None:
        """Show `document` at the path from now on."""
        self.answers[path] = json_answer(document)

    def refuses(self, path: str, status: int, kind: str) -> None:
        self.answers[path] = problem(status, kind, "no")

    def issues(self, path: str, *names: str) -> x509.Certificate:
        """Offer a chain for these names at the URL. Return its leaf."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        listed = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        leaf = self.authority.draft(subject, key).add_extension(listed, critical=False)
        signed_leaf = leaf.sign(self.authority.key, hashes.SHA256())
        pem = signed_leaf.public_bytes(serialization.Encoding.PEM)
        self.answers[path] = Answer(200, {"Content-Type": "application/pem-certificate-chain"}, pem)
        return signed_leaf
