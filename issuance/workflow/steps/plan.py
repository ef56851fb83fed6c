"""The plan of an order: what the order step asks before it acts."""

from dataclasses import dataclass

from authorities import clients
from authorities.base import CA
from issuance import ratelimits
from issuance.models import Issuance
from issuance.ratelimits import Charges
from issuance.renewal import ari


@dataclass(frozen=True)
class OrderPlan:
    """The members of an order, and its charges.

    `replaces` is the ari_id of the old certificate, or empty (RFC 9773, section 5). `profile` is
    empty for the CA's default profile.
    """

    client: CA
    replaces: str
    profile: str
    charges: Charges


def plan_order(issuance: Issuance) -> OrderPlan:
    """Ask once what the order needs. Nothing is asked again in this turn.

    Call this again after the attempt has left out `replaces`, because that changes the charges.
    Raise Trouble when the CA's directory cannot be read.
    """
    client = clients.client_for(issuance.account)
    replaces = ari.replaces_of(issuance, client)
    # The CA does not count a renewal with `replaces` in its window. It checks the window again when
    # the order arrives. A window that ends within this turn costs at most one order.
    is_exempt = bool(replaces) and ari.is_in_window(issuance)
    charges = ratelimits.charges_of(issuance, is_exempt=is_exempt)
    return OrderPlan(client, replaces, _profile(issuance, client), charges)


def _profile(issuance: Issuance, client: CA) -> str:
    """Return the certificate's profile when the CA lists it, else an empty string.

    The CA's default profile is better than no certificate.
    """
    wanted = issuance.certificate.profile
    return wanted if wanted and wanted in client.profiles() else ""
