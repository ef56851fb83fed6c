"""Replace everything that an issuer, or an account, issued.

A drill is for the day on which a CA must be left, and for practice. It opens no attempts. It sets
`renew_at` to now for some hundreds of certificates at a time. The scan opens their renewals. The
CA's rate limits and the retry table set the pace, as for all renewals.

The certificates that are left are counted again each time. So a run that is killed loses nothing,
and two runs at once do nothing twice.
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
from certctrl.sentences import sentence as _
from issuance.models import Certificate, Drill, Issuance

logger = structlog.get_logger()

BATCH = 500  # certificates that a drill brings forward in one run
# Certificates of a drill that may be due or have an open attempt. More would only wait, and an
# attempt ends when its wait is too long.
MOST_UNDER_WAY = 1000
MOST_NAMED = 20
RUNNING = Q(ended_at=None, stopped_at=None)
PUBLIC = {"current__account__private_ca": None}  # not signed by a private CA


# --- started by people ---


def start(
    by: User,
    issuer: str = "",
    account: AcmeAccount | None = None,
    why: str = "",
    actor: str = "",
    ip: str | None = None,
) -> Drill:
    """Start a drill for the certificates in use of this issuer, or of this account.

    `issuer` is a common name. Raise Invalid when both or neither are given, or when `why` is longer
    than 255 characters. Raise NotFound when no certificate in use is theirs. Raise Conflict while
    a drill for the same issuer or account runs.
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
    """Stop bringing certificates forward. Renewals that are open go on.

    Raise Conflict when the drill has ended.
    """
    with transaction.atomic():
        if Drill.objects.filter(RUNNING, pk=drill.pk).update(stopped_at=clock.now()):
            _note(drill, by, "stopped", actor, ip)
    return _unless_over(drill)


def resume(drill: Drill, by: User, actor: str = "", ip: str | None = None) -> Drill:
    """Resume a drill that was stopped.

    Raise Conflict when it has ended, or when another drill for the same issuer or account runs.
    """
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
            _("A drill is about an issuer or about an account. Give one of the two."),
            field="issuer",
        )
    if len(why) > 255:
        raise Invalid(_("why must have at most 255 characters."), field="why")
    if in_use(issuer, account).exists():
        return
    if account:
        raise NotFound(
            _("The account %(account)s has no certificate in use. Check the id.", account=account),
            field="acme_account_id",
        )
    there_are = ", ".join(issuers()) or _("none")
    raise NotFound(
        _(
            "No certificate in use has the issuer %(issuer)s; there are %(there_are)s.",
            issuer=repr(issuer[:100]),
            there_are=there_are,
        ),
        field="issuer",
    )


def _runs_already(issuer: str, account: AcmeAccount | None) -> Conflict:
    other = Drill.objects.filter(RUNNING, issuer=issuer, account=account).first()
    which = _("Drill %(pk)s", pk=other.pk) if other else _("A drill")
    return Conflict(
        _(
            "%(which)s for %(account)s is already running. Wait for it, or stop it.",
            which=which,
            account=account or issuer,
        )
    )


def _unless_over(drill: Drill) -> Drill:
    drill.refresh_from_db()
    if drill.ended_at:
        raise Conflict(_("Drill %(pk)s is over. Start another one.", pk=drill.pk))
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


# --- counted ---


def in_use(issuer: str, account: AcmeAccount | None) -> QuerySet[Certificate]:
    """Return the certificates in use whose current version the issuer signed.

    With `account`, return those whose current version the account ordered. Deleted certificates
    are not in use. An issuer is never a private CA, because its owner chose the name. A drill for a
    private CA names its account.
    """
    theirs = {"current__account": account} if account else {"current__issuer": issuer} | PUBLIC
    return Certificate.objects.filter(retired_at=None, **theirs)


def issuers() -> list[str]:
    """Return the issuers of the certificates in use, by name, at most MOST_NAMED of them."""
    used = Certificate.objects.filter(retired_at=None, current__isnull=False, **PUBLIC).exclude(
        current__issuer=""
    )
    names = used.order_by("current__issuer").values_list("current__issuer", flat=True).distinct()
    return list(names[:MOST_NAMED])


def made_before(drill: Drill) -> QuerySet[Certificate]:
    """Return the drill's certificates that are not replaced yet.

    Their current version is older than the drill. They may have an open attempt.
    """
    return in_use(drill.issuer, drill.account).filter(current__created_at__lt=drill.created_at)


def skipped(drill: Drill) -> QuerySet[Certificate]:
    """Return the certificates that the drill leaves alone, because renewal is switched off.

    A person must notify their owners.
    """
    return made_before(drill).filter(auto_renew=False).order_by("pk")


def count(drill: Drill) -> dict[str, int]:
    """Return the drill's numbers of certificates by name.

    `total` is the number when the drill began. `left` goes down to 0. `skipped` have renewal
    switched off. `failing` are those of `left` that failed since they were last issued.
    """
    return {"total": drill.total} | _counted(made_before(drill))


def preview(issuer: str = "", account: AcmeAccount | None = None) -> dict[str, int]:
    """Return what `count` would return for a drill that begins now.

    Raise Invalid and NotFound as `start` does.
    """
    _refuse(issuer, account, "")
    found = in_use(issuer, account)
    return {"total": found.count()} | _counted(found)


def _counted(certificates: QuerySet[Certificate]) -> dict[str, int]:
    return certificates.aggregate(
        left=Count("pk", filter=Q(auto_renew=True)),
        skipped=Count("pk", filter=Q(auto_renew=False)),
        failing=Count("pk", filter=Q(auto_renew=True, failures__gt=0)),
    )


# --- started by the clock ---


def advance(now: datetime) -> None:
    """Bring the next certificates of every running drill forward. End drills with none left."""
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
    """Set `renew_at` to now for up to `most` certificates, soonest expiry first.

    Return how many. A certificate that waits for its retry, for a rate limit, or after a cancel
    keeps its `renew_at`.
    """
    ended = Issuance.objects.filter(
        certificate=OuterRef("pk"),
        state__in=[Issuance.State.CANCELED, Issuance.State.FAILED],
        ended_at__gte=drill.created_at,
    )
    idle = Q(renew_at=None) | Q(renew_at__gt=now, failures=0)
    next_ones = left.filter(idle).exclude(_is_open()).exclude(Q(renew_at__gt=now) & Exists(ended))
    chosen = dict(next_ones.order_by("expires_at", "pk").values_list("pk", "current")[:most])
    # The conditions are checked again in the UPDATE. Since it was read, a certificate may have been
    # replaced or deleted, or it may have failed.
    still = Certificate.objects.filter(idle, auto_renew=True, retired_at=None)
    return still.filter(pk__in=chosen, current__in=chosen.values()).update(renew_at=now)
