"""A row of every table, with known secrets."""

import base64
import html

from accounts import audit, savedviews
from accounts.models import ApiKey, Session, User
from authorities.models import AcmeAccount, Exchange, PrivateCA
from authorities.privateca import create_private_ca
from devices import agentchallenges, codes, installplans, registration, signals
from devices import services as device_services
from devices.models import DeviceCode, DeviceSession
from dnsproviders.models import ApiBucket, DisabledProvider
from issuance import services
from issuance.models import (
    Certificate,
    Drill,
    Issuance,
    LimitBucket,
    Probe,
    RenewalInfo,
    Reservation,
    ReservedToken,
)
from keystore import envelope
from keystore.models import Envelope, KeyWrap, RecipientKey
from notices import raising, webhooks
from notices.models import NoticeSettings
from signin import secondfactor
from signin.models import ExternalIdentity, MailedCode, RecoveryCode
from tests import factories
from tests.devices.agent import Agent
from tests.fakes.world import World


def waiting(world: World, owner: User) -> Certificate:
    """Make a certificate whose attempt waits for its records."""
    world.zone.hides = True
    certificate, _ = world.create(world.account(owner), world.credential(owner))
    world.deliver()
    return certificate


def fill(world: World, rows: Certificate) -> list[str]:
    """Make a row of every table beside `waiting`. Return the texts that no page may show."""
    owner = rows.owner
    world.zone.hides = False
    spec = world.spec(rows.account, rows.credential, "own.example.com")
    services.create_certificate(
        owner, spec, issue=True, idempotency=services.Idempotency("an example", "0" * 64)
    )
    world.deliver()
    create_private_ca(owner, {"name": "example CA"})
    AcmeAccount.objects.update(
        eab_kid="kid", eab=envelope.seal(owner, "eab_key", b"shared with the CA")
    )
    RecipientKey.objects.create(owner=owner, public_key=b"P" * 32, fingerprint=b"F" * 32)
    ledger_and_log(world, owner)
    deployments(rows, owner)
    services.set_labels(rows, ["prod"])
    savedviews.save(owner, "soon", "chip=soon")
    told = [*notices(owner), *devices(owner), *signing_in(world, owner)]
    token = factories.api_key(owner, "certificates:*[read]")
    audit.record(owner, "somebody", "example.done", "an example")
    secret = [
        *ApiKey.objects.values_list("digest", flat=True),
        token,
        owner.password.rpartition("$")[2],
        "PRIVATE KEY",
    ]
    sealed = [
        *Envelope.objects.values_list("ciphertext", flat=True),
        *KeyWrap.objects.values_list("wrapped_dek", flat=True),
    ]
    return [*secret, *told, *(text for each in sealed for text in spellings(bytes(each)))]


def deployments(certificate: Certificate, owner: User) -> None:
    """Make a row of each table that says what is on a device."""
    device = factories.device(owner, "web")
    services.assign(certificate, device)
    services.assign_to_tag(certificate, "web")
    services.trust(device, PrivateCA.objects.get())


def ledger_and_log(world: World, owner: User) -> None:
    """Make a row of each table that the engine keeps beside the attempts."""
    issuance = Issuance.objects.filter(state="issued").get()
    RenewalInfo.objects.get_or_create(version=issuance.version, defaults={"fraction": 0.5})
    bucket = LimitBucket.objects.create(
        ca="https://ca.test", kind="domain", subject="x", level=1, at=world.time
    )
    reservation, _ = Reservation.objects.get_or_create(
        issuance=issuance, defaults={"owner": owner, "asked_at": world.time}
    )
    ReservedToken.objects.create(reservation=reservation, bucket=bucket)
    Exchange.objects.create(
        account=issuance.account, at=world.time, method="POST", url="https://ca.test/new"
    )
    Probe.objects.create(certificate=issuance.certificate, address="www.example.com", port=443)
    Drill.objects.create(by=owner, issuer="example CA")
    ApiBucket.objects.create(key="cloudflare 1", full_at=world.time)
    DisabledProvider.objects.create(
        provider="rfc2136", disabled_at=world.time, by=owner, why="an example"
    )


def notices(owner: User) -> list[str]:
    """Make rows of notices and their delivery. Return their secrets."""
    NoticeSettings.objects.create(owner=owner)
    _, secret = webhooks.create_webhook(
        owner, {"url": "https://hooks.example.com/a-token-in-the-path?key=sesame"}
    )
    raising.raise_test(owner)
    return [secret, "a-token-in-the-path", "sesame"]


def devices(owner: User) -> list[str]:
    """Make rows of a device, its codes, its session and its enrolment key. Return their secrets."""
    started = codes.start(interval=5, expires_in=900, origin="https://certctrl.test")
    codes.decide(owner, started["user_code"], approve=True, ip=None)
    code = codes.poll(started["device_code"])["registration_code"]
    _, token = device_services.create_enrolment_key(owner, "fleet", "edge", 3, 3600, None)
    agent = Agent()
    spec = {"device_public_id": agent.public_id, "dev_pk": bytes(agent.key.public_key)}
    enrolled = registration.with_code(spec, owner.pk, code, "device", None)
    device_services.change_device(enrolled.device, {"name": "edge 1", "tags": ["edge"]})
    installplans.replace(enrolled.device, {"installs": []}, "somebody")
    signals.emit([enrolled.device.pk], "cert.updated", {"cert_id": 7})
    agentchallenges.note(enrolled.device, "tlsalpn01", {"certificate": {"key_pem": token}})
    row = DeviceSession.objects.get()
    return [
        started["device_code"],
        code,
        token,
        *DeviceCode.objects.values_list("digest", "registration_digest").get(),
        enrolled.session["access_token"],
        enrolled.session["refresh_token"],
        row.digest,
        *spellings(bytes(row.seal)),
    ]


def signing_in(world: World, owner: User) -> list[str]:
    """Make a row of each table that signs people in. Return their secrets.

    The second factor is not confirmed. So its page shows its secret, to its owner alone.
    """
    factor = secondfactor.start(owner)
    code = RecoveryCode.objects.create(factor=factor, digest="c0de" * 16)
    ExternalIdentity.objects.create(user=owner, issuer="https://id.test", subject="alice")
    mailed = MailedCode.objects.create(
        purpose="register", email="new@example.org", password="a$hash", ends_at=world.time
    )
    session = Session.objects.create(
        session_key="5e55" * 10, user=owner, expire_date=world.time, seen_at=world.time
    )
    return [code.digest, mailed.password, str(session.session_key)]


def spellings(secret: bytes) -> list[str]:
    return [secret.hex(), base64.b64encode(secret).decode(), html.escape(repr(secret))]
