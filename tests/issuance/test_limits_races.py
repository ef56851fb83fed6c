"""Workers that take from one bucket at once, over a real PostgreSQL: as many as there are tokens, and no deadlock."""

import pytest

from issuance import beat, limits
from issuance.models import Issuance, Reservation
from tests.fakes.limiting import Limiter
from tests.issuance.test_races import at_once

pytestmark = [pytest.mark.postgres, pytest.mark.postgres_only, pytest.mark.django_db(transaction=True)]


def test_as_many_workers_order_as_there_are_tokens(world, account, credential, settings):
    settings.ACME_CAS = {"custom": {"limits": {"account": [4, 600], "domain": [3, 600]}}}
    world.ca.limiter = Limiter(settings.ACME_CAS["custom"]["limits"])
    for number in range(12):
        world.create(account, credential, f"host{number}.example{number % 3}.com")
    world.messages.clear()
    ids = list(Issuance.objects.values_list("pk", flat=True))
    results = at_once(*[lambda pk=pk: world.chain(pk, "queued") for pk in ids], limits.grant, limits.grant)
    assert [each for each in results if isinstance(each, Exception)] == []
    assert not world.ca.limiter.refused
    assert len(world.ca.limiter.accepted) <= 4
    world.advance(1)
    beat.sweep.run()
    world.deliver()
    assert len(world.ca.limiter.accepted) == 4
    assert Reservation.objects.filter(state=Reservation.State.WAITING).count() == 8
