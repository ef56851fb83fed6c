"""The CA says when it wants a certificate renewed, and is told what an order replaces (RFC 9773).

Each version has a row that is polled under its own turn, from the moment it is stored until another replaces it.
"""

from collections import Counter
from datetime import datetime, timedelta

import structlog
from django.db.models import QuerySet

from authorities import clients, errors, exchanges
from authorities.base import RenewalInfoResource
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import A_DAY, MOST_LOOKED_AT, Trouble
from issuance.models import Certificate, CertificateVersion, Issuance, RenewalInfo
from issuance.renewal import schedule

logger = structlog.get_logger()

FIRST_POLL = timedelta(minutes=1)  # after the version was stored
FIRST_POLLS = timedelta(minutes=4)  # over which those of a crowd are spread
MOST_A_DAY = 3  # versions of a certificate, before one waits a day whatever its window says
CA = ("version__account__ca_provider", "version__account__directory_url")
AT_ONCE = 25  # of one CA
AT_ONCE_IN_TROUBLE = 2  # a CA that drips holds a worker for as long as a call may take
MOST_STUMBLES = 2  # over errors of the CA's own, with `replaces`; then it is left out
# What a CA refuses in an order whatever it says that it replaces.
NOT_ABOUT_REPLACES = frozenset(
    (
        errors.DEACTIVATED,
        "ca_rejected_identifier",
        "ca_unsupported_identifier",
        "ca_caa",
        "ca_dns",
        "ca_dnssec",
    )
)


# --- polling ---


def begin(version: CertificateVersion) -> None:
    """Have a new version polled, a few minutes from now; inside the transaction that stores it."""
    if version.ari_id and not version.account.is_private:
        wake_at = clock.now() + FIRST_POLL + FIRST_POLLS * schedule.draw()
        RenewalInfo.objects.create(version=version, fraction=schedule.draw(), wake_at=wake_at)


def poll(renewal_info_id: int) -> None:
    """Ask the CA for the window, and move the renewal with it. Raises Wait while another has it in hand, Trouble to
    retry."""
    infos = RenewalInfo.objects.select_related("version__account", "version__certificate")
    with infos.turn(renewal_info_id) as info:
        version = info.version
        if _is_over(version):
            return info.release(None)
        try:
            with exchanges.about(version.account, "renewal_info", version.issuance_id):
                seen = clients.client_for(version.account).renewal_info(version.ari_id)
        except Trouble as trouble:
            return _store_trouble(info, trouble)
        if seen is None:
            return info.release(clock.now() + A_DAY, error_what="")
        _store(info, seen)
    return None


def next_ones(due: QuerySet[RenewalInfo]) -> list[int]:
    """Which of these are polled now: those that waited longest first, a few of each CA at a time, and only two of one
    that gives trouble."""
    on_their_way = RenewalInfo.objects.on_their_way()
    busy, in_trouble = (
        Counter(on_their_way.values_list(*CA)),
        _in_trouble(on_their_way) | _in_trouble(due),
    )

    def is_full(of: tuple[str, str]) -> bool:
        return busy[of] >= (AT_ONCE_IN_TROUBLE if of in in_trouble else AT_ONCE)

    for of in filter(is_full, tuple(busy)):
        due = due.exclude(**dict(zip(CA, of, strict=True)))
    chosen = []
    for pk, provider, directory in due.order_by("wake_at").values_list("pk", *CA)[:MOST_LOOKED_AT]:
        if not is_full((provider, directory)):
            busy[provider, directory] += 1
            chosen.append(pk)
    return chosen


def _in_trouble(infos: QuerySet[RenewalInfo]) -> set[tuple[str, str]]:
    """The CAs whose last answer was none, for some of these."""
    return set(infos.filter(stumbles__gt=0).values_list(*CA).distinct())


def _is_over(version: CertificateVersion) -> bool:
    """Nobody asks for what was replaced, retired, or has expired (RFC 9773, section 4.3)."""
    certificate = version.certificate
    is_current = certificate.current_id == version.pk and not certificate.retired_at
    return not is_current or version.not_after <= clock.now()


def _store_trouble(info: RenewalInfo, trouble: Trouble) -> None:
    """What the CA would say again is asked again as late as any window; the rest follows the retry table."""
    if isinstance(trouble, Refused) or trouble.permanent:
        return info.release(
            clock.now() + schedule.poll_pause(None, schedule.draw()), error_what=trouble.what
        )
    info.write(error_what=trouble.what)
    raise trouble


def _store(info: RenewalInfo, seen: RenewalInfoResource) -> None:
    now = clock.now()
    has_moved = (info.window_start, info.window_end) != (seen.window_start, seen.window_end)
    with info.fence():
        info.write(
            window_start=seen.window_start,
            window_end=seen.window_end,
            explanation_url=seen.explanation_url,
            checked_at=now,
            error_what="",
        )
        _reschedule(info, has_moved)
        info.release(now + schedule.poll_pause(seen.retry_after, schedule.draw()))


def _reschedule(info: RenewalInfo, has_moved: bool) -> None:
    """Move `renew_at` with the window, and only with it, or its jitter would have it wander. What is due stays so; an
    open attempt sets it at its end, and a failed one has set when it is tried again: soon, where the window moved into
    the past, for the CA may be about to revoke."""
    certificate = Certificate.objects.select_for_update().get(pk=info.version.certificate_id)
    is_wanted = (
        certificate.current_id == info.version_id
        and certificate.auto_renew
        and not certificate.retired_at
    )
    if not is_wanted or Issuance.objects.open_of(certificate):
        return
    if certificate.failures:
        soon = clock.now() + schedule.LEAST_RETRY
        if has_moved and certificate.renew_at and certificate.renew_at > soon and _has_come(info):
            Certificate.objects.filter(pk=certificate.pk).update(
                renew_at=soon, updated_at=clock.now()
            )
        return
    if certificate.renew_at is None or (has_moved and certificate.renew_at > clock.now()):
        at = renew_at(info.version, certificate.renew_days_before)
        Certificate.objects.filter(pk=certificate.pk).update(renew_at=at, updated_at=clock.now())
        logger.info("renewal.moved", certificate=certificate.pk, to=at.isoformat())


def _has_come(info: RenewalInfo) -> bool:
    moment = _moment_of(info.version)
    return moment is not None and moment <= clock.now()


# --- when ---


def renew_at(version: CertificateVersion, days_before: int | None) -> datetime:
    """When the version is renewed, by what its CA and its owner say."""
    return schedule.renew_at(
        version.not_before, version.not_after, days_before, schedule.draw(), _moment_of(version)
    )


def _moment_of(version: CertificateVersion) -> datetime | None:
    """The moment that was drawn in the version's window; None while none is known. A CA whose windows always lie in the
    past would have us renew for ever: after a few versions in a day it is tomorrow."""
    info: RenewalInfo | None = getattr(version, "renewal_info", None)
    moment, now = (info.moment if info else None), clock.now()
    if moment and moment <= now and _versions_of_a_day(version, now) >= MOST_A_DAY:
        return now + A_DAY
    return moment


def _versions_of_a_day(version: CertificateVersion, now: datetime) -> int:
    issued = Issuance.objects.filter(
        certificate=version.certificate_id, state=Issuance.State.ISSUED, proves=False
    )
    return issued.filter(ended_at__gt=now - A_DAY).count()


# --- what an order replaces ---


def replaces_of(issuance: Issuance) -> str:
    """The ari_id that the attempt's order says it replaces (RFC 9773, section 5); empty when it says nothing of the
    kind: there is no version before it, another account has it, its CA does not take it or has refused it. Trouble when
    the CA's directory cannot be read."""
    current_id = issuance.certificate.current_id
    if not current_id or issuance.proves or issuance.replaces_refused:
        return ""
    ordered_alike = CertificateVersion.objects.filter(pk=current_id, account=issuance.account_id)
    ari_id = ordered_alike.values_list("ari_id", flat=True).first()
    if not ari_id or not clients.client_for(issuance.account).offers_renewal_info():
        return ""
    return ari_id


def is_in_window(issuance: Issuance) -> bool:
    """Whether the CA wants the renewal now. Only then is an order with `replaces` exempt from limits at Let's Encrypt,
    which looks at the window again when the order arrives."""
    current_id = issuance.certificate.current_id
    info = RenewalInfo.objects.filter(version=current_id).first() if current_id else None
    if not info or not info.window_start or not info.window_end:
        return False
    return info.window_start <= clock.now() < info.window_end


def is_about_replaces(trouble: Trouble, issuance: Issuance) -> bool:
    """Whether the order may be accepted without `replaces`: the CA refused it, other than for its names or the account.
    Some CAs meet an error of their own over a certificate that they do not know, as often as they are asked."""
    if isinstance(trouble, Refused):
        return trouble.code not in NOT_ABOUT_REPLACES
    return trouble.code == errors.ERROR and issuance.stumbles >= MOST_STUMBLES
