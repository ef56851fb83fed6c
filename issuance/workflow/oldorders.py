"""Orders of attempts that failed: given up at the CA, and recognized where a CA hands them out again."""

import structlog
from django.db.models import QuerySet

from authorities import clients, exchanges
from authorities.base import CA, AuthorizationResource, NotYet
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import LostTurn, Trouble, Wait
from issuance.models import Authorization, Issuance
from issuance.renewal.failover import STUCK

logger = structlog.get_logger()

MOST = 100  # authorizations that one attempt gives up
Status = Authorization.Status


def give_up(issuance: Issuance) -> None:
    """Deactivate the pending authorizations of an attempt whose order came to nothing (RFC 8555, section 7.5.2): some
    CAs hand out such an order again and again. Once the CSR is sent nothing is given up.

    Best effort, outside of any transaction. A worker that dies here leaves its turn behind, and the next one comes by
    here again. Raises LostTurn.
    """
    if not issuance.order_url or issuance.csr_sent_at:
        return
    urls = list(_unused(issuance).values_list("url", flat=True)[:MOST])
    if not urls:
        return
    try:
        with (
            exchanges.about(issuance.account, "give_up", issuance.pk),
            clock.limit(issuance.turn_left()),
        ):
            client = clients.client_for(issuance.account)
            for url in urls:
                issuance.breathe()
                _deactivate(client, url)
    except LostTurn:
        raise
    except (Wait, Trouble) as why:
        logger.info("order.not_given_up", issuance=issuance.pk, why=str(why))
    except Exception:  # the attempt has failed, whatever becomes of its order
        logger.exception("order.not_given_up", issuance=issuance.pk)


def _unused(issuance: Issuance) -> QuerySet[Authorization]:
    """Its pending authorizations that no other open attempt has: CAs may share them between orders."""
    others = Issuance.objects.open().filter(account=issuance.account_id).exclude(pk=issuance.pk)
    shared = Authorization.objects.filter(issuance__in=others).values("url")
    pending = issuance.authorizations.filter(status__in=[Status.UNREAD, Status.PENDING])
    return pending.exclude(url__in=shared).order_by("pk")


def _deactivate(client: CA, url: str) -> None:
    """One that is over already is refused, in as many ways as there are CAs."""
    try:
        client.deactivate(url)
    except (Refused, NotYet):
        return


def earlier(issuance: Issuance) -> QuerySet[Issuance]:
    """The attempts before it that had the same order."""
    same = Issuance.objects.filter(account=issuance.account_id, order_url=issuance.order_url)
    return same.exclude(pk=issuance.pk)


def forget(issuance: Issuance) -> None:
    """Have the attempt order anew. Inside its fence."""
    issuance.records().wake()
    issuance.authorizations.all().delete()
    issuance.write(
        order_url="",
        order_expires_at=None,
        csr_sent_at=None,
        certificate_url="",
        settles_at=None,
        presents=0,
        orders=issuance.orders + 1,
    )


def refuse(issuance: Issuance, seen: AuthorizationResource) -> None:
    """The CA handed out the order of an attempt that is over, and `seen`, one of its authorizations, has failed.

    The first time the order is given up and the attempt orders anew (Wait); when the CA hands it out once more it is
    Refused, and the certificate's fallback account is next. Returns where the order is of no earlier attempt.
    """
    first = earlier(issuance).order_by("pk").first()
    if not first:
        return
    whose = (
        f"attempt {first.number}"
        if first.certificate_id == issuance.certificate_id
        else "an earlier attempt"
    )
    told = f"The CA handed out the order of {whose} again, in which {seen.name} has failed"
    if issuance.orders:
        ends = issuance.order_expires_at
        until = (
            f"until it expires at {ends:%Y-%m-%d %H:%M} UTC"
            if ends
            else "and does not say when it expires"
        )
        what = f"{told}. It gives no other order for these names {until}: wait, or set a fallback account."
        raise Refused(STUCK, what)
    give_up(issuance)
    with issuance.fence():
        forget(issuance)
    raise Wait(issuance.patience(), f"{told}: it is given up, and another one is ordered.")
