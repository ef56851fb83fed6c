"""Orders of ended attempts are given up, and order URLs belong to one account."""

import pytest

from accounts.models import User
from authorities.errors import Refused
from issuance.models import Issuance
from tests.fakes.ca import TROUBLE, FakeCA
from tests.fakes.outside import Died

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]
State = Issuance.State


def last() -> Issuance:
    return Issuance.objects.order_by("pk").last()


@pytest.fixture
def failing(world, account, credential):
    """The CA refuses one of three records, and validates the others for ever."""
    world.ca.keeps_pending = True
    world.ca.validation_reads = 10**6
    world.create(account, credential, "a.example.com", "b.example.com", "c.example.com")
    world.deliver()
    (order,) = world.ca.orders.values()
    order.authorizations[1].status = "invalid"
    return order


def calls_to(world, name: str) -> list[int]:
    return [at for at, each in enumerate(world.outside.calls) if each == name]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("index", [0, 2])
def test_a_worker_that_dies_while_it_gives_up_an_order_changes_nothing(
    world, failing, settings, moment, index
):
    """Three authorizations are read, then three are given up."""
    world.advance(30)
    world.outside.die_at = (len(world.outside.calls) + 4 + index, moment)
    world.messages.clear()
    with pytest.raises(Died):
        world.sweep()
    assert world.outside.calls[world.outside.die_at[0]] == "ca.deactivate"
    world.outside.die_at = None
    world.messages.clear()
    assert last().is_open
    world.advance(settings.LEASE + 1)
    world.sweep()
    assert (last().state, last().error_code) == (State.FAILED, "ca_refused")
    assert "did not validate b.example.com. The CA says: No TXT record found" in last().error_what
    assert [each.status for each in failing.authorizations] == [
        "deactivated",
        "invalid",
        "deactivated",
    ]


def test_a_ca_that_is_away_by_then_is_asked_once(world, failing):
    world.advance(30)
    world.ca.problems["deactivate"] = [TROUBLE] * 3
    world.sweep()
    assert last().state == State.FAILED
    assert len(calls_to(world, "ca.deactivate")) == 1


def test_an_error_of_ours_keeps_no_attempt_from_failing(world, failing):
    world.advance(30)
    world.ca.problems["deactivate"] = [RuntimeError("oops")]
    world.sweep()
    assert last().state == State.FAILED


def test_one_that_the_ca_does_not_let_go_keeps_none_of_the_others(world, failing):
    world.advance(30)
    world.ca.problems["deactivate"] = [Refused("ca_malformed", "It is over.")]
    world.sweep()
    assert len(calls_to(world, "ca.deactivate")) == 3


def test_an_attempt_that_was_canceled_while_it_gave_up_stays_canceled(world, failing):
    world.advance(30)
    real = world.outside.call

    def cancel(name, effect):
        if name == "ca.deactivate":
            Issuance.objects.update(
                state=State.CANCELED, wake_at=None, holder="", ended_at=world.time
            )
        return real(name, effect)

    world.outside.call = cancel
    world.sweep()
    assert last().state == State.CANCELED
    assert len(calls_to(world, "ca.deactivate")) == 1


def test_an_order_of_a_csr_that_was_sent_is_not_given_up(world, account, credential):
    world.ca.processing_reads = 10**6
    world.create(account, credential)
    world.deliver()
    Issuance.objects.update(deadline_at=world.time)
    world.advance(60)
    world.sweep()
    assert last().state == State.FAILED
    assert calls_to(world, "ca.deactivate") == []


# --- order URLs ---


def test_equal_order_urls_of_two_cas_do_not_disturb_each_other(world, account, credential):
    """An owner's own CA may use the order numbers of another CA."""
    world.ca.validation_reads = 10**6
    world.create(account, credential)
    world.deliver()
    stranger = User.objects.create_user("stranger@example.com")
    theirs = world.account(stranger, ca_provider="zerossl", directory_url="https://theirs.test/dir")
    world.cas["zerossl"] = FakeCA(world.outside, world.zone, validation_reads=10**6)
    world.create(theirs, world.credential(stranger), "stranger.example")
    world.deliver()
    first, second = Issuance.objects.order_by("pk")
    assert first.order_url == second.order_url
    assert (first.state, second.state) == (State.PROPAGATED, State.PROPAGATED)


def test_an_order_of_another_account_is_no_earlier_one_of_this(world, account, credential, owner):
    """An invalid order that an earlier attempt had is ordered anew; whose URL is the same by chance
    is not.
    """
    stranger = User.objects.create_user("stranger@example.com")
    theirs = world.account(stranger, ca_provider="zerossl", directory_url="https://theirs.test/dir")
    world.cas["zerossl"] = FakeCA(world.outside, world.zone)
    world.create(theirs, world.credential(stranger), "stranger.example")
    world.deliver()
    world.ca.validation_reads = 1
    world.create(account, credential)
    world.deliver()
    for order in world.ca.orders.values():
        order.failed = True
    world.advance(30)
    world.sweep()
    assert (last().account, last().state, last().orders) == (account, State.FAILED, 0)
