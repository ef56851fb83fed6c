"""A CA that asks for records of unordered names gets nothing written."""

import pytest

from dnsproviders.models import TxtRecord
from issuance.models import Authorization, Issuance
from tests.fakes.ca import FakeAuthorization, FakeCA

pytestmark = pytest.mark.django_db


def test_a_record_for_a_name_that_was_not_ordered_is_not_written(
    world, account, credential, monkeypatch
):
    def elsewhere(ca: FakeCA, order, name: str, at: int) -> FakeAuthorization:
        return FakeAuthorization(
            f"{order.url}/authz/{at}", "victim.example.org", False, order.account
        )

    monkeypatch.setattr(FakeCA, "authorization", elsewhere)
    world.create(account, credential, "example.com")
    world.deliver()
    assert (Issuance.objects.get().state, Issuance.objects.get().error_code) == (
        "failed",
        "ca_wrong_identifier",
    )
    assert not TxtRecord.objects.exists()
    assert world.zone.txt() == []


def test_more_authorizations_than_names_are_not_read(world, account, credential, monkeypatch):
    order = world.ca.new_order
    monkeypatch.setattr(
        world.ca,
        "new_order",
        lambda account, names: order(account, tuple(f"n{at}.example.com" for at in range(50))),
    )
    world.create(account, credential, "example.com")
    world.deliver()
    assert Issuance.objects.get().error_code == "ca_bad_order"
    assert not Authorization.objects.exists()
