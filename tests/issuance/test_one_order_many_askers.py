"""A CA hands out the same order, and the same authorizations, to whoever asks for the same names with one account."""

import pytest

from issuance.models import CertificateVersion, Issuance

pytestmark = pytest.mark.django_db
State = Issuance.State


def states() -> list[str]:
    return list(Issuance.objects.order_by("pk").values_list("state", flat=True))


def test_two_certificates_with_the_same_names_are_both_issued_and_clean_up_once_after_the_second(
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


def test_an_order_that_was_used_is_ordered_anew_once(world, account, credential):
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
