"""Read an attempt's authorizations at the CA (RFC 8555, section 7.1.4)."""

from collections.abc import Sequence
from datetime import timedelta

from django.db.models import QuerySet

from authorities.base import CA, AuthorizationResource, NotYet
from authorities.errors import Refused
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select
from certctrl.turns import Trouble, Wait
from issuance import ratelimits
from issuance.models import Authorization, Issuance

Status = Authorization.Status


def refused(seen: AuthorizationResource) -> Refused:
    """Return the error for an authorization that cannot be used, with the CA's words if any."""
    if seen.problem:
        return seen.problem.refused(_("The CA did not validate %(name)s.", name=seen.name))
    kind, status = (
        ("authorization", seen.status)
        if seen.status != "pending"
        else ("challenge", seen.challenge_status)
    )
    what = _(
        "The CA's %(kind)s for %(name)s is %(status)s. The CA gives no reason.",
        kind=kind,
        name=seen.name,
        status=status,
    )
    return Refused("ca_authorization_unusable", what)


READ = ("issuance", "identifier", "challenge", "record", "agent_challenge")


def _pending() -> QuerySet[Authorization]:
    pending = Authorization.objects.filter(status=Status.PENDING)
    return pending.only(*READ).order_by("pk")


def _pending_of_walk(issuance: Issuance) -> list[Authorization]:
    if issuance.listed is None:
        return _pending_of_one(issuance=issuance.pk)
    return [each for each in issuance.listed if each.status == Status.PENDING]


@select
def _pending_of_one(issuance: Parameter) -> QuerySet[Authorization]:
    return _pending().filter(issuance=issuance)


def pending_of(issuances: Sequence[Issuance]) -> dict[str, dict[int, list[Authorization]]]:
    """Return the pending authorizations, by type of challenge and by the id of the attempt.

    This takes one query, or none for an attempt whose walk knows them. The `issuance` of each is
    the given object.
    """
    by_id = {each.pk: each for each in issuances}
    found: dict[str, dict[int, list[Authorization]]] = {}
    pending = (
        _pending_of_walk(issuances[0])
        if len(issuances) == 1
        else _pending().filter(issuance__pk__among=list(by_id))
    )
    for each in pending:
        each.issuance = by_id[each.issuance_id]
        found.setdefault(each.challenge, {}).setdefault(each.issuance_id, []).append(each)
    return found


AUTHORIZATIONS_A_TURN = 5
HEARD_WITHIN = timedelta(minutes=1)


def read_answered(issuance: Issuance, client: CA, most: int | None = AUTHORIZATIONS_A_TURN) -> str:
    """Read authorizations whose challenges were answered, at most `most` of them; None reads all.

    Some CAs leave the order pending after an authorization has failed. Each failure is counted in
    the rate limits. Then raise Refused for the first one with a problem, else for the first one.

    Return what the CA says about an authorization that it still checks, or an empty string. An
    authorization that the CA does not show is skipped, because the order decides. Raise LostTurn,
    and the CA's Wait and Trouble.
    """
    answered = issuance.authorizations.filter(
        status__in=(Status.PENDING, Status.INVALID), answered_at__isnull=False
    )
    failed: list[AuthorizationResource] = []
    said = ""
    for authorization in answered.order_by("seen_at")[:most]:
        try:
            issuance.breathe()
            seen = client.read_authorization(authorization.url).choosing(authorization.challenge)
        except NotYet as not_yet:
            said = said or not_yet.what
            continue
        except (Wait, Trouble):
            if failed:  # raise the known failure now, because no column keeps it for another turn
                break
            raise
        if seen.gave_up:
            _count(issuance, authorization, seen)
            failed.append(seen)
            continue
        status = Status.VALID if seen.status == "valid" else Status.PENDING
        fields = {"answered_at": None} if _has_not_heard(authorization, seen) else {}
        with issuance.fence():
            Authorization.objects.filter(pk=authorization.pk).update(
                seen_at=clock.now(), status=status, **fields
            )
        if seen.problem and seen.status == "pending":
            said = _(
                "The CA has not validated %(name)s yet, and checks again. It says: %(said)s",
                name=seen.name,
                said=seen.problem,
            )
    if failed:
        raise refused(next((each for each in failed if each.problem), failed[0]))
    return said


def _count(issuance: Issuance, authorization: Authorization, seen: AuthorizationResource) -> None:
    """Store that an authorization has failed, and count it once in the rate limits.

    It is not counted when this attempt gave the authorization up itself.
    """
    with issuance.fence():
        rows = Authorization.objects.filter(pk=authorization.pk).exclude(status=Status.INVALID)
        if rows.update(seen_at=clock.now(), status=Status.INVALID) and seen.status != "deactivated":
            ratelimits.count_failed_validation(issuance, seen.identifier)


def _has_not_heard(authorization: Authorization, seen: AuthorizationResource) -> bool:
    """Return whether the CA seems to have missed the answer to the challenge.

    The challenge is still `pending` a minute after the answer (RFC 8555, section 7.1.6). Some CAs
    also show `pending` while they check. For them a second answer changes nothing.
    """
    given_at = authorization.answered_at or clock.now()
    return (seen.status, seen.challenge_status) == (
        "pending",
        "pending",
    ) and clock.now() - given_at >= HEARD_WITHIN
