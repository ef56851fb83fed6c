"""Raise the notices to owners about their certificates.

Each function raises a notice once, in the transaction of its caller.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import QuerySet

from accounts.models import User
from authorities.errors import OF_A_LIMIT
from authorities.models import PrivateCA
from certctrl import clock
from certctrl.sentences import first_of, joined
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from devices.models import Device
from dnsproviders.models import DnsCredential, TxtRecord
from issuance.challenges import delegation
from issuance.models import Certificate, CertificateVersion, Deployment, Issuance, Probe
from issuance.renewal import lifetime, schedule
from notices.models import Notice
from notices.moments import for_people, for_programs
from notices.raising import raise_once

Kind = Notice.Kind

TOLD_FAILURES = (1, 3, 7)  # in a row; then every 14th
EVERY = 14
BATCH = 500
WARN_DAYS = (14, 7, 3, 1)
WARN_CA_DAYS = (90, 30, 14, 7)
MOST_DEVICES = 20  # that one notice names
NAMED = 5  # certificates that one notice names
LEFT_BEHIND_AFTER = timedelta(days=1)
NO_CREDENTIAL = ("no_dns_credential", "preflight_no_credential")
CREDENTIAL_REFUSED = ("dns_credential_refused", "preflight_credential_refused")


# --- renewals ---


def renewed(certificate: Certificate, version: CertificateVersion) -> None:
    """Raise a notice that a renewal stored a version.

    `certificate` is the row before the change. Its first version is not a renewal.
    """
    if not certificate.current_id:
        return
    domain = certificate.domain
    subject = _("%(domain)s was renewed", domain=domain)
    nothing_else = _("Machines that fetch it need nothing. Install it where that is done by hand.")
    if short := lifetime.why_short(version.chain_pem):
        private = version.account.is_private
        nothing_else = _(
            "%(short)s The next renewal cannot last longer. %(remedy)s",
            short=short,
            remedy=lifetime.remedy(private),
        )
    if certificate.current and lifetime.gains_no_time(certificate.current, version.chain_pem):
        subject = _("%(domain)s was renewed, but not for longer", domain=domain)
        nothing_else = _(
            "It ends no later than the one before. %(nothing_else)s", nothing_else=nothing_else
        )
    body = _(
        "The certificate for %(domain)s was renewed; the new one is valid until "
        "%(not_after)s.\n\n%(nothing_else)s",
        domain=domain,
        not_after=for_people(version.not_after),
        nothing_else=nothing_else,
    )
    data = {
        "domain": domain,
        "certificate_id": certificate.pk,
        "issuance_id": version.issuance_id,
        "serial": version.serial,
        "expires_at": for_programs(version.not_after),
    }
    raise_once(certificate.owner, Kind.RENEWED, f"renewed:{version.pk}", subject, body, data)


def failed(issuance: Issuance, trouble: Trouble, *, counts: bool) -> None:
    """Raise a notice for an attempt that failed, if the owner must know.

    Call this after the time of the next attempt is set. `counts` says that the failure is one of
    `Certificate.failures`. Otherwise it is a wait for a limit that has room at a known time.

    Failed renewals raise notices at growing intervals. A renewal also raises one the first time
    that only a person can fix the reason. The same is true when it cannot wait for a limit. A first
    issuance raises one only when nothing more is tried.
    """
    is_operators = trouble.permanent and isinstance(trouble, delegation.OperatorsTrouble)
    if issuance.credential and (trouble.code in CREDENTIAL_REFUSED or is_operators):
        credential_refused(issuance.credential, getattr(trouble, "said", trouble.what))
    certificate = Certificate.objects.select_related("owner", "account").get(
        pk=issuance.certificate_id
    )
    if trouble.code in NO_CREDENTIAL and delegation.is_delegated(certificate):
        nobody_writes_the_service_zone()
    waits = (
        trouble.code in OF_A_LIMIT and not certificate.failing_since
    )  # for its slot, and there is time for it
    if certificate.retired_at or waits:
        return
    if certificate.current_id:
        _renewal_failed(certificate, issuance, trouble, counts=counts)
    elif not certificate.renew_at:
        _never_issued(certificate, issuance, trouble)


def is_told(failures: int) -> bool:
    """Return whether the nth failure in a row raises a notice: 1, 3, 7, 14, 28, 42 and so on."""
    return failures in TOLD_FAILURES or (failures > 0 and failures % EVERY == 0)


def _renewal_failed(
    certificate: Certificate, issuance: Issuance, trouble: Trouble, *, counts: bool
) -> None:
    once = trouble.permanent or not counts
    keys = (
        [f"renewal_failed:{certificate.pk}:{certificate.current_id}:{trouble.code}"] if once else []
    )
    if counts and is_told(certificate.failures):
        keys.append(f"renewal_failed:{issuance.pk}")
    domain = certificate.domain
    times = certificate.failures
    body = _(
        "The certificate for %(domain)s could not be renewed. %(what)s\n\n%(count)s "
        "%(validity)s %(next_try)s",
        domain=domain,
        what=trouble.what,
        count=_count(times),
        validity=_validity(certificate),
        next_try=_next_try(certificate),
    )
    if trouble.permanent:
        body = _("%(body)s It will fail again until this is fixed.", body=body)
    data = _facts(certificate, issuance_id=issuance.pk, failures=times, **_why(trouble))
    for key in keys:
        if raise_once(
            certificate.owner,
            Kind.RENEWAL_FAILED,
            key,
            _("%(domain)s could not be renewed", domain=domain),
            body,
            data,
        ):
            return


def _never_issued(certificate: Certificate, issuance: Issuance, trouble: Trouble) -> None:
    domain = certificate.domain
    body = _(
        "There is no certificate for %(domain)s, and it is not retried automatically. "
        "%(what)s\n\nFix this, then start another attempt (renew).",
        domain=domain,
        what=trouble.what,
    )
    data = _facts(
        certificate, issuance_id=issuance.pk, failures=certificate.failures, **_why(trouble)
    )
    key = f"action_needed:{issuance.pk}"
    raise_once(
        certificate.owner,
        Kind.ACTION_NEEDED,
        key,
        _("%(domain)s has no certificate and needs a person", domain=domain),
        body,
        data,
    )


def _count(times: int) -> str:
    return (
        _("It failed for the first time.")
        if times <= 1
        else _("It failed %(times)s times in a row.", times=times)
    )


def _validity(certificate: Certificate) -> str:
    if not certificate.expires_at:
        return ""
    if certificate.expires_at <= clock.now():
        return _(
            "The current one has been out of date since %(expires_at)s.",
            expires_at=for_people(certificate.expires_at),
        )
    return _(
        "The current one is valid until %(expires_at)s.",
        expires_at=for_people(certificate.expires_at),
    )


def _next_try(certificate: Certificate) -> str:
    if Issuance.objects.open_of(certificate):
        return _("An attempt is under way.")
    if not certificate.renew_at or not certificate.auto_renew:
        if certificate.auto_renew:
            return _("No attempt is planned. Start one (renew).")
        return _("Automatic renewal is off. Start one (renew).")
    if certificate.renew_at <= clock.now():
        return _("The next attempt is due.")
    return _("The next attempt is at %(renew_at)s.", renew_at=for_people(certificate.renew_at))


# --- versions that are not served ---


def must_be_served_at(version: CertificateVersion) -> datetime:
    """Return when a version must be served by all addresses that are probed."""
    stored_at = version.issuance.ended_at or version.created_at
    return stored_at + timedelta(seconds=settings.SERVE_WITHIN)


def not_served_at(probe: Probe, now: datetime) -> None:
    """Raise a notice that a probed address does not serve the current version in time.

    It is raised once for each version.
    """
    certificate = probe.certificate
    version = certificate.current
    if not version or now < must_be_served_at(version):
        return
    domain = certificate.domain
    served = probe.error_what
    if not served and probe.not_after:
        served = _(
            "It serves the certificate %(serial)s, which is valid until %(not_after)s.",
            serial=probe.serial,
            not_after=for_people(probe.not_after),
        )
    body = _(
        "The current certificate for %(domain)s has the serial number %(serial)s. "
        "%(probe)s does not serve it. %(what)s\n\nInstall the current certificate "
        "there, and reload the service. If the address is no longer used, delete its "
        "probe.",
        domain=domain,
        serial=version.serial,
        probe=probe,
        what=served,
    )
    data = _facts(
        certificate, serial=version.serial, address=str(probe), sni=probe.sni, what=served
    )
    key = f"not_served:probe:{probe.pk}:{version.pk}"
    subject = _(
        "%(probe)s does not serve the current certificate for %(domain)s",
        probe=probe,
        domain=domain,
    )
    raise_once(certificate.owner, Kind.NOT_SERVED, key, subject, body, data)


def not_served_by(certificate: Certificate, deployments: Sequence[Deployment]) -> None:
    """Raise a notice that these devices had the current version for long and do not serve it.

    Those that reported a failure of it have a notice of their own.
    """
    version = certificate.current
    assert version, "the devices want it"
    late = [row for row in deployments if row.failed_serial != version.serial]
    if not late:
        return
    domain = certificate.domain
    devices = [
        {"device_id": row.device_id, "device": str(row.device), "what": _lag(row, version)}
        for row in late
    ]
    named: list[str] = [
        _("- %(device)s: %(what)s", device=each["device"], what=each["what"])
        for each in devices[:MOST_DEVICES]
    ]
    more = len(devices) - MOST_DEVICES
    if more > 0:
        named.append(_("- and %(more)s more devices", more=more))
    body = _(
        "The current certificate for %(domain)s has the serial number %(serial)s. These "
        "devices did not report in time that they serve it.\n\n%(listed)s\n\n"
        "%(held)sLook at the agent there. Its log has the details.",
        domain=domain,
        serial=version.serial,
        listed=joined("\n", named),
        held=_held(certificate),
    )
    data = _facts(certificate, serial=version.serial, devices=devices[:BATCH])
    count = str(late[0].device) if len(late) == 1 else _("%(n)s devices", n=len(late))
    subject = _(
        "The new certificate for %(domain)s is not served by %(count)s", domain=domain, count=count
    )
    key = f"not_served:{version.pk}:{late[0].pk}"
    raise_once(certificate.owner, Kind.NOT_SERVED, key, subject, body, data)


def _lag(row: Deployment, version: CertificateVersion) -> str:
    """Return how far the device has come with the version."""
    if row.installed_serial == version.serial and row.installed_at:
        return _(
            "it installed it at %(installed_at)s, and has not served it since.",
            installed_at=for_people(row.installed_at),
        )
    if row.fetched_serial == version.serial and row.fetched_at:
        return _(
            "it fetched it at %(fetched_at)s, and reported nothing since.",
            fetched_at=for_people(row.fetched_at),
        )
    return _(
        "it has not fetched it. It was last seen at %(last_seen_at)s.",
        last_seen_at=for_people(row.device.last_seen_at),
    )


def deployment_failed(certificate: Certificate, deployment: Deployment) -> None:
    """Raise a notice that a device could not install or serve the current version.

    It is raised once for each version and device.
    """
    version = certificate.current
    assert version, "the report is about it"
    domain, device = certificate.domain, deployment.device
    done = _("rolled back to the files before")
    if deployment.failure != Deployment.Failure.ROLLED_BACK:
        done = _("could not install or serve it")
    what = deployment.failure_what or _("The agent gave no reason.")
    body = _(
        "The device %(device)s got the certificate %(serial)s for %(domain)s, and "
        "%(done)s. %(what)s\n\n%(held)sFix this on the device. Its agent then tries "
        "again.",
        device=device,
        serial=version.serial,
        domain=domain,
        done=done,
        what=what,
        held=_held(certificate),
    )
    reported = {"device_id": device.pk, "device": str(device), "state": deployment.failure}
    data = _facts(certificate, serial=version.serial, what=what, **reported)
    subject = _(
        "The new certificate for %(domain)s failed on %(device)s", domain=domain, device=device
    )
    key = f"not_served:failed:{version.pk}:{deployment.pk}"
    raise_once(certificate.owner, Kind.NOT_SERVED, key, subject, body, data)


def _held(certificate: Certificate) -> str:
    """Return a sentence about the devices that keep the version before, or ""."""
    behind = certificate.deployments.exclude(wanted=certificate.current_id)
    count = behind.filter(device__status=Device.Status.ACTIVE).count()
    serial = certificate.current.serial if certificate.current else ""
    is_proved = certificate.deployments.filter(served_serial=serial).exists()
    if certificate.rollout != Certificate.Rollout.CANARY or not count or is_proved:
        return ""
    return _(
        "The rollout has stopped: %(count)s other devices keep the version before for "
        "now. Set rollout to all if they should get it anyway. ",
        count=count,
    )


# --- expiry ---


def near_expiry(now: datetime) -> Iterator[Certificate]:
    """Yield the certificates to check in `expiring`, soonest expiry first.

    Certificates that ended while this server was down are included. They are read in batches,
    with the index for them.
    """
    span = timedelta(days=max(WARN_DAYS))
    last = now + span
    soon = Certificate.objects.filter(retired_at=None, expires_at__lte=last).order_by(
        "expires_at", "pk"
    )
    soon = soon.select_related("owner", "current")
    after = now - span
    pk = 0
    while batch := list(
        soon.filter(expires_at__gte=after).exclude(expires_at=after, pk__lte=pk)[:BATCH]
    ):
        yield from batch
        pk = batch[-1].pk
        after = batch[-1].expires_at or last


def warned_days(left: timedelta, life: timedelta, *, renews: bool) -> int | None:
    """Return the warning (14, 7, 3 or 1 days) that a certificate has reached, or None.

    `left` is the time left of `life`. Only warnings after the normal renewal count. The normal
    renewal is at a third of the life left, or half when the life is under ten days. So a six-day
    certificate has the warning at 1 day, and one of 45 days has all four. Without automatic
    renewal, warnings in the second half of the life count.
    """
    renewal_at = life / 2 if life < schedule.SHORT_LIFE or not renews else life / 3
    reached = [days for days in WARN_DAYS if left <= timedelta(days=days) < renewal_at]
    return min(reached, default=None)


def expiring(certificate: Certificate, now: datetime) -> None:
    """Raise a notice that the current version ends soon and has no successor.

    It is raised once for each warning that the version reaches.
    """
    version = certificate.current
    if not version or version.revoked_at:
        return
    life = version.not_after - version.not_before
    days = warned_days(version.not_after - now, life, renews=certificate.auto_renew)
    if days is None:
        return
    domain = certificate.domain
    what = _last_failure(certificate)
    last = _("The last attempt failed. %(what)s ", what=what) if what else ""
    not_after = for_people(version.not_after)
    body = _(
        "The certificate for %(domain)s is valid until %(not_after)s, and there is no new one "
        "yet.\n\n%(last)s%(next_try)s",
        domain=domain,
        not_after=not_after,
        last=last,
        next_try=_next_try(certificate),
    )
    facts = _facts(
        certificate,
        issuance_id=version.issuance_id,
        days=days,
        expires_at=for_programs(version.not_after),
    )
    facts |= {"what": what} if what else {}
    subject = _(
        "%(domain)s expires in %(span)s", domain=domain, span=_span(version.not_after - now)
    )
    if version.not_after <= now:
        subject = _("%(domain)s has expired", domain=domain)
        body = _(
            "The certificate for %(domain)s was valid until %(not_after)s, and there is no new "
            "one yet.\n\n%(last)s%(next_try)s",
            **body.parts,
        )
    raise_once(
        certificate.owner, Kind.EXPIRING, f"expiring:{version.pk}:{days}", subject, body, facts
    )


def _span(left: timedelta) -> str:
    hours = round(left / timedelta(hours=1))
    if hours < 36:
        return _("an hour") if hours <= 1 else _("%(n)s hours", n=hours)
    return _("%(n)s days", n=round(left / timedelta(days=1)))


def _last_failure(certificate: Certificate) -> str:
    ended = certificate.issuances.filter(
        pk__gt=certificate.current.issuance_id if certificate.current else 0
    )
    last = ended.filter(state=Issuance.State.FAILED).order_by("-pk").first()
    return last.error_what if last else ""


# --- private CAs that end ---


def near_end(now: datetime) -> QuerySet[PrivateCA]:
    """Return the private CAs to check in `ca_expiring`.

    CAs that ended while this server was down are included.
    """
    span = timedelta(days=max(WARN_CA_DAYS))
    ending = PrivateCA.objects.filter(
        status=PrivateCA.Status.ACTIVE, not_after__range=(now - span, now + span)
    )
    return ending.select_related("owner").order_by("not_after", "pk")


def ca_expiring(private_ca: PrivateCA, now: datetime) -> None:
    """Raise a notice that the private CA ends soon, once for each warning.

    A CA with a short life gets its first warning at once.
    """
    left = private_ca.not_after - now
    days = min(days for days in WARN_CA_DAYS if left <= timedelta(days=days))
    name = private_ca.name
    ends = for_people(private_ca.not_after)
    signed = Certificate.objects.filter(retired_at=None, account__private_ca=private_ca)
    count = signed.count()
    domains = signed.order_by("expires_at", "pk").values_list("domain", flat=True)[:NAMED]
    used = _("No certificate in use has an account of it.")
    if count:
        used = _(
            "Certificates in use with an account of it: %(count)s (%(domains)s).",
            count=count,
            domains=first_of(list(domains), NAMED, count),
        )
    ending = {"name": name, "ends": ends}
    valid = _("The certificate of the private CA %(name)s is valid until %(ends)s.", **ending)
    if left <= timedelta(0):
        valid = _("The certificate of the private CA %(name)s was valid until %(ends)s.", **ending)
    body = _(
        "%(valid)s Its certificates end then at the latest. After that it signs nothing."
        "\n\n%(used)s\n\nMake a new private CA in time, and install its certificate where "
        "this one is trusted. Then give the certificates an account of the new CA "
        "(acme_account_id). They are issued again at once.",
        valid=valid,
        used=used,
    )
    data = {
        "ca_id": private_ca.pk,
        "name": name,
        "days": days,
        "expires_at": for_programs(private_ca.not_after),
        "certificates": count,
    }
    subject = _("The private CA %(name)s expires in %(span)s", name=name, span=_span(left))
    if left <= timedelta(0):
        subject = _("The private CA %(name)s has expired", name=name)
    raise_once(
        private_ca.owner,
        Kind.CA_EXPIRING,
        f"ca_expiring:{private_ca.pk}:{days}",
        subject,
        body,
        data,
    )


# --- DNS ---


def credential_refused(credential: DnsCredential, what: str) -> None:
    """Raise a notice that the DNS provider refused the credential.

    It is raised once a day (UTC) for each credential.
    """
    body = _(
        "The DNS provider %(provider)s refused the credential %(name)s. %(what)s\n\n"
        "Until this is fixed, no certificate with this credential is issued or renewed. "
        "Records of the last attempts may stay in their zones. Give the credential a "
        "valid secret, then check it.",
        provider=credential.provider,
        name=credential.name,
        what=what,
    )
    data = {
        "dns_provider_id": credential.pk,
        "provider": credential.provider,
        "name": credential.name,
        "what": what,
    }
    key = f"credential_refused:{credential.pk}:{clock.now().astimezone(UTC):%Y-%m-%d}"
    subject = _("The DNS credential %(name)s was refused", name=credential.name)
    raise_once(credential.owner, Kind.CREDENTIAL_REFUSED, key, subject, body, data)


def nobody_writes_the_service_zone() -> None:
    """Raise a notice to each member of staff, once a day (UTC).

    Certificates that rely on the service zone fail, and only staff can fix this.
    """
    zone = settings.SERVICE_ZONE
    wanted = settings.SERVICE_DNS_CREDENTIAL
    body = _(
        "SERVICE_DNS_CREDENTIAL is %(wanted)s, and no member of this server's staff has "
        "a DNS credential %(wanted)s.\n\nUntil this is fixed, no certificate that relies "
        "on %(zone)s is issued or renewed. Set it to the id of a credential that can "
        "write the zone.",
        wanted=wanted,
        zone=zone,
    )
    data = {"zone": zone, "dns_provider_id": wanted}
    key = f"service_zone:{clock.now().astimezone(UTC):%Y-%m-%d}"
    for operator in User.objects.filter(is_staff=True, is_active=True):
        raise_once(
            operator,
            Kind.ACTION_NEEDED,
            key,
            _("The service zone %(zone)s cannot be written", zone=zone),
            body,
            data,
        )


def cleanup_failed(record_id: int, trouble: Trouble) -> None:
    """Raise a notice at once if the credential is why a record was not removed."""
    if trouble.code in CREDENTIAL_REFUSED:
        record = TxtRecord.objects.select_related("credential__owner").get(pk=record_id)
        credential_refused(record.credential, trouble.what)


def in_the_zone_too_long(now: datetime) -> QuerySet[TxtRecord]:
    """Return the records that could not be removed and are at least a day old."""
    stuck = TxtRecord.objects.in_the_zone().filter(
        wake_at__isnull=False, intent_at__lte=now - LEFT_BEHIND_AFTER
    )
    return stuck.exclude(left_behind="")


def left_behind(record_id: int) -> None:
    """Raise a notice that a record is not needed and cannot be removed."""
    record = TxtRecord.objects.select_related("credential__owner").get(pk=record_id)
    credential = record.credential
    assert record.intent_at, "it was meant to be written"
    body = _(
        "The TXT record %(name)s with the value %(value)s is no longer needed, and could "
        "not be removed through the DNS credential %(credential_name)s. "
        "%(what)s\n\nIt is retried once a day. You may remove the record by hand. "
        "It does no harm.",
        name=record.name,
        value=record.value,
        credential_name=credential.name,
        what=record.left_behind,
    )
    data = {
        "dns_provider_id": credential.pk,
        "record": record.name,
        "value": record.value,
        "since": for_programs(record.intent_at),
        "what": record.left_behind,
    }
    key = f"left_behind:{record.pk}:{for_programs(record.intent_at)}"
    subject = _("The TXT record %(name)s was left behind", name=record.name)
    raise_once(credential.owner, Kind.RECORD_LEFT_BEHIND, key, subject, body, data)


# --- words ---


def _facts(certificate: Certificate, **more: Any) -> dict[str, Any]:
    expires = {"expires_at": for_programs(certificate.expires_at)} if certificate.expires_at else {}
    next_try = {"next_try_at": for_programs(certificate.renew_at)} if certificate.renew_at else {}
    return (
        {"domain": certificate.domain, "certificate_id": certificate.pk} | expires | next_try | more
    )


def _why(trouble: Trouble) -> dict[str, Any]:
    return {"code": trouble.code, "what": trouble.what, "permanent": trouble.permanent}
