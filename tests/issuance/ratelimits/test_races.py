"""Workers take from one bucket at once, without deadlock and never more than its tokens."""

import threading
from datetime import timedelta

import pytest

from certctrl.turns import Trouble
from issuance.beat import sweep
from issuance.models import Issuance, LimitBucket, Reservation
from tests.fakes.ca import FakeClient
from tests.fakes.limiting import Limiter
from tests.issuance.services.test_races import at_once
from tests.patience import LIMIT

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.postgres_only,
    pytest.mark.django_db(transaction=True),
]


def test_as_many_workers_order_as_there_are_tokens(world, account, credential, settings):
    settings.ACME_CAS = {"custom": {"limits": {"account": [4, 600], "domain": [3, 600]}}}
    world.ca.limiter = Limiter(settings.ACME_CAS["custom"]["limits"])
    for number in range(12):
        world.create(account, credential, f"host{number}.example{number % 3}.com")
    world.messages.clear()
    ids = list(Issuance.objects.values_list("pk", flat=True))
    results = at_once(*[lambda pk=pk: world.chain(pk, "queued") for pk in ids])
    assert [each for each in results if isinstance(each, Exception)] == []
    assert not world.ca.limiter.refused
    assert len(world.ca.limiter.accepted) <= 4
    world.advance(1)
    sweep.sweep.run()
    world.deliver()
    assert len(world.ca.limiter.accepted) == 4
    assert Reservation.objects.filter(state=Reservation.State.WAITING).count() == 8


def test_concurrent_refusals_all_close_the_bucket(world, account, credential, monkeypatch):
    count = 8
    for number in range(count):
        world.create(account, credential, f"host{number}.example{number}.com")
    world.messages.clear()
    all_asked = threading.Barrier(count)

    def busy(client, names, *, profile="", replaces=""):
        all_asked.wait(LIMIT)
        raise Trouble("ca_rate_limited", "The CA refused the order: slow down.", retry_after=3600)

    monkeypatch.setattr(FakeClient, "new_order", busy)
    ids = list(Issuance.objects.values_list("pk", flat=True))
    at_once(*[lambda pk=pk: world.chain(pk, "queued") for pk in ids])
    assert {each.waits_for for each in Issuance.objects.all()} == {
        "The CA refused the order: slow down."
    }
    pauses = [each.wake_at - world.time for each in Issuance.objects.all()]
    assert timedelta(hours=1) <= min(pauses) <= max(pauses) <= timedelta(minutes=75)
    assert LimitBucket.objects.count() == 1
