"""A reverse proxy for an ACME CA. It enforces limits, adds renewal information and injects faults.

    python -m lab.faultproxy --config FILE

FILE is JSON, a `Config`. Clients use `https://HOST:PORT` with the path of the CA's directory. The
CA makes its URLs from the Host header of the client. The control port uses plain HTTP:

    GET  /_faults         the rules and the tally
    GET  /_faults/orders  every newOrder, accepted or refused, in the order of judgment
    POST /_faults         an object with any of the members "faults": [...], "windows": {...},
                          "limits": {...} and "ari_retry_after": 60

The proxy imports no code of the server. It is an independent reading of the same data.
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
from lab.limiting import ACCOUNT, KINDS, Bucket, Limits, Order, Refusal
from lab.renewalinfo import Objection, RenewalInfos
from lab.upstream import Answer, Request, Upstream, json_answer, problem
from lab.webserver import Server, context_of

RENEWAL_INFO = "/renewal-info"
# A placeholder for the order that replaces a certificate, until the CA has created that order.
UNDER_WAY = "under way"
PEM_CHAIN = "application/pem-certificate-chain"


@dataclass
class Config:
    """The configuration of the proxy.

    `limits` is {kind: [capacity, seconds until one token is back]}. `suffixes` are added to the
    public suffix list. One label below a suffix is a registered domain.
    """

    listen: str  # HOST:PORT, HTTPS
    control: str  # HOST:PORT, HTTP
    upstream: str  # the CA's directory
    # PEM files: the proxy's certificate, its `key`, and `ca`, the bundle for the CA
    certificate: str
    key: str
    ca: str = ""
    limits: Mapping[str, Sequence[float]] = field(default_factory=dict)
    suffixes: Sequence[str] = ()
    reused_orders_cost: bool = True  # as at Let's Encrypt, where each order counts
    # An order for names without a token is refused. Only an issued order takes one, as at Let's
    # Encrypt. So many orders that are sent at once may overdraw a bucket, which is tallied.
    names_cost_when_issued: bool = False
    faults: Sequence[Mapping[str, Any]] = ()
    profiles: Mapping[str, str] = field(default_factory=dict)  # {name: description}
    ari: bool = True
    ari_retry_after: int = 21600  # seconds
    seed: int | None = None


@dataclass
class Judged:
    """A newOrder in the log.

    `url` is empty for an order that was not accepted. `refused` then has the reason. `charged` has
    the buckets that lost a token, `uncharged` those that lose it when the order is issued.
    `issued_at` is that moment. It is 0 before it, and for orders that paid all at once.
    """

    at: float  # seconds since the epoch
    account: str
    names: tuple[str, ...]
    replaces: str
    profile: str
    url: str = ""
    finalize: str = ""
    charged: list[Bucket] = field(default_factory=list)
    uncharged: list[Bucket] = field(default_factory=list)
    issued_at: float = 0.0
    refused: str = ""
    detail: str = ""


class FaultProxy:
    """Decides the response to each request. Many threads call `answer`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.upstream = Upstream(config.upstream, config.ca)
        self.directory_path = self.upstream.place.path
        self.limits = Limits(config.limits, config.suffixes)
        self.faults = Faults(config.faults, config.seed)
        self.infos = RenewalInfos()
        self.judged: list[Judged] = []
        self.tally: Counter[str] = Counter()
        self.overdrawn: Counter[str] = Counter()  # by kind of limit
        self._endpoints: dict[str, str] = {}  # by path
        self._failed: set[str] = set()  # URLs of authorizations
        # By order: the reads left, and the time (epoch seconds) until which it is slow.
        self._slow: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer | None:
        """Return the response, or None to drop the connection."""
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
                502,
                "serverInternal",
                f"The CA behind the proxy is unreachable ({type(exc).__name__}).",
            )

    def _endpoint(self, path: str) -> str:
        """Return the directory's name for the path, or "". The directory is read once."""
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
        """Judge the order, then ask the CA. An order that the CA refuses costs no token."""
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
        """Return the buckets that were charged, or the reason against the order."""
        if order.profile and order.profile not in self.config.profiles:
            return Objection(400, "invalidProfile", f"This CA has no profile {order.profile}.")
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
        """Record the CA's decision about the order."""
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
            judged.url = url
            judged.finalize = str(answer.document.get("finalize", ""))
            judged.charged = charged
            if self.config.names_cost_when_issued:
                self.limits.give_back(bucket for bucket in charged if bucket.kind != ACCOUNT)
                judged.charged = [bucket for bucket in charged if bucket.kind == ACCOUNT]
                judged.uncharged = [bucket for bucket in charged if bucket.kind != ACCOUNT]
            self.judged.append(judged)
            self.tally["reused"] += is_reused

    # --- Responses ---

    def _observed(self, request: Request, answer: Answer) -> Answer:
        """Learn from the CA's response, and change it where that is configured."""
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
        """Count a failed validation once, however often it is read."""
        if request.path not in self._failed:
            self._failed.add(request.path)
            self.tally["failed_validations"] += 1
            self.limits.failed(request.account, document["identifier"]["value"], time.time())

    def _order(self, request: Request, answer: Answer) -> Answer:
        """Show a valid order as processing when a fault makes the CA slow."""
        order = str(answer.document["finalize"])
        status = answer.document.get("status")
        if status == "invalid":
            self.infos.give_up(order)
        if status == "valid":
            self._charge_names(order)
        if status != "valid" or not self._is_slow(order, request):
            return answer
        shown = {name: value for name, value in answer.document.items() if name != "certificate"}
        return answer.with_document({**shown, "status": "processing"}, **{"Retry-After": "1"})

    def _charge_names(self, order: str) -> None:
        for each in self.judged:
            if each.finalize == order and each.uncharged:
                each.issued_at = time.time()
                for bucket in each.uncharged:
                    self.overdrawn[bucket.kind] += not self.limits.spend(bucket, each.issued_at)
                each.charged += each.uncharged
                each.uncharged = []

    def _is_slow(self, order: str, request: Request) -> bool:
        """Return whether the order still counts as slow.

        The fault is drawn when it is first valid.
        """
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
        """Return the faults that may replace the response to this request."""
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
            what = (
                "cannot indicate an order replaces a certificate which already has a "
                "replacement order"
            )
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
        """Return a fresh nonce of the CA.

        Every error for a signed request has one (RFC 8555, section 6.5).
        """
        path = next((path for path, name in self._endpoints.items() if name == "newNonce"), "")
        given = self.forward(
            Request("HEAD", path, {"Host": request.headers.get("Host", "localhost")})
        )
        return {name: value for name, value in given.headers.items() if name == "Replay-Nonce"}

    def renewal_info(self, path: str) -> Answer:
        """Return the renewal information. This GET is unsigned (RFC 9773, section 4.1)."""
        with self._lock:
            self.tally["renewal_infos"] += 1
            document = self.infos.document(path.rpartition("/")[2])
        if document is None:
            return problem(404, "malformed", "This CA did not issue the certificate.")
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
                raise ValueError(f"unknown members {sorted(unknown)}")
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
        """Return the counts.

        `refused` and `overdrawn` count by kind of limit. `objected` counts all other problems by
        type.
        """
        accepted = [each for each in self.judged if each.url]
        refused = Counter(each.refused for each in self.judged if each.refused)
        return {
            "orders": len(accepted),
            "with_replaces": sum(bool(each.replaces) for each in accepted),
            "replaced": sum(bool(known.replaced_by) for known in self.infos.known.values()),
            "certificates": len(self.infos.known),
            "refused": {kind: count for kind, count in refused.items() if kind in KINDS},
            "objected": {kind: count for kind, count in refused.items() if kind not in KINDS},
            "overdrawn": dict(+self.overdrawn),
            "faults": dict(self.faults.hits),
            **self.tally,
        }


def order_of(request: Request) -> Order:
    """Return the order in the payload of a newOrder. No key is needed to read it."""
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
    parser.add_argument("--config", type=Path, required=True, help="JSON (see Config)")
    config = Config(**json.loads(parser.parse_args().config.read_text()))
    proxy = FaultProxy(config)
    front = Server(config.listen, proxy.answer, context_of(config.certificate, config.key))
    threading.Thread(target=front.serve_forever, daemon=True).start()
    # last, because a response here means that both ports are ready
    Server(config.control, proxy.control).serve_forever()


if __name__ == "__main__":
    main()
