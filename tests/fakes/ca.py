"""A CA in memory with the statuses of RFC 8555.

It has orders, authorizations and challenges, and it signs real certificates.
"""

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

from authorities import chains, pki
from authorities.base import (
    AccountResource,
    AuthorizationResource,
    ChallengeResource,
    OrderResource,
    RenewalInfoResource,
)
from authorities.errors import Problem, Refused
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.turns import Trouble, Wait
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
    reads_left: int = 0  # reads that still show pending after the challenge was answered
    thumbprint: str = ""  # of the account's key, for WireCA

    @property
    def token(self) -> str:
        return (
            base64.urlsafe_b64encode(hashlib.sha256(self.url.encode()).digest())
            .rstrip(b"=")
            .decode()
        )

    @property
    def key_authorization(self) -> str:
        thumbprint = self.thumbprint or f"account-{self.account}"
        return f"{self.token}.{thumbprint}"

    @property
    def value(self) -> str:
        digest = hashlib.sha256(self.key_authorization.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass
class FakeOrder:
    url: str
    account: int
    names: tuple[str, ...]
    authorizations: list[FakeAuthorization]
    csr_pem: str = ""
    chain_pem: str = ""
    reads_left: int = 0  # reads that still show processing after the CSR
    failed: bool = False
    ari_id: str = ""  # of the certificate that it issued
    replaces: str = ""

    @property
    def status(self) -> str:
        if self.failed or any(
            each.status in ("invalid", "deactivated") for each in self.authorizations
        ):
            return "invalid"
        if self.chain_pem:
            return "processing" if self.reads_left > 0 else "valid"
        return "ready" if all(each.status == "valid" for each in self.authorizations) else "pending"


@dataclass
class FakeCA:
    """One CA for all accounts.

    `reuses_orders` and `reuses_authorizations` copy the behaviour of Let's Encrypt. `problems` are
    raised by the next calls with that name. With `offers_renewal_info` accounts can read the
    renewal windows in `windows`, and tests can move these windows. Each certificate can be named
    by `replaces` once.
    """

    outside: Outside
    zone: FakeZone
    orders: dict[str, FakeOrder] = field(default_factory=dict)
    reuses_orders: bool = True
    reuses_authorizations: bool = False
    # How many newOrder requests return the last order of the same names, whatever its status.
    hands_out_used_orders: int = 0
    validation_reads: int = 0
    processing_reads: int = 0
    problems: dict[str, list[Exception]] = field(default_factory=dict)
    life: timedelta = timedelta(days=90)
    ends: datetime | None = None  # when its own certificate and all that it signs end
    name: str = "ca"  # prefix of its calls, and its host
    profiles: dict[str, str] = field(default_factory=dict)
    profiles_ordered: list[str] = field(default_factory=list)
    alternates: tuple[str, ...] = ()  # the roots of its alternate chains
    revoked: list[str] = field(default_factory=list)
    registered: set[int] = field(default_factory=set)
    limiter: Limiter | None = None
    offers_renewal_info: bool = False
    windows: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)  # by ari_id
    explanation_url: str = ""
    retry_after: float | None = None  # seconds until the next read of a renewal window
    caa_identities: tuple[str, ...] = ("ca.test",)
    # Seconds for which its resolver caches a record set, or a negative answer.
    keeps_txt: float = 0
    kept_txt: dict[str, tuple[datetime, frozenset[str]]] = field(default_factory=dict)
    # The results of the next `answer` calls. The CA then ignores these calls.
    unheard: list[str] = field(default_factory=list)
    base_url: str = ""  # of WireCA
    thumbprint: str = ""
    # An order shows pending although one of its authorizations is invalid. newOrder returns it.
    keeps_pending: bool = False
    adds_names: tuple[str, ...] = ()  # added to each certificate
    offers: str = "dns-01"  # the type of its challenges
    # Key authorizations by identifier. The CA looks here when its challenges are not dns-01.
    proofs: dict[str, str] = field(default_factory=dict)

    def client_for(self, account: AcmeAccount) -> "FakeClient":
        return FakeClient(self, account)

    def call(self, name: str, effect: Callable[[], Any]) -> Any:
        if self.problems.get(name):
            problem = self.problems[name].pop(0)
            return self.outside.call(f"{self.name}.{name}", lambda: _raise(problem))
        return self.outside.call(f"{self.name}.{name}", effect)

    def new_order(self, account: int, names: tuple[str, ...], replaces: str = "") -> FakeOrder:
        self.refuse_what_was_replaced(account, replaces)
        same = [
            each for each in self.orders.values() if (each.account, each.names) == (account, names)
        ]
        if same and self.hands_out_used_orders:
            self.hands_out_used_orders -= 1
            return same[-1]
        usable = [each for each in same if self.status_of(each) in ("pending", "ready")]
        if usable and self.reuses_orders:
            return usable[-1]
        if self.limiter and not replaces:
            self.limiter.order(account, names)
        url = f"{self.base_url or f'https://{self.name}.test'}/order/{len(self.orders)}"
        order = FakeOrder(url, account, names, [], replaces=replaces)
        order.authorizations = [
            self.authorization(order, each, at) for at, each in enumerate(names)
        ]
        self.orders[order.url] = order
        return order

    def refuse_what_was_replaced(self, account: int, replaces: str) -> None:
        """Raise Refused if an order may not replace this certificate (RFC 9773, section 5).

        An order of the same account must have issued it. No other valid or open order may replace
        it.
        """
        if not replaces:
            return
        made = [
            each
            for each in self.orders.values()
            if each.chain_pem and pki.facts(each.chain_pem).ari_id == replaces
        ]
        if not any(each.account == account for each in made):
            raise Refused(
                "ca_unauthorized",
                "The account did not order the certificate that is to be replaced.",
            )
        if any(
            each.replaces == replaces and each.status != "invalid" for each in self.orders.values()
        ):
            raise Refused("ca_already_replaced", "The certificate was replaced already.")

    def authorization(self, order: FakeOrder, name: str, at: int) -> FakeAuthorization:
        identifier = name.removeprefix("*.")
        wildcard = name.startswith("*.")
        if self.reuses_authorizations:
            for each in self.authorizations():
                same = (each.identifier, each.wildcard, each.account) == (
                    identifier,
                    wildcard,
                    order.account,
                )
                if same and each.status in ("pending", "valid"):
                    return each
        url = f"{order.url}/authz/{at}"
        return FakeAuthorization(
            url, identifier, wildcard, order.account, thumbprint=self.thumbprint
        )

    def status_of(self, order: FakeOrder) -> str:
        """Return the status that the CA shows. With `keeps_pending` it can be wrong."""
        statuses = {each.status for each in order.authorizations}
        stays = self.keeps_pending and not order.failed and "deactivated" not in statuses
        return "pending" if stays and order.status == "invalid" else order.status

    def authorizations(self) -> list[FakeAuthorization]:
        return [each for order in self.orders.values() for each in order.authorizations]

    def open_window(self, order: FakeOrder) -> None:
        """Set a renewal window of two days around the moment when a third of the life is left.

        Let's Encrypt suggests such a window.
        """
        facts = pki.facts(order.chain_pem)
        order.ari_id = facts.ari_id
        start = facts.not_after - (facts.not_after - facts.not_before) / 3 - timedelta(days=1)
        self.windows[facts.ari_id] = (start, start + timedelta(days=2))

    def move_windows(self, by: timedelta) -> None:
        self.windows = {
            ari_id: (start + by, end + by) for ari_id, (start, end) in self.windows.items()
        }

    def find(self, url: str) -> FakeAuthorization:
        return next(
            each for each in self.authorizations() if each.url == url.removesuffix("/chall")
        )

    def validate(self, authorization: FakeAuthorization) -> None:
        """Look at the zone and set the status of an authorization whose challenge was answered."""
        if not authorization.answered or authorization.status != "pending":
            return
        if authorization.reads_left > 0:
            authorization.reads_left -= 1
            return
        if self.offers != "dns-01":
            shown = self.proofs.get(authorization.identifier) == authorization.key_authorization
            authorization.status = "valid" if shown else "invalid"
            return
        name = f"_acme-challenge.{authorization.identifier}"
        kept = authorization.value in self.resolve(name) if self.keeps_txt else True
        authorization.status = (
            "valid" if kept and self.zone.shows(name, authorization.value) else "invalid"
        )

    def resolve(self, name: str) -> frozenset[str]:
        until, values = self.kept_txt.get(name, (clock.now(), frozenset()))
        if until <= clock.now():
            values = frozenset(self.zone.values.get(self.zone.final_name(name), ()))
            self.kept_txt[name] = clock.now() + timedelta(seconds=self.keeps_txt), values
        return values


def _raise(problem: Exception) -> Any:
    raise problem


class FakeClient:
    """One account at the fake CA. Implements `authorities.base.CA`."""

    def __init__(self, ca: FakeCA, account: AcmeAccount | int) -> None:
        self.ca = ca
        self.account = account if isinstance(account, int) else account.pk

    def caa_identities(self) -> tuple[str, ...]:
        return self.ca.caa_identities

    def register(self) -> AccountResource:
        self.ca.call("register", lambda: self.ca.registered.add(self.account))
        return AccountResource(
            url=f"https://{self.ca.name}.test/acct/{self.account}", status="valid"
        )

    def profiles(self) -> dict[str, str]:
        return self.ca.call("profiles", lambda: self.ca.profiles)

    def prepare(self) -> None:
        """Do nothing. This CA needs no directory and no nonce."""

    def new_order(
        self, names: Sequence[str], *, profile: str = "", replaces: str = ""
    ) -> OrderResource:
        self.ca.profiles_ordered.append(profile)
        more = (replaces,) if replaces else ()
        return self.ca.call(
            "new_order",
            lambda: self._shape(self.ca.new_order(self.account, tuple(sorted(names)), *more)),
        )

    def read_order(self, url: str) -> OrderResource:
        return self.ca.call("read_order", lambda: self._read_order(url))

    def _read_order(self, url: str) -> OrderResource:
        order = self.ca.orders[url]
        for each in order.authorizations:
            self.ca.validate(each)
        resource = self._shape(order)
        order.reads_left = max(0, order.reads_left - 1)
        return resource

    def read_authorization(self, url: str) -> AuthorizationResource:
        return self.ca.call("read_authorization", lambda: self._read_authorization(url))

    def _read_authorization(self, url: str) -> AuthorizationResource:
        found = self.ca.find(url)
        self.ca.validate(found)
        problem = (
            Problem("unauthorized", "No TXT record found") if found.status == "invalid" else None
        )
        challenge = ChallengeResource(
            type=self.ca.offers,
            url=f"{found.url}/chall",
            status="processing" if found.answered and found.status == "pending" else found.status,
            token=found.token,
            key_authorization=found.key_authorization,
            problem=problem,
        )
        return AuthorizationResource(
            url=found.url,
            identifier=found.identifier,
            wildcard=found.wildcard,
            status=found.status,
            challenges=(challenge,),
        )

    def answer(self, challenge_url: str) -> str:
        return self.ca.call("answer", lambda: self._answer(challenge_url))

    def _answer(self, challenge_url: str) -> str:
        found = self.ca.find(challenge_url)
        if self.ca.unheard:
            return self.ca.unheard.pop(0)
        if not found.answered:
            found.answered = True
            found.reads_left = self.ca.validation_reads
        return ""

    def finalize(self, order: OrderResource, csr_pem: str) -> OrderResource:
        return self.ca.call("finalize", lambda: self._finalize(order.url, csr_pem))

    def _finalize(self, url: str, csr_pem: str) -> OrderResource:
        order = self.ca.orders[url]
        if order.status != "ready":
            raise Wait(2, "The order is not ready.")
        ends = [self.ca.ends] if self.ca.ends else []
        more = {"more": self.ca.adds_names} if self.ca.adds_names else {}
        order.csr_pem = csr_pem
        order.chain_pem = sign(csr_pem, self.ca.life, *ends, **more)
        self.ca.open_window(order)
        order.reads_left = self.ca.processing_reads
        return self._shape(order)

    def _shape(self, order: FakeOrder) -> OrderResource:
        return shape(order, self.ca.status_of(order))

    def deactivate(self, url: str) -> None:
        self.ca.call("deactivate", lambda: self._deactivate(url))

    def _deactivate(self, url: str) -> None:
        found = self.ca.find(url)
        if found.status not in ("pending", "valid"):
            raise Refused("ca_malformed", f"The authorization is {found.status}.")
        found.status = "deactivated"

    def download(
        self,
        certificate_url: str,
        csr_pem: str = "",
        validity_seconds: int | None = None,
        preferred_chain: str = "",
    ) -> str:
        url = certificate_url.removesuffix("/cert")
        default = self.ca.call("download", lambda: self.ca.orders[url].chain_pem)
        others = (
            self.ca.call("alternate", lambda root=root: under(default, root))
            for root in self.ca.alternates
        )
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
        return RenewalInfoResource(
            *self.ca.windows[ari_id], self.ca.explanation_url, self.ca.retry_after
        )


def shape(order: FakeOrder, status: str) -> OrderResource:
    return OrderResource(
        url=order.url,
        status=status,
        authorizations=tuple(each.url for each in order.authorizations),
        finalize_url=f"{order.url}/finalize",
        certificate_url=f"{order.url}/cert" if status == "valid" else "",
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
    subject, signer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer_name)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
    )
    builder = builder.serial_number(x509.random_serial_number()).add_extension(
        x509.BasicConstraints(True, None), True
    )
    start = clock.now() - timedelta(days=3650)
    builder = builder.not_valid_before(start).not_valid_after(ends or start + timedelta(days=36500))
    return builder.sign(issuer_key, hashes.SHA256())


def under(chain_pem: str, root: str) -> str:
    """Return a chain with the same leaf, whose issuer is signed by a root named `root`."""
    cross_signed = authority("fake CA", issuer()[0], root, ec.generate_private_key(ec.SECP256R1()))
    return (
        pki.split_chain(chain_pem).leaf
        + cross_signed.public_bytes(serialization.Encoding.PEM).decode()
    )


def sign(
    csr_pem: str, life: timedelta, ends: datetime | None = None, more: Sequence[str] = ()
) -> str:
    """Sign a CSR. Return the leaf and the issuer as PEM.

    The issuer ends at `ends`. The leaf ends after `life`, but never later than the issuer. `more`
    are names that the CA adds.
    """
    key, certificate = issuer()
    if ends:
        certificate = authority("fake CA", key, "fake CA", key, ends)
    request = x509.load_pem_x509_csr(csr_pem.encode())
    names = x509.SubjectAlternativeName(
        [x509.DNSName(name) for name in (*pki.names_of(request), *more)]
    )
    now = clock.now().replace(microsecond=0)
    builder = (
        x509.CertificateBuilder().subject_name(request.subject).issuer_name(certificate.subject)
    )
    builder = builder.public_key(request.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(
        min(now + life, certificate.not_valid_after_utc)
    )
    builder = builder.add_extension(names, False)
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(key_id, False)
    leaf = builder.sign(key, hashes.SHA256())
    return "".join(
        each.public_bytes(serialization.Encoding.PEM).decode() for each in (leaf, certificate)
    )


TROUBLE = Trouble("ca_unreachable", "The CA could not be reached.")
REFUSED = Refused("ca_caa", "The CA refused: CAA forbids it.")
