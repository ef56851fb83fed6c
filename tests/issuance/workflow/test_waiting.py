"""Two hundred attempts wait for missing records: the cost in messages, queries and calls."""

from collections import Counter
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from certctrl import dispatch
from dnsproviders import propagation
from issuance import workflow
from issuance.beat import admission, sweep
from issuance.models import Issuance, IssuanceEvent
from issuance.workflow.steps import propagate
from tests.fakes import waiting
from tests.fakes.outside import Died

pytestmark = pytest.mark.django_db

ROWS = 200
# At most, for one sweep (which reads each table that has turns) and one look.
# The number of rows makes no difference.
QUERIES = 31
REPUBLISHED = 3  # times, at most


@pytest.fixture
def crowd(world, account, credential):
    """Make attempts whose records are in the zone and on no server. They were looked for once."""

    def wait(rows):
        world.zone.hides = True
        waiting.attempts(
            account, credential, [f"host{number}.example.com" for number in range(rows)], world.time
        )
        a_round(world, 0)
        world.sent.clear()
        world.outside.calls.clear()
        return world

    return wait


def a_round(world, seconds=2.0):
    """Advance, sweep, and run the messages. Return the number of queries."""
    world.advance(seconds)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        world.sweep()
    return [query["sql"] for query in queries.captured_queries]


def test_a_round_is_one_message_and_one_look(crowd):
    world = crowd(ROWS)
    a_round(world)
    assert world.sent == ["issuance.look"]
    assert world.outside.calls == ["zone.look"]


@pytest.mark.parametrize("rows", [ROWS // 10, ROWS])
def test_the_queries_of_a_round_do_not_grow_with_the_rows(crowd, rows):
    assert len(a_round(crowd(rows))) <= QUERIES


def test_the_time_in_which_resolvers_repeat_themselves_is_not_the_records(
    world, account, credential
):
    world.zone.hides = True
    world.zone.denied = 7200
    world.create(account, credential)
    world.deliver()
    for _ in range(100):
        world.sweep()
        world.advance(60)
        world.zone.denied -= 60
    issuance = Issuance.objects.get()
    assert issuance.state == Issuance.State.PRESENTED, "the credential gives it half an hour"
    assert issuance.deadline_at - world.time > timedelta(minutes=20)
    assert issuance.events.filter(outcome=IssuanceEvent.Outcome.WAIT).count() <= 4
    assert world.outside.calls.count("zone.look") <= 30
    world.zone.hides = False
    world.settle()
    assert Issuance.objects.get().state == Issuance.State.ISSUED


def test_a_round_before_any_record_is_due_asks_nothing(crowd):
    world = crowd(ROWS)
    a_round(world)
    world.sent.clear()
    world.outside.calls.clear()
    a_round(world, seconds=0.1)
    assert (world.sent, world.outside.calls) == ([], [])


@pytest.mark.slow
def test_looks_become_rare_as_the_wait_grows(crowd):
    world = crowd(ROWS)
    shows = world.zone.shows
    looked_at = []
    world.zone.shows = lambda name, value: looked_at.append(name) or shows(name, value)
    for _ in range(55):
        a_round(world, seconds=1)
    assert world.outside.calls == ["zone.look"] * len(world.sent)
    assert len(looked_at) <= 20 * ROWS


def test_those_that_wait_long_are_looked_at_in_step(crowd):
    world = crowd(ROWS)
    Issuance.objects.update(presents=REPUBLISHED, state_since=world.time - timedelta(minutes=10))
    early = Issuance.objects.order_by("pk")[: ROWS // 2]
    late = Issuance.objects.order_by("-pk")[: ROWS // 2]
    world.advance((1 - world.time.timestamp()) % 5)  # a second after a fifth one
    moments = set()
    for half in (early, late):
        Issuance.objects.exclude(pk__in=half.values("pk")).update(
            wake_at=world.time + timedelta(seconds=99)
        )
        Issuance.objects.filter(pk__in=half.values("pk")).update(wake_at=world.time)
        workflow.look()
        moments |= set(
            Issuance.objects.filter(pk__in=half.values("pk")).values_list("wake_at", flat=True)
        )
        world.advance(1)
    (moment,) = moments
    assert moment.timestamp() % 5 == 0
    assert timedelta(seconds=28) <= moment - world.time <= timedelta(seconds=34)


@pytest.mark.slow
def test_in_ten_minutes_each_record_is_republished_three_times_at_most(crowd):
    world = crowd(ROWS)
    for _ in range(60):
        a_round(world, seconds=10)
    calls = Counter(world.outside.calls)
    assert set(calls) == {"zone.look", "zone.present"}
    assert ROWS <= calls["zone.present"] <= ROWS * REPUBLISHED
    assert world.sent.count("issuance.look") <= 60
    assert world.sent.count("chain") <= ROWS * REPUBLISHED, (
        "a chain for each publication and no more"
    )
    assert set(world.sent) == {"issuance.look", "chain"}
    assert Issuance.objects.open().count() == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ROWS // 10, ROWS])
def test_those_that_publish_again_go_back_in_one_transaction(crowd, rows):
    world = crowd(rows)
    world.advance(130)
    with CaptureQueriesContext(connection) as queries:
        workflow.look()
    attempts = Issuance.objects.all()
    assert set(attempts.values_list("state", "presents", "holder")) == {
        (Issuance.State.ORDERED, 1, "")
    }
    assert IssuanceEvent.objects.filter(what__contains="published again").count() == rows
    assert len(queries) <= QUERIES
    for _ in range(1 + rows // admission.AGAIN):
        world.sweep()
    assert world.outside.calls.count("zone.present") == rows


def test_a_new_order_does_not_wait_behind_republished_records(
    crowd, account, credential, monkeypatch
):
    monkeypatch.setattr(admission, "AGAIN", 10)
    world = crowd(ROWS)
    world.advance(130)
    workflow.look()
    _, new = world.create(account, credential, "new.example.com")
    world.messages.clear()
    Issuance.objects.filter(pk=new.pk).update(queued_at=None)
    sweep.sweep.run()
    assert len(world.messages) == 11
    assert world.messages[0][1] == new.pk, "the new one first"
    assert len(a_round(world)) > 0
    assert Issuance.objects.filter(presents=1, state=Issuance.State.PRESENTED).count() >= 10, (
        "the others in turn"
    )


def test_an_attempt_claimed_by_another_worker_is_not_moved_back(crowd, monkeypatch):
    world = crowd(2)
    world.advance(130)
    taken = Issuance.objects.order_by("pk").first()
    judge = workflow.judge

    def judge_slowly(issuance, seen):
        Issuance.objects.filter(pk=taken.pk).update(holder="somebody else")
        return judge(issuance, seen)

    monkeypatch.setattr(propagate, "judge", judge_slowly)
    workflow.look()
    taken.refresh_from_db()
    assert (taken.state, taken.presents, taken.holder) == (
        Issuance.State.PRESENTED,
        0,
        "somebody else",
    )
    assert not taken.events.filter(what__contains="published again").exists()
    assert Issuance.objects.exclude(pk=taken.pk).get().state == Issuance.State.ORDERED


def test_the_owner_reads_a_wait_once_however_long_it_takes(crowd):
    world = crowd(ROWS)
    for _ in range(10):
        a_round(world, seconds=5)
    waits = IssuanceEvent.objects.filter(outcome=IssuanceEvent.Outcome.WAIT)
    assert waits.count() == ROWS


def test_those_whose_record_is_seen_go_on_and_the_others_wait(world, account, credential):
    world.zone.hides = True
    for number in range(10):
        world.create(account, credential, f"host{number}.example.com")
    world.deliver()
    shows = world.zone.shows
    name = "_acme-challenge.host7.example.com"
    world.zone.shows = lambda at, value: at == name or shows(at, value)
    a_round(world)
    seen = Issuance.objects.get(certificate__domain="host7.example.com")
    assert seen.state == Issuance.State.ISSUED
    assert Issuance.objects.filter(state=Issuance.State.PRESENTED).count() == 9


def test_a_row_that_kills_its_worker_does_not_fail_its_batch(
    world, account, credential, monkeypatch
):
    world.zone.hides = True
    _, poison = world.create(account, credential, "poison.example.com")
    _, innocent = world.create(account, credential, "innocent.example.com")
    world.deliver()

    def look(records, seconds=None):
        if any("poison" in record.name for record in records):
            raise Died("the process is gone")
        return world.zone.look(records)

    monkeypatch.setattr(propagation, "look", look)
    world.zone.hides = False
    for _ in range(60):
        world.advance(workflow.LEASE + 1)
        sweep.sweep.run()
        while world.messages:
            world.deliver_unless_killed()
    poison.refresh_from_db()
    innocent.refresh_from_db()
    assert (poison.state, innocent.state) == (Issuance.State.FAILED, Issuance.State.ISSUED)
    assert "died" in poison.error_what


def test_rows_that_a_dead_worker_left_behind_are_claimed_by_no_batch(crowd):
    world = crowd(3)
    world.advance(2)
    Issuance.objects.update(holder="a worker that died", wake_at=world.time)
    workflow.look()
    assert world.outside.calls == []
    world.sweep()
    assert Counter(world.sent) == {"chain": 3}
    assert world.outside.calls == ["zone.look"] * 3


def test_a_look_that_could_not_be_sent_is_sent_when_the_broker_is_back(crowd, monkeypatch):
    world = crowd(3)
    world.advance(2)
    with monkeypatch.context() as without:
        without.setattr(dispatch, "nudge", lambda task, *args: False)
        sweep.sweep.run()
    a_round(world, seconds=1)
    assert world.sent == ["issuance.look"]


def test_publishing_again_does_not_move_the_deadline(world, account, credential):
    world.zone.hides = True
    _, issuance = world.create(account, credential, "example.com")
    began = world.time
    while Issuance.objects.open().exists():
        world.sweep()
        world.advance(30)
    issuance.refresh_from_db()
    assert issuance.presents
    limit = timedelta(seconds=credential.propagation_timeout)
    assert issuance.ended_at - began <= limit + timedelta(minutes=5)
