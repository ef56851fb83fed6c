"""Orders of attempts that failed.

They are given up at the CA. An order that a CA hands out again is recognized.
"""

from typing import Any

import structlog
from django.db.models import QuerySet

from authorities import catalog, clients, exchanges
from authorities.base import CA, AuthorizationResource, NotYet
from authorities.errors import Refused
from certctrl import clock, lanes
from certctrl.sentences import sentence as _
from certctrl.turns import LostTurn, Trouble, Wait
from issuance.challenges import registry
from issuance.models import Authorization, Issuance
from issuance.renewal import failover

logger = structlog.get_logger()

MOST = 100  # authorizations that one attempt gives up
Status = Authorization.Status


def give_up(issuance: Issuance) -> None:
    """Deactivate the pending authorizations of an attempt that failed (RFC 8555, section 7.5.2).

    Some CAs hand out the same order again and again otherwise. Do nothing once the CSR is sent.

    Call it outside of any transaction. Errors of the CA are only logged, and so is a full lane. A
    worker that dies here leaves its turn behind, and the next worker does this again. Raise
    LostTurn.
    """
    if not issuance.order_url or issuance.csr_sent_at:
        return
    urls = list(_unused(issuance).values_list("url", flat=True)[:MOST])
    if not urls:
        return
    account = issuance.account
    try:
        with (
            lanes.enter(catalog.lane_of_account(account), account.owner_id),
            exchanges.about(account, "give_up", issuance.pk),
            clock.limit(issuance.turn_left()),
        ):
            client = clients.client_for(account)
            for url in urls:
                issuance.breathe()
                _deactivate(client, url)
    except LostTurn:
        raise
    except (Wait, Trouble) as why:
        logger.info("order.not_given_up", issuance=issuance.pk, why=str(why))
    except Exception:  # the attempt fails, even when its order cannot be given up
        logger.exception("order.not_given_up", issuance=issuance.pk)


def _unused(issuance: Issuance) -> QuerySet[Authorization]:
    """Return its authorizations that are not valid and that no other open attempt shares.

    CAs may share an authorization between orders.
    """
    others = Issuance.objects.open().filter(account=issuance.account_id).exclude(pk=issuance.pk)
    shared = Authorization.objects.filter(issuance__in=others).values("url")
    # One that failed here may still be pending at the CA.
    unused = issuance.authorizations.exclude(status=Status.VALID)
    return unused.exclude(url__in=shared).order_by("pk")


def _deactivate(client: CA, url: str) -> None:
    """Deactivate one authorization. Ignore a refusal.

    CAs refuse an authorization that is already over, each with another error.
    """
    try:
        client.deactivate(url)
    except (Refused, NotYet):
        return


def earlier(issuance: Issuance) -> QuerySet[Issuance]:
    """Return the other attempts that have the same order."""
    same = Issuance.objects.filter(account=issuance.account_id, order_url=issuance.order_url)
    return same.exclude(pk=issuance.pk)


def without_order(issuance: Issuance) -> dict[str, Any]:
    """Return the columns of an attempt that orders again. Write them in a fence with `forget`."""
    return {
        "order_url": "",
        "order_expires_at": None,
        "finalize_url": "",
        "csr_sent_at": None,
        "certificate_url": "",
        "settles_at": None,
        "presents": 0,
        "orders": issuance.orders + 1,
    }


def forget(issuance: Issuance) -> None:
    """Forget the authorizations of the order. Call it inside the fence."""
    registry.release(issuance)
    issuance.authorizations.all().delete()


def refuse(issuance: Issuance, seen: AuthorizationResource) -> None:
    """Reject an order of an earlier attempt that the CA handed out again.

    `seen` is an authorization of the order that has failed. The first time, give the order up,
    forget it and raise Wait; the attempt then orders again. The second time, raise Refused; the
    certificate's fallback account is next. Return when no earlier attempt had the order.
    """
    first = earlier(issuance).order_by("pk").first()
    if not first:
        return
    whose = (
        _("attempt %(number)s", number=first.number)
        if first.certificate_id == issuance.certificate_id
        else _("an earlier attempt")
    )
    told = _(
        "The CA returned the order of %(whose)s again, in which %(name)s has failed.",
        whose=whose,
        name=seen.name,
    )
    if issuance.orders:
        ends = issuance.order_expires_at
        until = (
            _("until it expires at %(ends)s UTC", ends=f"{ends:%Y-%m-%d %H:%M}")
            if ends
            else _("until it expires, at a time that the CA does not say")
        )
        what = _(
            "%(told)s It gives no other order for these names %(until)s. Wait, or set a "
            "fallback account.",
            told=told,
            until=until,
        )
        raise Refused(failover.STUCK, what)
    give_up(issuance)
    with issuance.fence(**without_order(issuance)):
        forget(issuance)
    raise Wait(
        issuance.patience(), _("%(told)s That order is given up, and a new one is sent.", told=told)
    )
