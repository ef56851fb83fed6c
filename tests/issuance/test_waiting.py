"""Two hundred attempts wait for records that do not come: what that costs in messages, queries and calls."""

from collections import Counter

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from issuance.models import Issuance, IssuanceEvent
from tests.fakes import waiting

pytestmark = pytest.mark.django_db

ROWS = 200
QUERIES = 21  # for one sweep and one look, at most, however many rows wait
REPUBLISHED = 3  # times, at most


@pytest.fixture
def crowd(world, account, credential):
    """So many attempts, each with a record that is in the zone and that no server shows; they were looked at once."""

    def wait(rows):
        world.zone.hides = True
        waiting.attempts(account, credential, [f"host{number}.example.com" for number in range(rows)], world.time)
        a_round(world, 0)
        world.sent.clear()
        world.outside.calls.clear()
        return world

    return wait


def a_round(world, seconds=2.0):
    """One sweep and what it sends, some time later; answers the queries that it took."""
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


def test_a_round_before_anybody_is_due_looks_at_nothing(crowd):
    world = crowd(ROWS)
    a_round(world)
    world.sent.clear()
    world.outside.calls.clear()
    a_round(world, seconds=0.1)
    assert (world.sent, world.outside.calls) == ([], [])


def test_looks_become_rare_as_the_wait_grows(crowd):
    world = crowd(ROWS)
    shows, looked_at = world.zone.shows, []
    world.zone.shows = lambda name, value: looked_at.append(name) or shows(name, value)
    for _ in range(55):
        a_round(world, seconds=1)
    assert world.outside.calls == ["zone.look"] * len(world.sent)
    assert len(looked_at) <= 20 * ROWS


def test_ten_minutes_of_waiting_publish_each_record_three_times_more_at_most(crowd):
    world = crowd(ROWS)
    for _ in range(60):
        a_round(world, seconds=10)
    calls = Counter(world.outside.calls)
    assert set(calls) == {"zone.look", "zone.present"}
    assert ROWS <= calls["zone.present"] <= ROWS * REPUBLISHED
    assert world.sent.count("issuance.look") <= 60
    assert world.sent.count("chain") <= ROWS * REPUBLISHED, "a chain for each publication and no more"
    assert set(world.sent) == {"issuance.look", "chain"}
    assert Issuance.objects.open().count() == ROWS


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
    shows, name = world.zone.shows, "_acme-challenge.host7.example.com"
    world.zone.shows = lambda at, value: at == name or shows(at, value)
    a_round(world)
    seen = Issuance.objects.get(certificate__domain="host7.example.com")
    assert seen.state == Issuance.State.ISSUED
    assert Issuance.objects.filter(state=Issuance.State.PRESENTED).count() == 9
