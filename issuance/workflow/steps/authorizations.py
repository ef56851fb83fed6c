"""What the CA says of an attempt's authorizations (RFC 8555, section 7.1.4)."""

from datetime import timedelta

from authorities.base import CA, AuthorizationResource, NotYet
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import Trouble, Wait
from issuance import ratelimits
from issuance.models import Authorization, Issuance


def refused(seen: AuthorizationResource) -> Refused:
    """The authorization cannot be used: with the CA's own words where it gives any."""
    if seen.problem:
        return seen.problem.refused(f"The CA did not validate {seen.name}.")
    kind, status = (
        ("authorization", seen.status)
        if seen.status != "pending"
        else ("challenge", seen.challenge_status)
    )
    what = f"The CA's {kind} for {seen.name} is {status}; it gives no reason."
    return Refused("ca_authorization_unusable", what)


AUTHORIZATIONS_A_TURN = 5
HEARD_WITHIN = timedelta(minutes=1)


def look_at_answered(
    issuance: Issuance, client: CA, most: int | None = AUTHORIZATIONS_A_TURN
) -> str:
    """Some CAs leave the order pending when an authorization failed: read a few of them each turn, or all with None.
    Raises Refused about the first that failed, and has counted those that it read. Return what the CA says of one that
    it still looks at, empty when it says nothing. Those that it does not show tell nothing: the order decides."""
    answered = issuance.authorizations.filter(
        status=Authorization.Status.PENDING, answered_at__isnull=False
    )
    failed: list[AuthorizationResource] = []
    said = ""
    for authorization in answered.order_by("seen_at")[:most]:
        try:
            issuance.breathe()
            seen = client.read_authorization(authorization.url)
        except NotYet as not_yet:
            said = said or not_yet.what
            continue
        except (Wait, Trouble):
            if failed:  # what is known is told now: nothing remembers it until another turn
                break
            raise
        if seen.gave_up:
            if seen.status != "deactivated":  # we did, before we died
                ratelimits.count_failed_validation(issuance, seen.identifier)
            failed.append(seen)
            continue
        status = (
            Authorization.Status.VALID if seen.status == "valid" else Authorization.Status.PENDING
        )
        fields = {"answered_at": None} if _has_not_heard(authorization, seen) else {}
        with issuance.fence():
            Authorization.objects.filter(pk=authorization.pk).update(
                seen_at=clock.now(), status=status, **fields
            )
        if seen.problem and seen.status == "pending":
            said = f"The CA has not found the TXT record for {seen.name} yet, and looks again. It says: {seen.problem}"
    if failed:
        raise refused(next((each for each in failed if each.problem), failed[0]))
    return said


def _has_not_heard(authorization: Authorization, seen: AuthorizationResource) -> bool:
    """The challenge still waits for its answer (RFC 8555, section 7.1.6). Some CAs say so while they look, too: for
    them an answer more changes nothing."""
    given_at = authorization.answered_at or clock.now()
    return (seen.status, seen.challenge_status) == (
        "pending",
        "pending",
    ) and clock.now() - given_at >= HEARD_WITHIN
