"""Turns: which worker has a row, for how long, and that a lost turn writes nothing."""

from datetime import timedelta

import pytest
from django.db import OperationalError, connection

from certctrl import turns
from certctrl.turns import MOST_SAID, LostTurn, Trouble, Wait, retry_pause
from issuance.models import Issuance
from tests.fakes.world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def row(monkeypatch, django_user_model):
    world = World(monkeypatch)
    owner = django_user_model.objects.create_user("owner@example.com")
    _, issuance = world.create(world.account(owner), world.credential(owner))
    issuance.world = world
    return issuance


def again(row) -> Issuance:
    return Issuance.objects.get(pk=row.pk)


def test_a_claim_takes_a_due_row_until_its_lease_ends(row, settings):
    held = Issuance.objects.claim(row.pk)
    assert held.wake_at == row.world.time + timedelta(seconds=settings.LEASE)
    assert Issuance.objects.claim(row.pk) is None


def test_a_row_that_is_not_due_is_not_claimed(row):
    Issuance.objects.update(wake_at=row.world.time + timedelta(seconds=1))
    assert Issuance.objects.claim(row.pk) is None


def test_a_row_in_another_state_is_not_claimed(row):
    assert Issuance.objects.claim(row.pk, state="ordered") is None


def test_a_free_row_can_be_claimed_before_it_is_due_on_request(row):
    Issuance.objects.update(wake_at=row.world.time + timedelta(hours=1))
    assert Issuance.objects.claim(row.pk, due=False)
    assert Issuance.objects.claim(row.pk, due=False) is None


def test_a_lease_that_ran_out_counts_a_death_and_goes_to_the_next(row, settings):
    Issuance.objects.claim(row.pk)
    row.world.advance(settings.LEASE)
    assert Issuance.objects.claim(row.pk).deaths == 1


def test_a_worker_that_paused_gets_no_row_that_another_finished(row):
    """The pause is between the claim of a batch and the statement that reads its rows."""
    claimed = []

    def pause(execute, sql, params, many, context):
        if claimed and sql.startswith("SELECT"):
            claimed.clear()
            Issuance.objects.update(holder="")
        elif sql.startswith("UPDATE"):
            claimed.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(pause):
        assert Issuance.objects.claim_batch(5, lease=30, turn=20) == []
    assert Issuance.objects.get().wake_at > row.wake_at


def test_five_deaths_end_the_attempt(row, settings):
    Issuance.objects.update(deaths=turns.MAX_DEATHS)
    row.world.deliver()
    assert again(row).state == "failed"
    assert "died" in again(row).error_what


def test_a_turn_that_ends_well_empties_deaths_and_stumbles(row):
    Issuance.objects.update(deaths=3, stumbles=2)
    Issuance.objects.claim(row.pk).give_back(row.world.time)
    assert (again(row).deaths, again(row).stumbles, again(row).holder) == (0, 0, "")


def test_nothing_is_written_after_the_row_was_lost(row, settings):
    zombie = Issuance.objects.claim(row.pk)
    row.world.advance(settings.LEASE)
    Issuance.objects.claim(row.pk)
    with pytest.raises(LostTurn):
        zombie.write(order_url="late")
    with pytest.raises(LostTurn):
        zombie.give_back(row.world.time)
    assert again(row).order_url == ""


def test_nothing_is_written_after_the_turn_was_given_back(row):
    held = Issuance.objects.claim(row.pk)
    held.give_back(row.world.time)
    with pytest.raises(LostTurn):
        held.write(order_url="late")


def test_a_value_that_a_fence_did_not_write_is_not_in_the_object(row):
    held = Issuance.objects.claim(row.pk)
    token = held.holder

    def end_badly() -> None:
        with held.fence():
            held.give_back(None, state="failed", ended_at=row.world.time)
            raise OperationalError("deadlock detected")

    with pytest.raises(OperationalError):
        end_badly()
    assert (held.holder, held.state, held.ended_at) == (token, "queued", None)
    held.write(order_url="still ours")
    assert again(row).order_url == "still ours"


def test_the_first_breath_of_a_turn_is_never_a_wait(row, settings):
    held = Issuance.objects.claim(row.pk)
    row.world.advance(settings.TURN)
    held.breathe()
    with pytest.raises(Wait):
        held.breathe()


def test_a_breath_in_a_worker_that_stops_puts_the_row_back(row, monkeypatch):
    held = Issuance.objects.claim(row.pk)
    held.breathe()
    monkeypatch.setattr(turns.stopping, "is_set", lambda: True)
    with pytest.raises(Wait):
        held.breathe()


def test_a_breath_after_the_row_was_lost_says_so(row, settings):
    held = Issuance.objects.claim(row.pk)
    row.world.advance(settings.LEASE)
    Issuance.objects.claim(row.pk)
    with pytest.raises(LostTurn):
        held.breathe()


def test_the_retry_table_grows_and_its_last_entry_repeats():
    trouble = Trouble("x", "x")
    assert [retry_pause(stumbles, trouble) for stumbles in (1, 2, 3, 11, 12, 50)] == [
        10,
        20,
        30,
        1800,
        1800,
        1800,
    ]


def test_the_other_sides_retry_after_comes_before_the_table():
    assert retry_pause(1, Trouble("x", "x", retry_after=77)) == 77


def test_a_row_sleeps_for_a_day_at_most_whatever_the_other_side_asks(row):
    Issuance.objects.claim(row.pk).stumble(Trouble("x", "x", retry_after=7 * 86400))
    assert again(row).wake_at == row.world.time + timedelta(days=1)


def test_unprintable_characters_are_not_quoted_in_a_sentence():
    assert Trouble("x", "te\x00xt").what == Wait(1, "te\x00xt").what == "te xt"


def test_a_late_turn_moves_the_deadline_by_its_lateness(row, settings):
    before = again(row).deadline_at
    late = settings.RESEND + turns.SKEW.total_seconds() + 600
    row.world.advance(late)
    assert Issuance.objects.claim(row.pk).deadline_at == before + timedelta(seconds=late)


def test_a_turn_that_is_a_little_late_leaves_the_deadline(row, settings):
    before = again(row).deadline_at
    row.world.advance(settings.RESEND)
    assert Issuance.objects.claim(row.pk).deadline_at == before


def test_the_token_says_which_process_has_the_row(row):
    import os

    assert Issuance.objects.claim(row.pk).holder.startswith(f"{os.getpid()}-")


@pytest.mark.parametrize("kind", [lambda what: Trouble("x", what), lambda what: Wait(1, what)])
def test_a_long_sentence_is_shortened(kind):
    assert kind("w" * MOST_SAID).what == "w" * MOST_SAID
    assert len(kind("w" * 900_000).what) == MOST_SAID
    assert kind("w" * 900_000).what.endswith("w…")


def test_carried_changes_are_written_with_the_next_write(row):
    done = []
    held = Issuance.objects.claim(row.pk)
    token = held.holder
    held.carry(lambda: done.append(again(row).presents), presents=3)
    assert (again(row).presents, done) == (0, [])
    held.write(waits_for="the record")
    assert (again(row).presents, again(row).waits_for, done) == (3, "the record", [3])
    assert again(row).holder == held.holder != token
    held.write(waits_for="")
    assert done == [3]


def test_a_turn_that_was_lost_writes_nothing_that_it_carried(row, settings):
    done = []
    held = Issuance.objects.claim(row.pk)
    held.carry(lambda: done.append(1), presents=3)
    row.world.advance(settings.LEASE)
    Issuance.objects.claim(row.pk)
    with pytest.raises(LostTurn):
        held.write(waits_for="the record")
    assert (again(row).presents, again(row).waits_for, done) == (0, "", [])
    with pytest.raises(LostTurn):
        held.forget_carried()


def test_a_turn_forgets_what_it_carries(row):
    done = []
    held = Issuance.objects.claim(row.pk)
    held.carry(lambda: done.append(1), presents=3)
    held.forget_carried()
    held.write(waits_for="the record")
    assert (held.presents, again(row).presents, done) == (0, 0, [])
