"""A call that failed here may take effect later, and its record is still cleaned up."""

from datetime import timedelta

import pytest
from django.conf import settings

from dnsproviders import records
from dnsproviders.base import ProviderError
from dnsproviders.models import TxtRecord

pytestmark = pytest.mark.django_db
NAME = "_acme-challenge.example.com"


@pytest.fixture
def record(world, credential) -> TxtRecord:
    return TxtRecord.objects.create(credential=credential, name=NAME, value="v")


def withdraw(world, record: TxtRecord) -> None:
    TxtRecord.objects.filter(pk=record.pk).update(wake_at=world.time)
    records.withdraw(record.pk, lambda each: False)


def test_a_request_sent_long_after_its_intent_is_waited_for(world, record, monkeypatch):
    """Found by the simulator: no other worker took the record, so the held worker still had it."""

    def sent_late(each: TxtRecord) -> None:
        world.advance(3 * settings.LEASE)  # held; only then is the request sent, and it times out
        raise ProviderError("dns_unreachable", "The DNS provider did not answer in time.")

    monkeypatch.setattr(
        "tests.fakes.zone.FakeProvider.present", lambda provider, each: sent_late(each)
    )
    with pytest.raises(ProviderError):
        records.publish(record.pk)
    withdraw(world, record)
    world.zone.present(NAME, "v")  # the late effect
    world.advance(settings.LEASE)
    withdraw(world, record)
    assert world.zone.txt() == []


def test_a_record_reopened_during_its_cleanup_stays_open(world, record, monkeypatch):
    """The cleanup must not shorten the time in which a late call may take effect."""
    records.publish(record.pk)
    soon = world.time + timedelta(seconds=10)
    TxtRecord.objects.filter(pk=record.pk).update(unsure_until=soon)

    def cleanup_while_a_zombie_reopens(provider, each: TxtRecord) -> int:
        records.reopen(each.pk)
        return 0

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("tests.fakes.zone.FakeProvider.cleanup", cleanup_while_a_zombie_reopens)
        withdraw(world, record)
    record.refresh_from_db()
    assert record.unsure_until == world.time + timedelta(seconds=settings.LEASE)
