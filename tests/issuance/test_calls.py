"""An attempt names the party that keeps it waiting."""

from datetime import timedelta

import pytest

from authorities import catalog
from certctrl import lanes
from certctrl.lanes import Standing
from dnsproviders.registry import lane_of_credential
from issuance.calls import trouble_of
from issuance.models import Issuance

pytestmark = pytest.mark.django_db


@pytest.fixture
def waiting(world, account, credential) -> Issuance:
    """An attempt that is due for a minute."""
    _, issuance = world.create(account, credential)
    world.messages.clear()
    issuance.refresh_from_db()
    issuance.wake_at -= timedelta(minutes=1)
    issuance.save()
    return issuance


def test_it_names_the_ca_in_trouble(waiting, account):
    lanes.note(catalog.lane_of_account(account).key, Standing.TROUBLE)
    assert trouble_of(waiting).startswith("It waits for the CA ca.test, which does not answer.")


def test_it_names_the_dns_api_in_trouble(waiting, credential):
    lanes.note(lane_of_credential(credential).key, Standing.TROUBLE)
    assert trouble_of(waiting).startswith("It waits for the DNS API, which does not answer.")


def test_a_step_that_does_not_call_the_party_does_not_wait_for_it(waiting, credential):
    lanes.note(lane_of_credential(credential).key, Standing.TROUBLE)
    waiting.state = Issuance.State.VALIDATED
    waiting.save()
    assert trouble_of(waiting) == ""


def test_a_party_that_answers_is_not_named(waiting):
    assert trouble_of(waiting) == ""


def test_an_attempt_that_is_not_due_asks_nothing(
    world, account, credential, django_assert_num_queries
):
    lanes.note(catalog.lane_of_account(account).key, Standing.TROUBLE)
    _, issuance = world.create(account, credential)
    with django_assert_num_queries(0):
        assert trouble_of(issuance) == ""


def test_a_held_attempt_does_not_wait(waiting, account):
    lanes.note(catalog.lane_of_account(account).key, Standing.TROUBLE)
    held = Issuance.objects.claim(waiting.pk)
    assert trouble_of(held) == ""
