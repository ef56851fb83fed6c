"""A worker that dies before or after any outside call does not change the result."""

import pytest

from issuance.models import CertificateVersion, Issuance
from tests.fakes.outside import Died
from tests.fakes.world import World

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]


def undisturbed(world, account, credential) -> list[str]:
    world.create(account, credential)
    world.deliver()
    world.settle()
    return list(world.outside.calls)


def calls_of_an_undisturbed_run() -> list[str]:
    """Return the outside calls. `test_the_list_is_what_a_run_makes` checks them."""
    return [
        "zone.zone_of",  # the preflight
        "ca.new_order",
        "ca.read_authorization",
        "ca.read_authorization",
        "zone.present",
        "zone.present",
        "zone.look",
        "ca.answer",
        "ca.answer",
        "ca.read_order",
        "ca.finalize",
        "ca.download",
        "zone.cleanup",
        "zone.cleanup",
    ]


CALLS = calls_of_an_undisturbed_run()


def test_the_list_is_what_a_run_makes(world, account, credential):
    assert undisturbed(world, account, credential) == CALLS


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "index", range(len(CALLS)), ids=[f"{n}-{name}" for n, name in enumerate(CALLS)]
)
def test_a_death_there_changes_nothing(world: World, account, credential, settings, index, moment):
    world.outside.die_at = (index, moment)
    certificate, _ = world.create(account, credential)
    died = not world.deliver_unless_killed()
    sweeps = 0
    while not world.is_quiet():
        sweeps += 1
        assert sweeps <= 10, "not done after ten leases"
        try:
            world.sweep()
        except Died:
            died = True
            world.outside.die_at = None
            world.messages.clear()
        world.advance(settings.LEASE)
    assert died
    certificate.refresh_from_db()
    assert [each.state for each in Issuance.objects.all()] == [Issuance.State.ISSUED]
    assert CertificateVersion.objects.count() == 1
    assert certificate.current
    assert world.zone.txt() == []
    assert world.outside.calls.count("ca.new_order") <= 2
    assert world.outside.calls.count("ca.finalize") <= 2
