"""A CA returns the same order and authorizations for the same names of one account."""

import pytest

from issuance import workflow
from issuance.models import CertificateVersion, Issuance
from tests.fakes.ca import TROUBLE

pytestmark = pytest.mark.django_db
State = Issuance.State


def states() -> list[str]:
    return list(Issuance.objects.order_by("pk").values_list("state", flat=True))


def test_two_certificates_of_equal_names_are_issued_and_cleaned_up_once(
    world, account, credential, settings
):
    world.ca.reuses_authorizations = True
    world.zone.hides = True
    world.create(account, credential, key_type="ecdsa")
    world.create(account, credential, key_type="rsa", key_size=2048)
    world.deliver()
    world.zone.hides = False
    while states() != [State.ISSUED, State.ISSUED]:
        assert world.zone.removed == [], "removed while the second may need it"
        world.advance(30)
        world.sweep()
    world.settle()
    assert len(world.zone.removed) == 2
    assert world.zone.txt() == []
    assert CertificateVersion.objects.count() == 2


def test_a_used_order_is_replaced_by_a_new_order_once(world, account, credential):
    world.create(account, credential)
    world.deliver()
    world.ca.hands_out_used_orders = 1
    world.create(account, credential, key_type="ecdsa", key_size=384)
    world.deliver()
    world.settle()
    assert states() == [State.ISSUED, State.ISSUED]


def test_an_order_that_is_handed_out_used_for_ever_ends_the_attempt(world, account, credential):
    world.create(account, credential)
    world.deliver()
    world.ca.hands_out_used_orders = 99
    _, issuance = world.create(account, credential, key_type="ecdsa", key_size=384)
    world.deliver()
    world.settle()
    issuance.refresh_from_db()
    assert issuance.state == State.FAILED
    assert issuance.error_code == "ca_order_used"
    assert issuance.error_what == (
        "A second order for example.com failed in the same way:"
        " the CA returned an order that was used before."
    )


def test_an_older_attempt_waits_for_a_younger_one_that_ordered_first(world, account, credential):
    """PostgreSQL assigns ids before the commit, so the younger attempt may be seen first."""
    world.create(account, credential)
    world.create(account, credential, key_size=384)
    world.messages.clear()
    older, younger = Issuance.objects.order_by("pk")
    Issuance.objects.filter(pk=older.pk).update(names_key="not committed yet")
    world.ca.problems["read_authorization"] = [TROUBLE]
    world.chain(younger.pk, younger.state)
    Issuance.objects.filter(pk=older.pk).update(names_key=younger.names_key, deadline_at=world.time)
    world.chain(older.pk, older.state)
    older.refresh_from_db()
    assert older.waits_for == "The CA returned an order that another attempt has."
    assert older.deadline_at == world.time + workflow.LIMIT
    for _ in range(10):
        world.advance(30)
        world.sweep()
    assert states() == [State.ISSUED, State.ISSUED]
