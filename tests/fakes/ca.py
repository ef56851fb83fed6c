"""A CA that speaks RFC 8555 statuses, without a network: orders, authorizations, challenges and real certificates."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certctrl import clock
from certctrl.turns import Trouble, Wait
from issuance import chains, pki
from issuance.models import AcmeAccount
from issuance.resources import (
    AccountResource,
    AuthorizationResource,
    OrderResource,
    Problem,
    Refused,
    RenewalInfoResource,
)
from tests.fakes.limiting import Limiter
from tests.fakes.outside import Outside
from tests.fakes.zone import FakeZone


@dataclass
class FakeAuthorization:
    url: str
    identifier: str
    wildcard: bool
    account: int
    status: str = "pending"
    answered: bool = False
    reads_left: int = 0  # how often it still reads pending after the answer

    @property
    def value(self) -> str:
        digest = hashlib.sha256(f"{self.url} {self.account}".encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass
class FakeOrder:
    url: str
    account: int
    names: tuple[str, ...]
    authorizations: list[FakeAuthorization]
    csr_pem: str = ""
    chain_pem: str = ""
    reads_left: int = 0  # how often it still reads processing after the CSR
    failed: bool = False
    ari_id: str = ""  # of the certificate that came of it
    replaces: str = ""

    @property
    def status(self) -> str:
        if self.failed or any(each.status == "invalid" for each in self.authorizations):
            return "invalid"
        if self.chain_pem:
            return "processing" if self.reads_left > 0 else "valid"
        return "ready" if all(each.status == "valid" for each in self.authorizations) else "pending"


@dataclass
class FakeCA:
    """One CA for all accounts. `reuses_orders` and `reuses_authorizations` as Let's Encrypt does; `problems` are raised
    by the next calls of that name. With `offers_renewal_info` each certificate gets a window in `windows`, which tests
    move, and an order says what it `replaces`: once for each certificate."""

    outside: Outside
    zone: FakeZone
    orders: dict[str, FakeOrder] = field(default_factory=dict)
    reuses_orders: bool = True
    reuses_authorizations: bool = False
    hands_out_used_orders: int = 0  # how often newOrder answers with the last order of these names, whatever its status
    validation_reads: int = 0
    processing_reads: int = 0
    problems: dict[str, list[Exception]] = field(default_factory=dict)
    life: timedelta = timedelta(days=90)
    ends: datetime | None = None  # its certificate, and what it signs with it
    name: str = "ca"  # of its calls, and of its host
    profiles: dict[str, str] = field(default_factory=dict)
    profiles_ordered: list[str] = field(default_factory=list)
    alternates: tuple[str, ...] = ()  # the roots of its other chains
    revoked: list[str] = field(default_factory=list)
    registered: set[int] = field(default_factory=set)
    limiter: Limiter | None = None
    offers_renewal_info: bool = False
    windows: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)  # by ari_id
    explanation_url: str = ""
    retry_after: float | None = None  # seconds, until the next look at a window
    caa_identities: tuple[str, ...] = ("ca.test",)
    unheard: list[str] = field(default_factory=list)  # what the next answers seem to be, though none comes to the CA

    def client_for(self, account: AcmeAccount) -> "FakeClient":
        return FakeClient(self, account)

    def call(self, name: str, effect: Callable[[], Any]) -> Any:
        if self.problems.get(name):
            problem = self.problems[name].pop(0)
            return self.outside.call(f"{self.name}.{name}", lambda: _raise(problem))
        return self.outside.call(f"{self.name}.{name}", effect)

    def new_order(self, account: int, names: tuple[str, ...], replaces: str = "") -> FakeOrder:
        self.refuse_what_was_replaced(account, replaces)
        same = [each for each in self.orders.values() if (each.account, each.names) == (account, names)]
        if same and self.hands_out_used_orders:
            self.hands_out_used_orders -= 1
            return same[-1]
        usable = [each for each in same if each.status in ("pending", "ready")]
        if usable and self.reuses_orders:
            return usable[-1]
        if self.limiter and not replaces:
            self.limiter.order(account, names)
        order = FakeOrder(f"https://{self.name}.test/order/{len(self.orders)}", account, names, [], replaces=replaces)
        order.authorizations = [self.authorization(order, each, at) for at, each in enumerate(names)]
        self.orders[order.url] = order
        return order

    def refuse_what_was_replaced(self, account: int, replaces: str) -> None:
        """RFC 9773, section 5: an order of this account made it, and no order that still stands replaced it."""
        if not replaces:
            return
        made = [
            each for each in self.orders.values() if each.chain_pem and pki.facts(each.chain_pem).ari_id == replaces
        ]
        if not any(each.account == account for each in made):
            raise Refused("ca_unauthorized", "The account did not order the certificate that is to be replaced.")
        if any(each.replaces == replaces and each.status != "invalid" for each in self.orders.values()):
            raise Refused("ca_already_replaced", "The certificate was replaced already.")

    def authorization(self, order: FakeOrder, name: str, at: int) -> FakeAuthorization:
        identifier, wildcard = name.removeprefix("*."), name.startswith("*.")
        if self.reuses_authorizations:
            for each in self.authorizations():
                same = (each.identifier, each.wildcard, each.account) == (identifier, wildcard, order.account)
                if same and each.status in ("pending", "valid"):
                    return each
        url = f"{order.url}/authz/{at}"
        return FakeAuthorization(url, identifier, wildcard, order.account)

    def authorizations(self) -> list[FakeAuthorization]:
        return [each for order in self.orders.values() for each in order.authorizations]

    def open_window(self, order: FakeOrder) -> None:
        """Two days, with a third of the life left, as Let's Encrypt suggests."""
        facts = pki.facts(order.chain_pem)
        order.ari_id = facts.ari_id
        start = facts.not_after - (facts.not_after - facts.not_before) / 3 - timedelta(days=1)
        self.windows[facts.ari_id] = (start, start + timedelta(days=2))

    def move_windows(self, by: timedelta) -> None:
        self.windows = {ari_id: (start + by, end + by) for ari_id, (start, end) in self.windows.items()}

    def find(self, url: str) -> FakeAuthorization:
        return next(each for each in self.authorizations() if each.url == url.removesuffix("/chall"))

    def validate(self, authorization: FakeAuthorization) -> None:
        """What the CA does some time after the answer: it looks at the zone."""
        if not authorization.answered or authorization.status != "pending":
            return
        if authorization.reads_left > 0:
            authorization.reads_left -= 1
            return
        shown = self.zone.shows(f"_acme-challenge.{authorization.identifier}", authorization.value)
        authorization.status = "valid" if shown else "invalid"


def _raise(problem: Exception) -> Any:
    raise problem


class FakeClient:
    """One account at the fake CA: `issuance.resources.CA`."""

    def __init__(self, ca: FakeCA, account: AcmeAccount) -> None:
        self.ca = ca
        self.account = account.pk

    def caa_identities(self) -> tuple[str, ...]:
        return self.ca.caa_identities

    def register(self) -> AccountResource:
        self.ca.call("register", lambda: self.ca.registered.add(self.account))
        return AccountResource(url=f"https://{self.ca.name}.test/acct/{self.account}", status="valid")

    def profiles(self) -> dict[str, str]:
        return self.ca.call("profiles", lambda: self.ca.profiles)

    def new_order(self, names: Sequence[str], *, profile: str = "", replaces: str = "") -> OrderResource:
        self.ca.profiles_ordered.append(profile)
        more = (replaces,) if replaces else ()
        return self.ca.call("new_order", lambda: shape(self.ca.new_order(self.account, tuple(sorted(names)), *more)))

    def read_order(self, url: str) -> OrderResource:
        return self.ca.call("read_order", lambda: self._read_order(url))

    def _read_order(self, url: str) -> OrderResource:
        order = self.ca.orders[url]
        for each in order.authorizations:
            self.ca.validate(each)
        resource = shape(order)
        order.reads_left = max(0, order.reads_left - 1)
        return resource

    def read_authorization(self, url: str) -> AuthorizationResource:
        return self.ca.call("read_authorization", lambda: self._read_authorization(url))

    def _read_authorization(self, url: str) -> AuthorizationResource:
        found = self.ca.find(url)
        self.ca.validate(found)
        problem = Problem("unauthorized", "No TXT record found") if found.status == "invalid" else None
        return AuthorizationResource(
            url=found.url,
            identifier=found.identifier,
            wildcard=found.wildcard,
            status=found.status,
            challenge_url=f"{found.url}/chall",
            challenge_status="processing" if found.answered and found.status == "pending" else found.status,
            txt_value=found.value,
            problem=problem,
        )

    def answer(self, challenge_url: str) -> str:
        return self.ca.call("answer", lambda: self._answer(challenge_url))

    def _answer(self, challenge_url: str) -> str:
        found = self.ca.find(challenge_url)
        if self.ca.unheard:
            return self.ca.unheard.pop(0)
        if not found.answered:
            found.answered, found.reads_left = True, self.ca.validation_reads
        return ""

    def finalize(self, order: OrderResource, csr_pem: str) -> OrderResource:
        return self.ca.call("finalize", lambda: self._finalize(order.url, csr_pem))

    def _finalize(self, url: str, csr_pem: str) -> OrderResource:
        order = self.ca.orders[url]
        if order.status != "ready":
            raise Wait(2, "The order is not ready.")
        ends = [self.ca.ends] if self.ca.ends else []
        order.csr_pem, order.chain_pem = csr_pem, sign(csr_pem, self.ca.life, *ends)
        self.ca.open_window(order)
        order.reads_left = self.ca.processing_reads
        return shape(order)

    def download(
        self,
        certificate_url: str,
        csr_pem: str = "",
        validity_seconds: int | None = None,
        preferred_chain: str = "",
    ) -> str:
        url = certificate_url.removesuffix("/cert")
        default = self.ca.call("download", lambda: self.ca.orders[url].chain_pem)
        others = (self.ca.call("alternate", lambda root=root: under(default, root)) for root in self.ca.alternates)
        return chains.choose(default, others, preferred_chain)

    def revoke(self, chain_pem: str, reason: int) -> None:
        self.ca.call("revoke", lambda: self.ca.revoked.append(chain_pem))

    def offers_renewal_info(self) -> bool:
        return self.ca.offers_renewal_info

    def renewal_info(self, ari_id: str) -> RenewalInfoResource | None:
        if not self.ca.offers_renewal_info:
            return None
        return self.ca.call("renewal_info", lambda: self._renewal_info(ari_id))

    def _renewal_info(self, ari_id: str) -> RenewalInfoResource:
        if ari_id not in self.ca.windows:
            raise Refused("ca_not_found", "The CA does not know the certificate.")
        return RenewalInfoResource(*self.ca.windows[ari_id], self.ca.explanation_url, self.ca.retry_after)


def shape(order: FakeOrder) -> OrderResource:
    return OrderResource(
        url=order.url,
        status=order.status,
        authorizations=tuple(each.url for each in order.authorizations),
        finalize_url=f"{order.url}/finalize",
        certificate_url=f"{order.url}/cert" if order.status == "valid" else "",
        expires_at=clock.now() + timedelta(days=7),
        problem=None,
    )


@cache
def issuer() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, authority("fake CA", key, "fake CA", key)


def authority(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_name: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    ends: datetime | None = None,
) -> x509.Certificate:
    subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer_name))
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(signer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(x509.BasicConstraints(True, None), True)
    start = clock.now() - timedelta(days=3650)
    builder = builder.not_valid_before(start).not_valid_after(ends or start + timedelta(days=36500))
    return builder.sign(issuer_key, hashes.SHA256())


def under(chain_pem: str, root: str) -> str:
    """The same leaf with its issuer signed by a root of that name."""
    cross_signed = authority("fake CA", issuer()[0], root, ec.generate_private_key(ec.SECP256R1()))
    return pki.split_chain(chain_pem).leaf + cross_signed.public_bytes(serialization.Encoding.PEM).decode()


def sign(csr_pem: str, life: timedelta, ends: datetime | None = None) -> str:
    """Leaf and issuer; both end at `ends` where that is sooner than the life."""
    key, certificate = issuer()
    if ends:
        certificate = authority("fake CA", key, "fake CA", key, ends)
    request = x509.load_pem_x509_csr(csr_pem.encode())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    now = clock.now().replace(microsecond=0)
    builder = x509.CertificateBuilder().subject_name(request.subject).issuer_name(certificate.subject)
    builder = builder.public_key(request.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(min(now + life, certificate.not_valid_after_utc))
    builder = builder.add_extension(names, False)
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(key_id, False)
    leaf = builder.sign(key, hashes.SHA256())
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in (leaf, certificate))


TROUBLE = Trouble("ca_unreachable", "The CA could not be reached.")
REFUSED = Refused("ca_caa", "The CA refused: CAA forbids it.")
