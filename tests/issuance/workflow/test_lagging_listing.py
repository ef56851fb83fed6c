"""A provider's listing may deny for a while what was just written: cleanup checks again before it
believes that.
"""

import pytest
from django.conf import settings

from certctrl import clock
from dnsproviders import records
from dnsproviders.models import TxtRecord

pytestmark = pytest.mark.django_db


@pytest.fixture
def record(world, credential) -> TxtRecord:
    return TxtRecord.objects.create(
        credential=credential, name="_acme-challenge.example.com", value="v"
    )


@pytest.fixture
def deny(monkeypatch: pytest.MonkeyPatch, world) -> None:
    """The listing does not have the record yet, for the next cleanup only."""
    real, denials = world.zone.cleanup, iter([True])
    monkeypatch.setattr(
        world.zone, "cleanup", lambda name, value: 0 if next(denials, False) else real(name, value)
    )


def clean_up(record: TxtRecord) -> None:
    TxtRecord.objects.filter(pk=record.pk).update(wake_at=clock.now())
    records.withdraw(record.pk, lambda each: False)


def test_a_record_that_the_listing_denies_is_looked_for_again(world, record, deny):
    records.publish(record.pk)
    clean_up(record)
    world.advance(settings.LEASE)
    records.withdraw(record.pk, lambda each: False)
    assert world.zone.txt() == []


def test_so_is_one_whose_earlier_call_has_just_become_certain(world, record, deny):
    """`unsure_until` of a call that died is over by then; the record was written anew a moment ago."""
    records.publish(record.pk)
    TxtRecord.objects.filter(pk=record.pk).update(unsure_until=world.time)
    world.advance(1)
    clean_up(record)
    world.advance(settings.LEASE)
    records.withdraw(record.pk, lambda each: False)
    assert world.zone.txt() == []
