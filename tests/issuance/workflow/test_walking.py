"""The turns of an attempt follow each other in one worker, without another claim."""

from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.db import OperationalError, connection, transaction

from certctrl import clock
from issuance import workflow
from issuance.models import Issuance
from issuance.services import canceling
from issuance.workflow import machine
from issuance.workflow.outcome import Outcome, event

pytestmark = pytest.mark.django_db

State = Issuance.State
ORDER = workflow.STEP_AT[State.QUEUED]


@pytest.fixture
def attempt(world, account, credential):
    return world.create(account, credential)[1]


def test_one_claim_serves_all_steps(attempt):
    claims = []

    def note(execute, sql, params, many, context):
        claims.extend([sql] * ('"deaths" + CASE' in sql and '"issuance_issuance"' in sql))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert workflow.walk(ORDER, attempt.pk) is None
    attempt.refresh_from_db()
    assert (attempt.state, attempt.holder, len(claims)) == (State.ISSUED, "", 1)


@pytest.fixture
def on_call(world, monkeypatch):
    """Return a function that lets something happen at each outward call."""
    real = world.outside.call

    def listen(act):
        def call(name, effect):
            act(name)
            return real(name, effect)

        monkeypatch.setattr(world.outside, "call", call)

    return listen


def test_the_lease_begins_again_on_the_way(world, attempt, on_call, settings):
    left = []

    def take_time(name):
        attempt.refresh_from_db()
        left.append((attempt.wake_at - clock.now()).total_seconds())
        world.advance(0.5)

    on_call(take_time)
    workflow.walk(ORDER, attempt.pk)
    assert world.passed >= 5
    assert min(left) >= settings.LEASE - 4


def test_a_wait_writes_the_ends_of_the_steps_before_it(world, attempt):
    world.ca.validation_reads = 3
    assert workflow.walk(ORDER, attempt.pk) is None
    attempt.refresh_from_db()
    assert (attempt.state, attempt.holder) == (State.PROPAGATED, "")
    told = list(attempt.events.order_by("pk").values_list("step", "outcome"))
    assert told[-3:] == [("present", "done"), ("propagate", "done"), ("validate", "wait")]


def test_a_step_whose_end_was_not_written_presents_nothing_again(world, attempt, on_call):
    calls = []

    def die(name):
        calls.append(name)
        if name.endswith(".answer"):
            raise KeyboardInterrupt

    on_call(die)
    with pytest.raises(KeyboardInterrupt):
        workflow.walk(ORDER, attempt.pk)
    attempt.refresh_from_db()
    assert (attempt.state, bool(attempt.holder)) == (State.ORDERED, True)
    on_call(calls.append)
    world.settle()
    attempt.refresh_from_db()
    assert (attempt.state, calls.count("zone.present")) == (State.ISSUED, 2)  # of two names


def test_an_end_that_cannot_be_written_frees_the_attempt(attempt, monkeypatch):
    real = machine.event

    def event(issuance, step, *args):
        if step == "present":
            raise OperationalError
        real(issuance, step, *args)

    monkeypatch.setattr(machine, "event", event)
    assert workflow.walk(ORDER, attempt.pk) is None
    attempt.refresh_from_db()
    assert (attempt.state, attempt.holder) == (State.ORDERED, "")
    told = list(attempt.events.order_by("pk").values_list("outcome", flat=True))
    assert told == ["done", "retry"]


def test_an_event_of_a_lost_transaction_is_not_stored_with_the_next(attempt):
    def lose():
        with held.fence():
            event(held, "order", Outcome.DONE, "lost")
            raise OperationalError

    with Issuance.objects.turn(attempt.pk) as held:
        with pytest.raises(OperationalError):
            lose()
        with held.fence():
            event(held, "order", Outcome.DONE, "first")
            event(held, "order", Outcome.DONE, "second")
        held.give_back(clock.now())
    assert list(attempt.events.order_by("pk").values_list("what", flat=True)) == ["first", "second"]


def test_others_go_first_after_a_step_that_took_long(world, attempt, monkeypatch):
    monkeypatch.setattr("issuance.workflow.machine.LONG", 0.0)
    later = workflow.walk(ORDER, attempt.pk)
    attempt.refresh_from_db()
    assert (later.state, attempt.state, attempt.holder) == (State.ORDERED, State.ORDERED, "")
    assert attempt.wake_at <= clock.now()


def test_a_worker_that_stops_walks_no_further(attempt, monkeypatch):
    stopping = SimpleNamespace(is_set=lambda: True)
    monkeypatch.setattr("issuance.workflow.machine.stopping", stopping)
    assert workflow.walk(ORDER, attempt.pk).state == State.ORDERED


def test_an_attempt_that_is_canceled_meanwhile_walks_no_further(world, attempt, on_call):
    def cancel(name):
        attempt.refresh_from_db()
        if attempt.state == State.ORDERED:
            canceling.cancel_attempt(attempt)

    on_call(cancel)
    assert workflow.walk(ORDER, attempt.pk) is None
    attempt.refresh_from_db()
    assert (attempt.state, attempt.holder) == (State.CANCELED, "")


def test_a_message_for_a_step_that_is_done_changes_nothing(attempt):
    assert workflow.take(ORDER, attempt.pk)
    assert workflow.walk(ORDER, attempt.pk) is None
    attempt.refresh_from_db()
    assert attempt.state == State.ORDERED


def test_a_commit_whose_reply_is_lost_keeps_the_next_deadline(world, attempt, monkeypatch):
    lost = []

    @contextmanager
    def atomic():
        with transaction.atomic():
            yield
        if not lost and Issuance.objects.get(pk=attempt.pk).state == State.ORDERED:
            lost.append(True)
            raise OperationalError("the server closed the connection")

    monkeypatch.setattr("certctrl.turns.transaction", SimpleNamespace(atomic=atomic))
    workflow.walk(ORDER, attempt.pk)
    attempt.refresh_from_db()
    assert lost
    assert (attempt.state, attempt.stumbles) == (State.ORDERED, 0)
    assert attempt.deadline_at - attempt.state_since == timedelta(hours=1)
    world.settle()
    attempt.refresh_from_db()
    assert attempt.state == State.ISSUED
