"""Replace everything that an issuer, or an account, issued: for the day on which a CA must be left, and for trying it.

A drill opens nothing itself. It brings `renew_at` forward, some hundreds of certificates at a time; the scan opens
their renewals, and the CA's limits and the retry table pace them as ever. What is left is asked of the certificates
each time, so that nothing is lost when it is killed, and nothing is done twice when it is doubled.
"""

from datetime import datetime

import structlog
from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from accounts import audit
from accounts.models import User
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.errors import Conflict, Invalid, NotFound
from issuance.models import Certificate, Drill, Issuance

logger = structlog.get_logger()

BATCH = 500  # certificates that a drill brings forward in one go
MOST_UNDER_WAY = 1000  # of a drill: more would only wait, and end when the wait is too long
MOST_NAMED = 20
RUNNING = Q(ended_at=None, stopped_at=None)


# --- what people start ---


def start(
    by: User,
    issuer: str = "",
    account: AcmeAccount | None = None,
    why: str = "",
    actor: str = "",
    ip: str | None = None,
) -> Drill:
    """Begin to replace what this issuer (a common name), or this account, issued and what is still in use.

    Raises Invalid for both or neither, NotFound where nothing in use is theirs, Conflict while such a drill runs.
    """
    _refuse(issuer, account, why)
    try:
        with transaction.atomic():
            drill = Drill.objects.create(by=by, issuer=issuer, account=account, why=why)
            drill.total = made_before(drill).count()
            drill.save(update_fields=["total"])
            _note(drill, by, "started", actor, ip)
    except IntegrityError:
        raise _runs_already(issuer, account) from None
    return drill


def stop(drill: Drill, by: User, actor: str = "", ip: str | None = None) -> Drill:
    """Bring no more certificates forward; renewals that are open go on. Conflict when the drill is over."""
    with transaction.atomic():
        if Drill.objects.filter(RUNNING, pk=drill.pk).update(stopped_at=clock.now()):
            _note(drill, by, "stopped", actor, ip)
    return _unless_over(drill)


def resume(drill: Drill, by: User, actor: str = "", ip: str | None = None) -> Drill:
    """Go on with a drill that was stopped. Conflict when it is over, or when another of its kind runs meanwhile."""
    try:
        with transaction.atomic():
            if (
                Drill.objects.filter(pk=drill.pk, ended_at=None)
                .exclude(stopped_at=None)
                .update(stopped_at=None)
            ):
                _note(drill, by, "resumed", actor, ip)
    except IntegrityError:
        raise _runs_already(drill.issuer, drill.account) from None
    return _unless_over(drill)


def _refuse(issuer: str, account: AcmeAccount | None, why: str) -> None:
    if bool(issuer) == bool(account):
        raise Invalid(
            "A drill is about an issuer or about an account: give one of the two.", field="issuer"
        )
    if len(why) > 255:
        raise Invalid("why has at most 255 characters.", field="why")
    if in_use(issuer, account).exists():
        return
    if account:
        raise NotFound(
            f"The account {account} issued no certificate that is in use.", field="acme_account_id"
        )
    there_are = ", ".join(issuers()) or "none"
    raise NotFound(
        f"No certificate in use has the issuer {issuer[:100]!r}; there are {there_are}.",
        field="issuer",
    )


def _runs_already(issuer: str, account: AcmeAccount | None) -> Conflict:
    other = Drill.objects.filter(RUNNING, issuer=issuer, account=account).first()
    which = f"Drill {other.pk}" if other else "A drill"
    return Conflict(f"{which} for {account or issuer} runs already.")


def _unless_over(drill: Drill) -> Drill:
    drill.refresh_from_db()
    if drill.ended_at:
        raise Conflict(f"Drill {drill.pk} is over: start another one.")
    return drill


def _note(drill: Drill, by: User, done: str, actor: str, ip: str | None) -> None:
    facts = {
        "issuer": drill.issuer,
        "account": drill.account_id,
        "why": drill.why,
        "total": drill.total,
    }
    audit.record(by, actor or by.email, f"drill.{done}", f"drill:{drill.pk}", ip, **facts)
    logger.info(f"drill.{done}", drill=drill.pk, total=drill.total)


# --- what is left ---


def in_use(issuer: str, account: AcmeAccount | None) -> QuerySet[Certificate]:
    """Certificates that nobody deleted and whose current version the issuer signed, or the account ordered."""
    theirs = {"current__account": account} if account else {"current__issuer": issuer}
    return Certificate.objects.filter(retired_at=None, **theirs)


def issuers() -> list[str]:
    """The issuers of what is in use, the first twenty."""
    used = Certificate.objects.filter(retired_at=None, current__isnull=False).exclude(
        current__issuer=""
    )
    names = used.order_by("current__issuer").values_list("current__issuer", flat=True).distinct()
    return list(names[:MOST_NAMED])


def made_before(drill: Drill) -> QuerySet[Certificate]:
    """Those that it is about and whose version is older than it is: not replaced yet, an open attempt or not."""
    return in_use(drill.issuer, drill.account).filter(current__created_at__lt=drill.created_at)


def skipped(drill: Drill) -> QuerySet[Certificate]:
    """Those that it leaves alone, since their owners switched renewal off: the owners must be told."""
    return made_before(drill).filter(auto_renew=False).order_by("pk")


def count(drill: Drill) -> dict[str, int]:
    """total (when it began), left (burns down to 0), skipped (renewal is switched off), failing (of those left)."""
    return {"total": drill.total} | _counted(made_before(drill))


def preview(issuer: str = "", account: AcmeAccount | None = None) -> dict[str, int]:
    """What `count` would say of a drill that begins now. Raises as `start` does."""
    _refuse(issuer, account, "")
    found = in_use(issuer, account)
    return {"total": found.count()} | _counted(found)


def _counted(certificates: QuerySet[Certificate]) -> dict[str, int]:
    return certificates.aggregate(
        left=Count("pk", filter=Q(auto_renew=True)),
        skipped=Count("pk", filter=Q(auto_renew=False)),
        failing=Count("pk", filter=Q(auto_renew=True, failures__gt=0)),
    )


# --- what the clock starts ---


def advance(now: datetime) -> None:
    """Bring the next certificates of every running drill forward, and end those with nothing left."""
    for drill in Drill.objects.filter(RUNNING).select_related("account"):
        try:
            _advance(drill, now)
        except Exception:  # one drill must not keep the others from going on
            logger.exception("drill.failed", drill=drill.pk)


def _advance(drill: Drill, now: datetime) -> None:
    left = made_before(drill).filter(auto_renew=True)
    found = left.aggregate(
        left=Count("pk"), under_way=Count("pk", filter=Q(renew_at__lte=now) | Q(_is_open()))
    )
    if not found["left"]:
        Drill.objects.filter(RUNNING, pk=drill.pk).update(ended_at=now)
        logger.info("drill.ended", drill=drill.pk)
        return
    room = min(BATCH, MOST_UNDER_WAY - found["under_way"])
    if room > 0:
        brought = _bring_forward(drill, left, now, room)
        logger.info("drill.advanced", drill=drill.pk, brought=brought, **found)


def _is_open() -> Exists:
    return Exists(Issuance.objects.open().filter(certificate=OuterRef("pk")))


def _bring_forward(drill: Drill, left: QuerySet[Certificate], now: datetime, most: int) -> int:
    """Set `renew_at` of the next ones, soonest expiry first; those that are tried again later by the retry table, when
    a limit lets them, or because a person canceled, stay where they are."""
    ended = Issuance.objects.filter(
        certificate=OuterRef("pk"),
        state__in=[Issuance.State.CANCELED, Issuance.State.FAILED],
        ended_at__gte=drill.created_at,
    )
    idle = Q(renew_at=None) | Q(renew_at__gt=now, failures=0)
    next_ones = left.filter(idle).exclude(_is_open()).exclude(Q(renew_at__gt=now) & Exists(ended))
    chosen = dict(next_ones.order_by("expires_at", "pk").values_list("pk", "current")[:most])
    # Asked again of the row itself: since it was read, it may have been replaced, deleted, or have failed.
    still = Certificate.objects.filter(idle, auto_renew=True, retired_at=None)
    return still.filter(pk__in=chosen, current__in=chosen.values()).update(renew_at=now)
