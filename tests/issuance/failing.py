"""Attempts that fail, one after the other, each at the retry time of the one before."""

from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl.turns import Trouble
from issuance.beat import renewals
from issuance.models import Certificate, Issuance
from tests.fakes.world import World

CAA = Refused("ca_caa", "The CA refused: CAA forbids it.")
FOR_GOOD = Refused("ca_rejected_identifier", "The CA does not issue for this name.", permanent=True)


def limit(hours: float, code: str = "ca_rate_limited") -> Trouble:
    return Trouble(code, "Too many orders.", retry_after=hours * 3600)


def read(certificate: Certificate) -> Certificate:
    return Certificate.objects.get(pk=certificate.pk)


def last() -> Issuance:
    return Issuance.objects.order_by("pk").last()


def issued(world: World, account: AcmeAccount, credential, *names: str, **fields) -> Certificate:
    certificate, _ = world.create(account, credential, *names, **fields)
    world.deliver()
    world.settle()
    return read(certificate)


def try_again(world: World, *problems: Exception, at: str = "new_order") -> Issuance:
    """Run the next attempt of the scan at its time, with these problems at any CA."""
    for each in (world.ca, *world.cas.values()):
        each.problems = {at: list(problems)} if problems else {}
    moment = Certificate.objects.values_list("renew_at", flat=True).get()
    assert moment, "no attempt is scheduled"
    world.advance(max(0.0, (moment - world.time).total_seconds()))
    before = last()
    renewals.scan_renewals.run()
    world.sweep()
    assert last() != before, "no attempt was opened"
    return last()


def fail(world: World, times: int, problem: Exception = CAA) -> Issuance:
    for _ in range(times):
        attempt = try_again(world, problem)
        assert attempt.state == Issuance.State.FAILED
    return attempt
