"""Responses to challenges that do not reach the CA."""

import pytest

from certctrl.turns import Trouble
from issuance.models import Authorization, Issuance

pytestmark = pytest.mark.django_db
FIREWALL = "The CA at ca.test refused the answer to the challenge (HTTP 403)."


def answers(world) -> int:
    return world.outside.calls.count("ca.answer")


def test_an_answer_that_something_in_between_refused_is_given_again(world, account, credential):
    world.ca.unheard = [FIREWALL]
    _, issuance = world.create(account, credential, "example.com")
    world.deliver()
    issuance.refresh_from_db()
    assert (issuance.state, issuance.waits_for) == (
        Issuance.State.PROPAGATED,
        f"{FIREWALL} The response is sent again.",
    )
    world.settle()
    assert Issuance.objects.get().state == Issuance.State.ISSUED
    assert answers(world) == 2


def test_an_answer_that_the_ca_forgot_is_given_again_after_a_minute(world, account, credential):
    world.ca.unheard = [""]
    world.create(account, credential, "example.com")
    world.deliver()
    world.settle(5, step=5)
    assert answers(world) == 1
    world.settle(step=30)
    assert Issuance.objects.get().state == Issuance.State.ISSUED
    assert answers(world) == 2


def test_an_answer_that_the_ca_is_looking_at_is_given_once(world, account, credential):
    world.ca.validation_reads = 20
    world.create(account, credential, "example.com")
    world.deliver()
    world.settle(8, step=60)
    assert answers(world) == 1
    assert Authorization.objects.get().answered_at


def test_an_answer_is_given_once_when_the_order_cannot_be_read(world, account, credential):
    world.ca.problems["read_order"] = [Trouble("ca_error", "Later.")]
    world.create(account, credential, "example.com")
    world.deliver()
    assert Authorization.objects.get().answered_at
    world.settle()
    assert Issuance.objects.get().state == Issuance.State.ISSUED
    assert answers(world) == 1
