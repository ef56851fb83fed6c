"""When the next row is due, and the sweep that waits for it."""

from datetime import timedelta

import pytest

from certctrl import clock
from issuance.beat import sweep
from issuance.beat.due import next_due
from issuance.models import Issuance

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def attempt(world, account, credential):
    """An attempt that waits for four tenths of a second."""
    _, issuance = world.create(account, credential)
    world.messages.clear()
    at = world.time + timedelta(seconds=0.4)
    Issuance.objects.filter(pk=issuance.pk).update(wake_at=at, queued_at=None)
    issuance.refresh_from_db()
    return issuance


@pytest.fixture
def pauses(world, monkeypatch):
    """The pauses of the sweep, in seconds. They move the clock."""
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        world.advance(seconds)

    monkeypatch.setattr(clock, "pause", pause)
    return pauses


def test_the_next_due_row_is_found_within_the_time(world, attempt):
    second = timedelta(seconds=1)
    assert next_due(world.time, world.time + second) == attempt.wake_at
    assert next_due(world.time, world.time + second / 4) is None
    assert next_due(attempt.wake_at, world.time + second) is None


def test_a_sweep_waits_for_a_row_that_is_due_soon(world, attempt, pauses):
    sweep.sweep.run(1.0)
    assert pauses == [pytest.approx(0.4)]
    assert [args for _, *args in world.messages] == [[attempt.pk, "queued"]]


def test_a_sweep_ends_before_the_next_message_comes(world, attempt, pauses):
    sweep.sweep.run(0.3)
    assert (pauses, list(world.messages)) == ([], [])


def test_a_sweep_that_takes_long_pauses_longer(world, attempt, pauses, monkeypatch):
    monkeypatch.setattr(sweep, "due_tables", lambda now: world.advance(0.05) or [])
    sweep.sweep.run(1.0)
    assert pauses == [pytest.approx(0.5)]


def test_one_sweep_does_not_wait(world, attempt, pauses):
    sweep.sweep.run()
    assert pauses == []
