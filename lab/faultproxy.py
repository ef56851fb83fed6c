"""A reverse proxy in front of an ACME CA that enforces limits, offers renewal information and injects faults.

    python -m lab.faultproxy --config FILE

FILE is JSON, a `Config`. Clients use `https://HOST:PORT` with the path of the CA's directory; the Host that they send
is what the CA makes its URLs from. On the control port, over plain HTTP:

    GET  /_faults         the rules and the tally
    GET  /_faults/orders  every newOrder, accepted or refused, in the order in which they were judged
    POST /_faults         {"faults": [...], "windows": {...}, "limits": {...}, "ari_retry_after": 60}, each if present

It imports nothing of the server: what it enforces is another reading of the same data.
"""

import argparse
import http.client
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lab import faults as kinds
from lab.faults import Fault, Faults
from lab.limiting import KINDS, Bucket, Limits, Order, Refusal
from lab.renewalinfo import Objection, RenewalInfos
from lab.upstream import Answer, Request, Upstream, json_answer, problem
from lab.webserver import Server, context_of

RENEWAL_INFO = "/renewal-info"
UNDER_WAY = (
    "under way"  # stands for the order that replaces a certificate until the CA has named it
)
PEM_CHAIN = "application/pem-certificate-chain"


@dataclass
class Config:
    """`limits` is {kind: [capacity, seconds for one back]}, `suffixes` end in the label above a registered domain."""

    listen: str  # HOST:PORT, HTTPS
    control: str  # HOST:PORT, HTTP
    upstream: str  # the CA's directory
    certificate: str  # PEM files: of the proxy's own TLS, and of what it trusts
    key: str
    ca: str = ""
    limits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    suffixes: Sequence[str] = ()
    reused_orders_cost: bool = True  # as Let's Encrypt counts: an order is an order
    faults: Sequence[Mapping[str, Any]] = ()
    profiles: Mapping[str, str] = field(default_factory=dict)  # name to description
    ari: bool = True
    ari_retry_after: int = 21600  # seconds
    seed: int | None = None


@dataclass
class Judged:
    """A newOrder in the log. `url` is empty for one that was not accepted, which `refused` then says why."""

    at: float  # seconds since the epoch
    account: str
    names: tuple[str, ...]
    replaces: str
    profile: str
    url: str = ""
    charged: list[Bucket] = field(default_factory=list)
    refused: str = ""
    detail: str = ""


class FaultProxy:
    """What becomes of a request. `answer` is called by many threads."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.upstream = Upstream(config.upstream, config.ca)
        self.directory_path = self.upstream.place.path
        self.limits = Limits(config.limits, config.suffixes)
        self.faults = Faults(config.faults, config.seed)
        self.infos = RenewalInfos()
        self.judged: list[Judged] = []
        self.tally: Counter[str] = Counter()
        self._endpoints: dict[str, str] = {}  # by path
        self._failed: set[str] = set()  # authorizations
        self._slow: dict[
            str, tuple[int, float]
        ] = {}  # by order: reads that are left, and until when
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer | None:
        """None: the connection is dropped."""
        request.endpoint = self._endpoint(request.path)
        if fault := self._draw(request, self._possible(request)):
            return self._faulty(fault, request)
        if self.config.ari and request.path.startswith(RENEWAL_INFO):
            answer = self.renewal_info(request.path)
        elif request.endpoint == "newOrder":
            answer = self.new_order(request)
        else:
            answer = self.forward(request)
        answer = self._observed(request, answer)
        return None if self._draw(request, [kinds.DROP_AFTER]) else answer

    def forward(self, request: Request) -> Answer:
        try:
            return self.upstream.forward(request)
        except (OSError, http.client.HTTPException) as exc:
            return problem(
                502, "serverInternal", f"The CA behind the proxy is away: {type(exc).__name__}."
            )

    def _endpoint(self, path: str) -> str:
        """The directory's name for the path, once the CA has shown its directory."""
        if not self._endpoints:
            directory = self.forward(Request("GET", self.directory_path, {"Host": "localhost"}))
            urls = [
                (name, url)
                for name, url in directory.document.items()
                if str(url).startswith("http")
            ]
            self._endpoints = {urlsplit(url).path: name for name, url in urls}
        return self._endpoints.get(path, "")

    # --- Orders ---

    def new_order(self, request: Request) -> Answer:
        """Judge, then ask the CA; what it refuses itself costs nothing."""
        order = order_of(request)
        with self._lock:
            judged = Judged(time.time(), order.account, order.names, order.replaces, order.profile)
            verdict = self._judge(order)
            if isinstance(verdict, list) and order.replaces:
                self.infos.replace(order.replaces, UNDER_WAY)
        if not isinstance(verdict, list):
            return self._refuse(judged, verdict, request)
        answer = self.forward(request)
        with self._lock:
            self._settle(judged, verdict, answer)
        return answer

    def _judge(self, order: Order) -> list[Bucket] | Refusal | Objection:
        """The buckets that paid for it, or what speaks against it."""
        if order.profile and order.profile not in self.config.profiles:
            return Objection(
                400, "invalidProfile", f"The profile {order.profile} is not one of this CA's."
            )
        if objection := self.infos.objection(order):
            return objection
        if order.replaces:
            return []
        return self.limits.take(order, time.time(), is_renewal=self.infos.was_issued(order.names))

    def _refuse(self, judged: Judged, verdict: Refusal | Objection, request: Request) -> Answer:
        headers = self._nonce(request)
        if isinstance(verdict, Refusal):
            judged.refused = verdict.bucket.kind
            headers["Retry-After"] = str(max(1, math.ceil(verdict.seconds)))
            answer = problem(429, "rateLimited", verdict.detail, headers)
        else:
            judged.refused = verdict.type
            answer = problem(verdict.status, verdict.type, verdict.detail, headers)
        judged.detail = verdict.detail
        with self._lock:
            self.judged.append(judged)
        return answer

    def _settle(self, judged: Judged, charged: list[Bucket], answer: Answer) -> None:
        """Write down what the CA made of the order."""
        url = answer.headers.get("Location", "")
        is_reused = any(url == each.url for each in self.judged) if url else False
        if not answer.is_ok or (is_reused and not self.config.reused_orders_cost):
            self.limits.give_back(charged)
            charged = []
        if judged.replaces:
            self.infos.replace(
                judged.replaces, str(answer.document.get("finalize", "")) if answer.is_ok else ""
            )
        if answer.is_ok:
            judged.url, judged.charged = url, charged
            self.judged.append(judged)
            self.tally["reused"] += is_reused

    # --- What the answers tell ---

    def _observed(self, request: Request, answer: Answer) -> Answer:
        """Learn from the CA's answer, and change what it says where that is asked for."""
        if not answer.is_ok:
            return answer
        document = answer.document
        with self._lock:
            if request.path == self.directory_path:
                return self._directory(request, answer)
            if answer.headers.get("Content-Type", "").startswith(PEM_CHAIN):
                self.infos.remember(answer.body, request.account)
            elif "challenges" in document and document.get("status") == "invalid":
                self._fail(request, document)
            elif "finalize" in document:
                return self._order(request, answer)
        return answer

    def _directory(self, request: Request, answer: Answer) -> Answer:
        document = dict(answer.document)
        if self.config.ari:
            document["renewalInfo"] = request.origin + RENEWAL_INFO
        if self.config.profiles:
            document["meta"] = {**document.get("meta", {}), "profiles": self.config.profiles}
        return answer.with_document(document)

    def _fail(self, request: Request, document: Mapping[str, Any]) -> None:
        """A failed validation is counted once, however often it is read."""
        if request.path not in self._failed:
            self._failed.add(request.path)
            self.tally["failed_validations"] += 1
            self.limits.failed(request.account, document["identifier"]["value"], time.time())

    def _order(self, request: Request, answer: Answer) -> Answer:
        """A valid order may have to look as if the CA were slow."""
        order, status = str(answer.document["finalize"]), answer.document.get("status")
        if status == "invalid":
            self.infos.give_up(order)
        if status != "valid" or not self._is_slow(order, request):
            return answer
        shown = {name: value for name, value in answer.document.items() if name != "certificate"}
        return answer.with_document({**shown, "status": "processing"}, **{"Retry-After": "1"})

    def _is_slow(self, order: str, request: Request) -> bool:
        """The lot is drawn when the order is first seen valid."""
        now = time.time()
        if order not in self._slow:
            fault = self.faults.draw([kinds.PROCESSING], request.path, request.endpoint)
            self._slow[order] = (fault.reads, now + fault.seconds) if fault else (0, 0.0)
        reads, until = self._slow[order]
        self._slow[order] = (reads - 1, until)
        return reads > 0 or now < until

    # --- Faults ---

    def _draw(self, request: Request, possible: Iterable[str]) -> Fault | None:
        with self._lock:
            return self.faults.draw(list(possible), request.path, request.endpoint)

    def _possible(self, request: Request) -> list[str]:
        """The faults that can stand instead of the answer to this request."""
        impossible = set()
        if request.method != "POST":
            impossible.add(kinds.BAD_NONCE)
        if request.endpoint != "newOrder" or not request.payload.get("replaces"):
            impossible.add(kinds.ALREADY_REPLACED)
        return [kind for kind in kinds.INSTEAD if kind not in impossible]

    def _faulty(self, fault: Fault, request: Request) -> Answer | None:
        if fault.do == kinds.DROP_BEFORE:
            return None
        if fault.do == kinds.BAD_NONCE:
            return problem(
                400, "badNonce", "JWS has an invalid anti-replay nonce", self._nonce(request)
            )
        if fault.do == kinds.ALREADY_REPLACED:
            what = "cannot indicate an order replaces a certificate which already has a replacement order"
            return problem(409, "alreadyReplaced", what, self._nonce(request))
        if fault.retry_after is None:
            return Answer(
                fault.status,
                {"Content-Type": "text/html"},
                b"<html>upstream is not available</html>\n",
            )
        headers = {"Retry-After": str(fault.retry_after)}
        return problem(fault.status, "rateLimited", "Service busy; retry later.", headers)

    def _nonce(self, request: Request) -> dict[str, str]:
        """A fresh one of the CA's, which every refusal to a signed request carries (RFC 8555, 6.5)."""
        path = next((path for path, name in self._endpoints.items() if name == "newNonce"), "")
        given = self.forward(
            Request("HEAD", path, {"Host": request.headers.get("Host", "localhost")})
        )
        return {name: value for name, value in given.headers.items() if name == "Replay-Nonce"}

    def renewal_info(self, path: str) -> Answer:
        """GET (RFC 9773, 4.1), which nobody signs."""
        with self._lock:
            self.tally["renewal_infos"] += 1
            document = self.infos.document(path.rpartition("/")[2])
        if document is None:
            return problem(404, "malformed", "The certificate is not one of this CA's.")
        return json_answer(document, **{"Retry-After": str(self.config.ari_retry_after)})

    # --- The control port ---

    def control(self, request: Request) -> Answer:
        if request.method == "POST":
            try:
                self._change(json.loads(request.body))
            except (ValueError, TypeError, KeyError) as exc:
                return Answer(
                    400, {"Content-Type": "text/plain"}, f"{type(exc).__name__}: {exc}\n".encode()
                )
        with self._lock:
            if request.path.endswith("/orders"):
                return json_answer({"orders": [asdict(each) for each in self.judged]})
            return json_answer(
                {"faults": [asdict(rule) for rule in self.faults.rules], "tally": self._tally()}
            )

    def _change(self, document: Mapping[str, Any]) -> None:
        with self._lock:
            if unknown := set(document) - {"faults", "windows", "limits", "ari_retry_after"}:
                raise ValueError(f"nothing is called {sorted(unknown)}")
            if "faults" in document:
                self.faults.set(document["faults"])
            if "windows" in document:
                self.infos.move(document["windows"])
            if "limits" in document:
                self.limits = Limits(document["limits"], self.config.suffixes)
            self.config.ari_retry_after = int(
                document.get("ari_retry_after", self.config.ari_retry_after)
            )

    def _tally(self) -> dict[str, Any]:
        """Counts. `refused` is by the kind of the limit, `objected` by the type of every other problem."""
        accepted = [each for each in self.judged if each.url]
        refused = Counter(each.refused for each in self.judged if each.refused)
        return {
            "orders": len(accepted),
            "with_replaces": sum(bool(each.replaces) for each in accepted),
            "replaced": sum(bool(known.replaced_by) for known in self.infos.known.values()),
            "certificates": len(self.infos.known),
            "refused": {kind: count for kind, count in refused.items() if kind in KINDS},
            "objected": {kind: count for kind, count in refused.items() if kind not in KINDS},
            "faults": dict(self.faults.hits),
            **self.tally,
        }


def order_of(request: Request) -> Order:
    """What the newOrder asks for, read from its payload without any key."""
    payload = request.payload
    names = sorted({str(each["value"]).lower() for each in payload.get("identifiers", ())})
    return Order(
        request.account,
        tuple(names),
        str(payload.get("replaces", "")),
        str(payload.get("profile", "")),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="A fault proxy in front of an ACME CA.")
    parser.add_argument("--config", type=Path, required=True, help="JSON: see Config")
    config = Config(**json.loads(parser.parse_args().config.read_text()))
    proxy = FaultProxy(config)
    front = Server(config.listen, proxy.answer, context_of(config.certificate, config.key))
    threading.Thread(target=front.serve_forever, daemon=True).start()
    Server(config.control, proxy.control).serve_forever()  # last: who answers here is ready


if __name__ == "__main__":
    main()
