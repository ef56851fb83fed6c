"""An invented year of a server, for `make demo`: every view has something to show.

The same seed and moment give the same names, states and times. Keys and serial numbers are random.
Nothing here calls another server, and no worker runs, so that what is open stays open.
"""

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts import audit, savedviews
from accounts.models import User
from accounts.services import create_api_key
from authorities import accounts, pki, privateca
from authorities.models import AcmeAccount, PrivateCA
from certctrl import clock
from certctrl.sentences import sentence as _
from devices.models import Device, DeviceTag
from dnsproviders.models import DnsCredential
from issuance import workflow, wraps
from issuance.models import (
    Certificate,
    CertificateVersion,
    Deployment,
    Issuance,
    IssuanceEvent,
    Label,
    RenewalInfo,
    digest,
    names_key,
)
from keystore import envelope, recipients
from notices.models import Notice

SEED = 20
LIFE = timedelta(days=90)
STEPS = tuple(step.name for step in workflow.STEPS)
STEPS_DONE = {step.state: number for number, step in enumerate(workflow.STEPS)}
HOSTS = (
    *("www", "shop", "mail", "api", "static", "cdn", "login", "docs", "status", "blog", "img"),
    *("git", "ci", "vpn", "chat", "wiki", "files", "pay", "m", "dev", "test", "old", "iot"),
)
DOMAINS = (
    *("example.com", "example.net", "example.org", "shop.example", "bücher.example"),
    *("例子.example", "商店.example", "茶.example", "中文.example"),
)
LABELS = ("prod", "staging", "team a", "支付", "客户")
STEPS_SAID = {
    "order": _(
        "the CA accepted the order; names to prove: %(pending)s of %(count)s", pending=1, count=1
    ),
    "present": _("the TXT record is in the zone"),
    "propagate": _("shown by %(servers)s", servers=_("%(count)s name servers", count=3)),
    "validate": _("the CA validated every name"),
    "finalize": _("the CA signed"),
    "download": _("the certificate is stored"),
}


def refused_by_caa(name: str) -> str:
    what = _("The CA refused the order for %(domain)s.", domain=name)
    said = f"CAA record for {name} prevents issuance."
    return _("%(what)s The CA says: %(said)s", what=what, said=said)


def refused_by_provider(name: str) -> str:
    return _(
        "%(name)s refused the credential%(said)s. Check the credential.", name="Cloudflare", said=""
    )


def limited(name: str) -> str:
    said = f"too many certificates already issued for {name}"
    return _(
        "%(what)s: %(said)s",
        what=_(
            "%(label)s refused %(what)s",
            label="Let's Encrypt",
            what=_("the order for %(name)s", name=name),
        ),
        said=said,
    )


def unanswered(name: str) -> str:
    return _(
        "%(host)s did not answer in time. Check that it is reachable from this server.",
        host="acme.zerossl.com",
    )


CAUSES = (("ca_caa", refused_by_caa), ("dns_credential_refused", refused_by_provider))


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """Let this process believe that it is `moment`. Rows that are made then say so."""
    real = timezone.now
    timezone.now = lambda: moment
    try:
        yield
    finally:
        timezone.now = real


@dataclass
class Sort:
    """A sort of certificates that the year has, and how many."""

    name: str
    count: int


KINDS = (
    *(Sort("active", 190), Sort("soon", 12), Sort("private", 30), Sort("again", 8)),
    *(Sort("you", 12), Sort("open", 12), Sort("new", 4), Sort("off", 10)),
    *(Sort("revoked", 6), Sort("expired", 5), Sort("canary", 8)),
)


@dataclass
class Year:
    """The rows of the year, collected and then stored in bulk."""

    owner: User
    now: datetime
    seed: int = SEED
    attempts: list[tuple[Issuance, datetime]] = field(default_factory=list)
    versions: list[tuple[CertificateVersion, datetime]] = field(default_factory=list)
    events: list[IssuanceEvent] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)  # of attempts, by certificate

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311 - the year is invented, not secret

    def days(self, least: float, most: float) -> timedelta:
        return timedelta(days=self.random.uniform(least, most))

    def tell(self) -> None:
        """Store the year. Everything or nothing is stored."""
        with transaction.atomic():
            with at(self.now - timedelta(days=380)):
                self.set_up()
            self.certificates = list(self.certificate_rows())
            self.store()
            self.give_labels()
            self.assign()
            self.tell_people()

    # --- what certificates need ---

    def set_up(self) -> None:
        self.private_ca: PrivateCA = privateca.create_private_ca(
            self.owner, {"name": "office root", "valid_days": 3650}
        )
        self.signer = pki.load_key(envelope.unseal(self.private_ca.key))
        self.issuer = pki.load_chain(self.private_ca.certificate_pem)[0]
        self.private = accounts.account_of_private_ca(self.private_ca)
        self.accounts = [self.account("le-main", "letsencrypt"), self.account("zerossl", "zerossl")]
        self.credentials = [
            self.credential("cf-main", "cloudflare"),
            self.credential("ns1", "rfc2136"),
            self.credential("阿里云", "aliyun", last_error="InvalidAccessKeyId.NotFound"),
        ]
        for name in ("ci", "monitoring"):
            grants = [{"obtype": "certificates", "obid": "*", "actions": ["read"]}]
            create_api_key(self.owner, name, 600 * 86400, grants)

    def account(self, name: str, ca_provider: str) -> AcmeAccount:
        return AcmeAccount.objects.create(
            owner=self.owner,
            name=name,
            ca_provider=ca_provider,
            email="ops@example.com",
            terms_accepted_at=clock.now(),
            status=AcmeAccount.Status.VALID,
            url=f"https://{ca_provider}.invalid/acct/1",
            key=envelope.seal(self.owner, "acme_account_key", pki.key_der(self.new_key())),
        )

    def credential(self, name: str, provider: str, **fields: Any) -> DnsCredential:
        secret = envelope.seal(self.owner, "dns_credential", b'{"invented": true}')
        return DnsCredential.objects.create(
            owner=self.owner, name=name, provider=provider, secret=secret, **fields
        )

    def new_key(self) -> pki.PrivateKey:
        return pki.new_key("ecdsa", 256)

    # --- certificates, and each of their attempts ---

    def certificate_rows(self) -> Iterator[Certificate]:
        number = 0
        for kind in KINDS:
            for place in range(kind.count):
                number += 1
                yield self.certificate(kind.name, place, number)

    def certificate(self, kind: str, place: int, number: int) -> Certificate:
        names = self.names(kind, number)
        account = self.private if kind == "private" else self.accounts[number % 5 == 0]
        credential = None if kind == "private" else self.credentials[number % 3]
        policy = ("HYBRID", "HYBRID", "MASTER_ONLY")[number % 3]
        begun = self.now - self.days(100, 360)
        with at(begun):
            certificate = Certificate.objects.create(
                owner=self.owner,
                domain=names[0],
                names=names,
                account=account,
                credential=credential,
                key_policy="HYBRID" if kind == "canary" else policy,
                server_decrypt_export=number % 4 == 0,
                auto_renew=kind not in ("off", "revoked"),
                rollout="canary" if kind == "canary" else "all",
                request_digest=digest("invented", number),
            )
        getattr(self, f"be_{kind}", self.be_active)(certificate, place)
        return certificate

    def names(self, kind: str, number: int) -> list[str]:
        host = HOSTS[number % len(HOSTS)]
        if kind == "private":
            return [f"{host}-{number}.office.internal"]
        domain = DOMAINS[number % len(DOMAINS)].encode("idna").decode()
        first = f"{host}-{number}.{domain}"
        others = [f"www.{first}", f"*.{first}", f"api.{first}"]
        return [first, *others[: (0, 0, 1, 2)[number % 4]]]

    def be_active(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now + self.days(31, 89))

    def be_soon(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now + self.days(2, 29))

    def be_expired(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now - self.days(1, 20))
        self.fail(certificate, CAUSES[0], Issuance.Failure.PERMANENT)

    def be_off(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now + self.days(3, 80))
        certificate.renew_at = None

    def be_revoked(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now + self.days(5, 80))
        version = self.versions[-1][0]
        version.revoke_asked_at = version.revoked_at = self.now - self.days(1, 3)
        version.revoke_reason = 4
        certificate.renew_at = None

    def be_new(self, certificate: Certificate, place: int) -> None:
        """Leave it without a version. Its record alone was made."""

    def be_you(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now + self.days(1, 25))
        self.fail(certificate, CAUSES[place % 2], Issuance.Failure.PERMANENT)

    def be_again(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now + self.days(10, 28))
        if place % 2:
            self.fail(certificate, ("ca_rate_limited", limited), Issuance.Failure.LIMITED)
        else:
            self.fail(certificate, ("ca_unreachable", unanswered), Issuance.Failure.TRANSIENT)
        certificate.renew_at = self.now + self.days(0.01, 0.4)

    def be_open(self, certificate: Certificate, place: int) -> None:
        if place % 3:
            self.issued_until(certificate, self.now + self.days(20, 30))
        state = Issuance.OPEN[place % len(Issuance.OPEN)]
        attempt = self.attempt(certificate, self.now - timedelta(minutes=place + 1), state)
        attempt.wake_at = self.now + timedelta(minutes=1)
        if state == Issuance.State.PRESENTED:
            attempt.waits_for = _(
                "1 of %(servers)s does not show %(name)s yet: %(listed)s",
                servers=_("%(count)s name servers", count=3),
                name=f"_acme-challenge.{certificate.domain}",
                listed="ns3.example.net (192.0.2.3)",
            )
        elif state == Issuance.State.QUEUED:
            attempt.slot_at = self.now + timedelta(minutes=20)
            attempt.waits_for = _(
                "%(domain)s is ordered at about %(at)s UTC.",
                domain=certificate.domain,
                at=f"{attempt.slot_at:%Y-%m-%d %H:%M}",
            )
        self.tell_steps(attempt, attempt.state_since, STEPS_DONE[state])
        attempt.state_since += timedelta(seconds=15 * STEPS_DONE[state])
        certificate.renew_at = None

    def be_canary(self, certificate: Certificate, place: int) -> None:
        self.issued_until(certificate, self.now + self.days(85, 89.5))

    def issued_until(self, certificate: Certificate, ends: datetime) -> None:
        """Make a year of versions. The last ends at `ends`, and each begins before its last one."""
        begins = [ends - LIFE]
        while begins[0] - (LIFE - timedelta(days=30)) > certificate.created_at:
            begins.insert(0, begins[0] - (LIFE - self.days(29, 31)))
        for begin in begins:
            attempt = self.attempt(certificate, begin, Issuance.State.ISSUED)
            is_last = begin == begins[-1]
            if begin in begins[-2:]:
                self.tell_steps(attempt, begin, len(STEPS))
            self.version(certificate, attempt, begin, with_key=is_last)
        certificate.expires_at = ends
        certificate.renew_at = ends - timedelta(days=30)
        if certificate.renew_at <= self.now:
            certificate.renew_at = self.now + self.days(0.1, 1)

    def attempt(self, certificate: Certificate, begins: datetime, state: str) -> Issuance:
        self.counts[certificate.pk] += 1
        number = self.counts[certificate.pk]
        took = timedelta(seconds=self.random.randint(20, 150))
        is_open = state in Issuance.OPEN
        attempt = Issuance(
            certificate=certificate,
            account=certificate.account,
            credential=certificate.credential,
            names_key=names_key(certificate.account, certificate.names),
            number=number,
            reason=Issuance.Reason.RENEWAL if number > 1 else Issuance.Reason.NEW,
            state=state,
            state_since=begins,
            deadline_at=begins + timedelta(hours=6),
            ended_at=None if is_open else begins + took,
        )
        self.attempts.append((attempt, begins))
        return attempt

    def version(
        self, certificate: Certificate, attempt: Issuance, begins: datetime, *, with_key: bool
    ) -> None:
        key = self.new_key()
        request = pki.load_csr(pki.csr(key, certificate.names))
        with at(begins):
            leaf = privateca.sign(request, self.issuer, self.signer, int(LIFE.total_seconds()))
            sealed = self.seal(certificate, key) if with_key else None
        chain = leaf + self.private_ca.certificate_pem
        facts = pki.facts(chain)
        issuer = "office root" if certificate.account == self.private else "Invented CA E8"
        version = CertificateVersion(
            certificate=certificate,
            issuance=attempt,
            account=certificate.account,
            serial=facts.serial,
            not_before=facts.not_before,
            not_after=facts.not_after,
            fingerprint=facts.fingerprint,
            issuer=issuer,
            chain_pem=chain,
            key=sealed,
        )
        self.versions.append((version, begins))

    def seal(self, certificate: Certificate, key: pki.PrivateKey) -> Any:
        return envelope.seal(
            self.owner, "certificate_key", pki.key_der(key), policy=certificate.key_policy
        )

    def fail(
        self, certificate: Certificate, cause: tuple[str, Callable[[str], str]], failure: str
    ) -> None:
        begins = self.now - self.days(0.1, 2)
        attempt = self.attempt(certificate, begins, Issuance.State.FAILED)
        attempt.error_code, told = cause
        attempt.error_what = told(certificate.domain)
        attempt.failure = failure
        self.tell_steps(attempt, begins, 0)
        self.events.append(self.event(attempt, begins, "order", "failed", attempt.error_what))
        certificate.failures = self.random.randint(1, 6)
        certificate.failing_since = begins - self.days(0, 2)
        certificate.renew_at = None

    def tell_steps(self, attempt: Issuance, begins: datetime, done: int) -> None:
        for number, step in enumerate(STEPS[:done]):
            moment = begins + timedelta(seconds=3 + 15 * number)
            self.events.append(self.event(attempt, moment, step, "done", STEPS_SAID[step]))

    def event(
        self, attempt: Issuance, moment: datetime, step: str, outcome: str, what: str
    ) -> IssuanceEvent:
        took = self.random.randint(40, 3000)
        return IssuanceEvent(
            issuance=attempt, at=moment, step=step, outcome=outcome, what=what, took_ms=took
        )

    def store(self) -> None:
        store_dated(Issuance, self.attempts)
        store_dated(CertificateVersion, self.versions)
        IssuanceEvent.objects.bulk_create(self.events)
        newest = {version.certificate_id: version for version, _begins in self.versions}
        infos = []
        for certificate in self.certificates:
            certificate.current = newest.get(certificate.pk)
            if certificate.current and certificate.account != self.private and certificate.renew_at:
                around = certificate.renew_at
                infos.append(
                    RenewalInfo(
                        version=certificate.current,
                        fraction=0.5,
                        window_start=around - timedelta(days=2),
                        window_end=around + timedelta(days=2),
                        checked_at=self.now - timedelta(hours=3),
                    )
                )
        RenewalInfo.objects.bulk_create(infos)
        columns = ("current", "expires_at", "renew_at", "failures", "failing_since")
        Certificate.objects.bulk_update(self.certificates, columns, batch_size=100)

    # --- labels, devices, people ---

    def give_labels(self) -> None:
        rows = Label.objects.bulk_create([Label(owner=self.owner, name=name) for name in LABELS])
        given = Certificate.labels.through
        given.objects.bulk_create(
            given(certificate_id=each.pk, label_id=rows[number % len(rows)].pk)
            for number, each in enumerate(self.certificates)
            if number % 3
        )
        savedviews.save(self.owner, "支付", "label=支付")
        savedviews.save(self.owner, "prod, needs a person", "label=prod&chip=you")

    def assign(self) -> None:
        devices = [self.device(number) for number in range(12)]
        rolled_out = [each for each in self.certificates if each.rollout == "canary"]
        served = [each for each in self.certificates if each.current and not each.failures][:40]
        rows = []
        for certificate in (*rolled_out, *served):
            for device in self.random.sample(devices[:11], 3):
                row = Deployment(certificate=certificate, device=device, wanted=certificate.current)
                self.report(row, is_rollout=certificate in rolled_out)
                rows.append(row)
        Deployment.objects.bulk_create(rows, ignore_conflicts=True)
        for certificate in {row.certificate for row in rows}:
            wraps.fit(certificate)

    def device(self, number: int) -> Device:
        place = ("fra", "ams", "北京")[number % 3]
        is_gone = number == 11
        with at(self.now - timedelta(days=200 - number)):
            public_key = recipients.recipient_key(self.owner, self.random.randbytes(32))
            device = Device.objects.create(
                owner=self.owner,
                public_id=str(uuid.UUID(int=self.random.getrandbits(128), version=4)),
                key=public_key,
                name=f"edge-{place}-{number + 1}",
                platform="linux",
                model="amd64",
                app_version="0.1.0",
                enrolled_at=clock.now(),
                last_seen_at=self.now - timedelta(minutes=number, days=3 * (number == 10)),
                status=Device.Status.REVOKED if is_gone else Device.Status.ACTIVE,
                revoked_at=self.now - timedelta(days=9) if is_gone else None,
            )
        DeviceTag.objects.create(device=device, tag=("web", "mail")[number % 2])
        return device

    def report(self, row: Deployment, *, is_rollout: bool) -> None:
        """Write what the device said of its version."""
        assert row.wanted
        row.wanted_serial, row.wanted_at = row.wanted.serial, row.wanted.not_before
        chance = self.random.random()
        if is_rollout and chance < 0.4:
            row.failed_serial, row.failed_at = row.wanted.serial, self.now - timedelta(hours=20)
            row.failure = Deployment.Failure.ROLLED_BACK
            row.failure_what = "nginx -t: cannot load certificate. The files before are back."
        elif not is_rollout or chance < 0.7:
            for part in ("fetched", "installed", "served"):
                setattr(row, f"{part}_serial", row.wanted.serial)
                setattr(row, f"{part}_at", row.wanted_at + timedelta(minutes=5))

    def tell_people(self) -> None:
        failing = [each for each in self.certificates if each.failures]
        renewed = [each for each in self.certificates if each.current and not each.failures]
        told = [(each, "renewal_failed", "%(domain)s could not be renewed") for each in failing]
        told += [(each, "renewed", "%(domain)s was renewed") for each in renewed[:60]]
        rows = []
        for number, (certificate, kind, words) in enumerate(told):
            moment = self.now - timedelta(hours=7 * number + 1)
            subject = _(words, domain=certificate.domain)
            rows.append(
                Notice(
                    owner=self.owner,
                    kind=kind,
                    subject=subject,
                    body=_("%(subject)s. This is invented.", subject=subject),
                    data={"certificate_id": certificate.pk},
                    dedupe_key=f"invented {number}",
                    raised_at=moment,
                    last_raised_at=moment,
                )
            )
        Notice.objects.bulk_create(reversed(rows))
        for number, certificate in enumerate(renewed[:100]):
            with at(self.now - timedelta(days=300 - 3 * number)):
                what = f"certificate:{certificate.pk}"
                audit.record(self.owner, self.owner.email, "certificate.created", what)


def store_dated(kind: Any, rows: Sequence[tuple[Any, datetime]]) -> None:
    """Store the rows, each as if it was made at its moment."""
    made = [row for row, _moment in rows]
    kind.objects.bulk_create(made, batch_size=200)
    for row, moment in rows:
        row.created_at = moment
    kind.objects.bulk_update(made, ["created_at"], batch_size=200)


def fill(owner: User) -> None:
    """Invent the year of this owner, in a database that has nothing else."""
    Year(owner, clock.now()).tell()
