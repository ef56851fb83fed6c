"""Ask the CA for renewal windows, and name what an order replaces (RFC 9773).

Each version has a row that is polled under its own turn. Polling begins when the version is stored.
It ends when another version replaces it.
"""

from datetime import datetime, timedelta

import structlog

from authorities import catalog, clients, errors, exchanges
from authorities.base import CA, RenewalInfoResource
from authorities.errors import Refused
from certctrl import clock, lanes
from certctrl.lanes import Lane
from certctrl.statements import insert
from certctrl.turns import A_DAY, Trouble
from issuance.models import Certificate, CertificateVersion, Issuance, RenewalInfo
from issuance.renewal import schedule

logger = structlog.get_logger()

FIRST_POLL = timedelta(minutes=1)  # after the version was stored
FIRST_POLLS = timedelta(minutes=4)  # the time over which many first polls are spread
A_WEEK = timedelta(days=7)
MOST_STUMBLES = 2  # internal errors of the CA; then `replaces` is left out
# Codes with which a CA refuses an order, with or without `replaces`.
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
    """Schedule the first poll of a new version, one to five minutes from now.

    Call this in the transaction that stores the version.
    """
    if version.ari_id and not version.account.is_private:
        wake_at = clock.now() + FIRST_POLL + FIRST_POLLS * schedule.draw()
        insert(RenewalInfo(version=version, fraction=schedule.draw(), wake_at=wake_at))


def poll(renewal_info_id: int) -> None:
    """Ask the CA for the renewal window, and move the renewal with the window.

    Raise Wait while another worker has the row. Raise Trouble to retry.
    """
    infos = RenewalInfo.objects.select_related("version__account", "version__certificate")
    with infos.turn(renewal_info_id) as info:
        version = info.version
        if _is_over(version):
            return info.give_back(None)
        account = version.account
        lane = lane_of(account.ca_provider, account.directory_url)
        try:
            with (
                lanes.enter(lane, account.owner_id),
                exchanges.about(account, "renewal_info", version.issuance_id),
            ):
                seen = clients.client_for(account).renewal_info(version.ari_id)
        except Trouble as trouble:
            return _store_trouble(info, trouble)
        if seen is None:
            return info.give_back(clock.now() + A_DAY, error_what="")
        _store(info, seen)
    return None


def lane_of(ca_provider: str, directory_url: str) -> Lane | None:
    """Return the lane of polls at a CA. It is not the lane of orders.

    Some CAs have an internal error at each poll, and issue well.
    """
    lane = catalog.lane_of(ca_provider, directory_url)
    return lane and lane._replace(key=f"ari:{lane.key}")


def _is_over(version: CertificateVersion) -> bool:
    """Return whether polling of the version ends.

    A version that was replaced, retired, or has expired is not polled (RFC 9773, section 4.3).
    """
    certificate = version.certificate
    is_current = certificate.current_id == version.pk and not certificate.retired_at
    return not is_current or version.not_after <= clock.now()


def _store_trouble(info: RenewalInfo, trouble: Trouble) -> None:
    """Store the trouble, and schedule the next poll.

    After a refusal the next poll is in about six hours, because the CA would answer the same. Other
    troubles follow the retry table.
    """
    if isinstance(trouble, Refused) or trouble.permanent:
        return info.give_back(
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
        info.give_back(now + schedule.poll_pause(seen.retry_after, schedule.draw()))


def _reschedule(info: RenewalInfo, has_moved: bool) -> None:
    """Move `renew_at` when the window moved.

    Without a moved window `renew_at` stays, because its jitter would change it at each poll. A
    renewal that is due stays due. An open attempt sets `renew_at` at its end. A failed attempt has
    set the time of its retry. The retry is soon if the window moved into the past, because the CA
    may be about to revoke. A cancel by a person has set a time too, which stays.
    """
    certificate = Certificate.objects.select_for_update().get(pk=info.version.certificate_id)
    if has_moved and certificate.lacks_id:  # the order may be in no bucket now
        Certificate.objects.filter(pk=certificate.pk).update(lacks=None)
    is_wanted = certificate.current_id == info.version_id and certificate.renews_itself
    if not is_wanted or Issuance.objects.open_of(certificate):
        return
    if certificate.renew_at and _was_canceled(certificate):
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


def _was_canceled(certificate: Certificate) -> bool:
    """Return whether a person canceled the latest attempt."""
    states = certificate.issuances.order_by("-pk").values_list("state", flat=True)
    return states.first() == Issuance.State.CANCELED


def _has_come(info: RenewalInfo) -> bool:
    moment = _moment_of(info.version)
    return moment is not None and moment <= clock.now()


# --- when ---


def renew_at(version: CertificateVersion, days_before: int | None) -> datetime:
    """Return when the version is renewed, by its window and the owner's `days_before` (days)."""
    return schedule.renew_at(
        version.not_before, version.not_after, days_before, schedule.draw(), _moment_of(version)
    )


def _moment_of(version: CertificateVersion) -> datetime | None:
    """Return the time that was drawn in the version's window, or None if no window is known.

    A CA whose windows are always over when they are read would cause endless renewals. After the
    first such renewal, the window of the new version is not believed.
    """
    info: RenewalInfo | None = getattr(version, "renewal_info", None)
    moment = info.moment if info else None
    return None if moment and _is_over_again(version) else moment


def _is_over_again(version: CertificateVersion) -> bool:
    """Return whether the window is over, as that of the version before was within a week."""
    if not _window_is_over(version):
        return False
    before = (
        CertificateVersion.objects.filter(
            certificate=version.certificate_id,
            pk__lt=version.pk,
            created_at__gt=version.created_at - A_WEEK,
        )
        .select_related("renewal_info")
        .order_by("-pk")
        .first()
    )
    return before is not None and _window_is_over(before)


def _window_is_over(version: CertificateVersion) -> bool:
    info: RenewalInfo | None = getattr(version, "renewal_info", None)
    return bool(info and info.window_end and info.window_end <= clock.now())


# --- replaces ---


def replaces_of(issuance: Issuance, client: CA) -> str:
    """Return the ari_id that the attempt's order replaces (RFC 9773, section 5).

    Return an empty string if there is no earlier version, or another account ordered it. Do the
    same if the CA does not take `replaces`, or has refused it. Raise Trouble when the CA's
    directory cannot be read.
    """
    ari_id = known_id(issuance)
    return ari_id if ari_id and client.offers_renewal_info() else ""


def known_id(issuance: Issuance) -> str:
    """Return the ari_id that `replaces_of` returns if the CA offers renewal windows."""
    version = issuance.certificate.current
    if not version or issuance.proves or issuance.replaces_refused:
        return ""
    return version.ari_id if version.account_id == issuance.account_id else ""


def is_in_window(issuance: Issuance) -> bool:
    """Return whether the CA wants the renewal now.

    Let's Encrypt exempts an order with `replaces` from limits only in the window.
    """
    info: RenewalInfo | None = getattr(issuance.certificate.current, "renewal_info", None)
    if not info or not info.window_start or not info.window_end:
        return False
    return info.window_start <= clock.now() < info.window_end


def is_about_replaces(trouble: Trouble, issuance: Issuance) -> bool:
    """Return whether the CA may accept the order without `replaces`.

    This is true if the CA refused for another reason than the names or the account. Some CAs have
    an internal error for a certificate that they do not know, at each request.
    """
    if isinstance(trouble, Refused):
        return trouble.code not in NOT_ABOUT_REPLACES
    return trouble.code == errors.ERROR and issuance.stumbles >= MOST_STUMBLES
