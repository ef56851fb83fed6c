"""The fake CA over HTTP. The real ACME client can run complete attempts against it.

A test can change any reply.
"""

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from authorities import acme
from authorities.errors import Refused
from tests.authorities import stub
from tests.authorities.stub import NOW, Reply, Stub, problem
from tests.fakes.ca import FakeAuthorization, FakeCA, FakeClient, FakeOrder

ACCOUNT = 1


class WireCA(Stub):
    """The server.

    `tell(path, *replies)` replaces replies, as in Stub. `change(path, change, times)` alters the
    usual replies. The paths are those of FakeCA: /order/0, /order/0/authz/0,
    /order/0/authz/0/chall, /order/0/finalize, /order/0/cert.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.ca: FakeCA | None = None
        self.changes: dict[str, list[tuple[Callable[[Reply], Reply], int]]] = {}

    def serves(self, ca: FakeCA, key: bytes) -> None:
        """Answer for `ca`. `key` is the key of the only account."""
        self.ca = ca
        ca.base_url = self.url
        ca.thumbprint = acme.thumbprint(key)

    def change(self, path: str, change: Callable[[Reply], Reply], times: int = 1_000_000) -> None:
        self.changes.setdefault(path, []).append((change, times))

    def usual(self, path: str) -> Reply:
        reply = self._usual(path)
        waiting = self.changes.get(path)
        if waiting:
            change, times = waiting[0]
            waiting[:1] = [(change, times - 1)] if times > 1 else []
            reply = change(reply)
        return reply

    def _usual(self, path: str) -> Reply:
        if self.ca is None or path in ("/dir", "/newNonce", "/newAccount"):
            return super().usual(path)
        client = FakeClient(self.ca, ACCOUNT)
        payload = self.asked[-1].payload
        if path == "/newOrder":
            names = [each["value"] for each in payload["identifiers"]]
            return self._order(self.ca.orders[client.new_order(names).url], 201)
        order = self.ca.orders.get(self.url + (re.match(r"/order/\d+", path) or [""])[0])
        if order is None:
            return problem("malformed", "No such order", 404)
        if path.endswith("/finalize"):
            return self._finalize(client, order, payload["csr"])
        if path.endswith("/cert"):
            kind = {"Content-Type": "application/pem-certificate-chain"}
            return Reply(body=client.download(self.url + path).encode(), headers=kind)
        if "/authz/" in path:
            return self._authorization(client, path, payload)
        client.read_order(order.url)
        return self._order(order)

    def _order(self, order: FakeOrder, status: int = 200) -> Reply:
        assert self.ca
        document = {
            "status": self.ca.status_of(order),
            "expires": NOW,
            "identifiers": [{"type": "dns", "value": name} for name in order.names],
            "authorizations": [each.url for each in order.authorizations],
            "finalize": f"{order.url}/finalize",
        }
        if document["status"] == "valid":
            document["certificate"] = f"{order.url}/cert"
        return Reply(status, document, {"Location": order.url} if status == 201 else {})

    def _finalize(self, client: FakeClient, order: FakeOrder, csr: str) -> Reply:
        if order.status != "ready":
            return problem("orderNotReady", "The order is not ready.", 403)
        request = x509.load_der_x509_csr(base64.urlsafe_b64decode(csr + "=" * (-len(csr) % 4)))
        resource = client.read_order(order.url)
        client.finalize(resource, request.public_bytes(serialization.Encoding.PEM).decode())
        return self._order(order)

    def _authorization(self, client: FakeClient, path: str, payload: Any) -> Reply:
        assert self.ca
        url = self.url + path
        found = self.ca.find(url)
        if path.endswith("/chall"):
            client.answer(url)
            return Reply(body=self._challenge(found))
        if payload == {"status": "deactivated"}:
            try:
                client.deactivate(url)
            except Refused as refused:
                return problem("malformed", refused.what)
        client.read_authorization(url)
        identifier = {"type": "dns", "value": found.identifier}
        document = {
            "status": found.status,
            "identifier": identifier,
            "challenges": [self._challenge(found)],
        }
        return Reply(body=document | ({"wildcard": True} if found.wildcard else {}))

    def _challenge(self, found: FakeAuthorization) -> dict[str, Any]:
        waits = found.answered and found.status == "pending"
        status = "processing" if waits else found.status
        more = {}
        if found.status == "invalid":
            more["error"] = {
                "type": stub.PREFIX + "unauthorized",
                "detail": "No TXT record found",
                "status": 403,
            }
        return {
            "type": "dns-01",
            "url": f"{found.url}/chall",
            "status": status,
            "token": found.token,
        } | more


@contextmanager
def running() -> Iterator[WireCA]:
    with stub.running(WireCA) as served:
        assert isinstance(served, WireCA)
        yield served


def body(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Reply], Reply]:
    """Return a change of a reply that applies `change` to its JSON."""
    return lambda reply: Reply(reply.status, change(dict(reply.body)), reply.headers)


def without(*members: str) -> Callable[[Reply], Reply]:
    return body(
        lambda document: {name: value for name, value in document.items() if name not in members}
    )


def with_(**members: Any) -> Callable[[Reply], Reply]:
    return body(lambda document: document | members)
