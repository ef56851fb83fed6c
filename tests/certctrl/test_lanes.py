"""A party that does not answer holds two threads of a worker, and never all."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from certctrl import board, clock, lanes
from certctrl.lanes import Full, Lane, Standing
from certctrl.turns import Trouble, Wait

CA = Lane("ca:ca.test", "the CA ca.test")
API = Lane("api:dns", "the DNS API")
RESOLVERS = Lane("dns", "the resolver", is_judged=False)


def away() -> Trouble:
    """Return a new one, because an exception keeps the lane in which it was raised first."""
    return Trouble("ca_unreachable", "The CA did not answer.")


def refusal() -> Trouble:
    return Trouble("ca_rejected_identifier", "The CA refused.", permanent=True)


class Worker:
    """Threads that are in calls, on a clock that the test moves."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.hanging: list[ExitStack] = []

    def hang(self, lane: Lane, owner: int = 1, threads: int = 1) -> ExitStack:
        """Let threads begin calls that do not end. Close the stack to end them."""
        stack = ExitStack()
        for _ in range(threads):
            token = board.place.set(None)  # another thread has no place yet
            stack.enter_context(lanes.enter(lane, owner))
            board.place.reset(token)
        self.hanging.append(stack)
        return stack

    def call(self, lane: Lane, owner: int = 1, seconds: float = 0.1, error=None) -> None:
        token = board.place.set(None)
        try:
            with lanes.enter(lane, owner):
                self.passed += seconds
                if error:
                    raise error
        except Trouble:
            pass
        finally:
            board.place.reset(token)

    def is_refused(self, lane: Lane, owner: int = 1) -> bool:
        try:
            self.call(lane, owner)
        except Full:
            return True
        return False


@pytest.fixture
def worker(monkeypatch) -> Iterator[Worker]:
    made = Worker()
    monkeypatch.setattr(clock, "monotonic", lambda: made.passed)
    monkeypatch.setattr(board, "board", board.Board(8))
    lanes.forget()
    yield made
    lanes.forget()


def test_a_party_that_is_unknown_has_two_threads(worker):
    worker.hang(CA, threads=2)
    assert worker.is_refused(CA)
    assert not worker.is_refused(API)


def test_a_party_that_answered_well_has_all_threads(worker):
    worker.call(CA)
    worker.hang(CA, threads=7)
    assert not worker.is_refused(CA)


def test_a_party_in_trouble_has_two_threads(worker):
    worker.call(CA)
    worker.call(CA, error=away())
    worker.hang(CA, threads=2)
    assert worker.is_refused(CA)


def test_a_refusal_is_an_answer(worker):
    worker.call(CA, error=away())
    worker.call(CA, error=refusal())
    assert lanes.standing_of(CA.key) == Standing.WELL


def test_the_first_success_ends_the_trouble(worker):
    worker.call(CA, error=away())
    worker.call(CA)
    worker.hang(CA, threads=7)
    assert not worker.is_refused(CA)


def test_a_late_answer_leaves_half_of_the_threads(worker):
    worker.call(API, seconds=19)
    worker.hang(API, threads=4)
    assert worker.is_refused(API)


def test_a_call_that_lasts_counts_before_it_ends(worker):
    worker.call(API)
    worker.hang(API, threads=4)
    assert not worker.is_refused(API)
    worker.passed += 4
    assert worker.is_refused(API)


def test_many_short_calls_in_one_turn_are_not_late(worker):
    token = board.place.set(None)
    with lanes.enter(CA):
        for _ in range(10):
            board.begin_again()
            worker.passed += 1
    board.place.reset(token)
    assert lanes.standing_of(CA.key) == Standing.WELL


def test_parties_that_do_not_answer_leave_a_quarter_of_the_threads(worker):
    worker.call(CA)
    for number in range(3):
        worker.hang(Lane(f"api:{number}", "an API"), owner=number, threads=2)
    worker.passed += 4
    assert worker.is_refused(Lane("api:4", "an API"), owner=4)
    assert not worker.is_refused(CA, owner=4)


def test_an_owner_with_many_dead_parties_has_half_of_the_threads(worker):
    worker.call(CA)
    for number in range(4):
        worker.hang(Lane(f"api:{number}", "an API"), owner=1)
    worker.passed += 4
    assert worker.is_refused(Lane("api:4", "an API"), owner=1)
    assert not worker.is_refused(Lane("api:4", "an API"), owner=2)
    assert not worker.is_refused(CA, owner=1)


def test_silent_servers_of_one_owner_leave_the_resolver_to_others(worker):
    worker.hang(RESOLVERS, owner=1, threads=4)
    worker.passed += 4
    assert worker.is_refused(RESOLVERS, owner=1)
    assert not worker.is_refused(RESOLVERS, owner=2)


def test_calls_to_unknown_parties_count_for_their_owner_at_once(worker):
    for number in range(4):
        worker.hang(Lane(f"api:{number}", "an API"), owner=1)
    with pytest.raises(Full) as caught:
        worker.call(API, owner=1)
    assert caught.value.what == ""
    assert not worker.is_refused(API, owner=2)


def test_slow_calls_to_an_api_leave_the_resolver_to_their_owner(worker):
    worker.call(API)
    worker.hang(API, owner=1, threads=4)
    worker.passed += 4
    assert not worker.is_refused(RESOLVERS, owner=1)


def test_the_caller_judges_the_resolvers(worker):
    worker.call(RESOLVERS, seconds=19, error=away())
    assert lanes.standing_of(RESOLVERS.key) == Standing.UNKNOWN
    lanes.note(RESOLVERS.key, Standing.TROUBLE)
    worker.hang(RESOLVERS, threads=2)
    assert worker.is_refused(RESOLVERS)


def test_a_call_inside_another_counts_for_the_inner_party(worker):
    lanes.note(CA.key, Standing.TROUBLE)
    with lanes.enter(CA), lanes.enter(API):
        worker.hang(CA, threads=2)
        assert worker.is_refused(CA)
        assert [each.lane for each in board.board.calls()].count(board.number_of(API.key)) == 1


def test_a_call_inside_its_own_lane_has_its_thread_already(worker):
    worker.call(CA)
    worker.hang(CA, threads=2)
    with lanes.enter(CA):
        lanes.note(CA.key, Standing.TROUBLE)
        with lanes.enter(CA):
            assert len(board.board.calls()) == 3
        assert len(board.board.calls()) == 3


def test_the_trouble_of_an_inner_party_says_nothing_about_the_outer(worker):
    with pytest.raises(Trouble), lanes.enter(CA), lanes.enter(API):
        raise Trouble("dns_unreachable", "The API did not answer.")
    assert lanes.standing_of(API.key) == Standing.TROUBLE
    assert lanes.standing_of(CA.key) == Standing.UNKNOWN


def test_a_thread_that_leaves_is_free_for_others(worker):
    lanes.note(CA.key, Standing.TROUBLE)
    worker.hang(CA, threads=2).close()
    assert board.board.calls() == []
    assert not worker.is_refused(CA)


def hook(number: int) -> Lane:
    return Lane(f"hook:{number}", "a webhook", ends_early=True)


def seconds_of_a_call(lane: Lane) -> float:
    token = board.place.set(None)
    try:
        with lanes.enter(lane, 1):
            return clock.remaining()
    finally:
        board.place.reset(token)


def test_calls_to_new_webhooks_beyond_half_of_the_threads_end_early(worker):
    for number in range(3):
        worker.hang(hook(number))
    assert seconds_of_a_call(hook(3)) == math.inf
    worker.hang(hook(4))
    assert seconds_of_a_call(hook(5)) == board.DOUBT
    assert seconds_of_a_call(CA) == math.inf


def test_a_webhook_that_answered_lately_has_all_the_time(worker):
    worker.call(hook(9))
    for number in range(4):
        worker.hang(hook(number))
    assert seconds_of_a_call(hook(9)) == math.inf


def test_beside_new_webhooks_in_doubt_others_have_one_thread(worker):
    worker.call(hook(9))
    for number in range(4):
        worker.hang(hook(number))
    worker.passed += board.DOUBT + 0.1
    assert not worker.is_refused(hook(4))
    worker.hang(hook(5))
    assert worker.is_refused(hook(6))
    assert not worker.is_refused(hook(9)), "it answered lately"
    assert not worker.is_refused(CA)


def test_many_new_webhooks_that_answer_have_all_threads(worker):
    for number in range(7):
        worker.hang(hook(number))
    assert not any(worker.is_refused(hook(number)) for number in range(7, 20))


def test_full_is_a_wait_that_says_for_whom(worker):
    lanes.note(CA.key, Standing.TROUBLE)
    worker.hang(CA, threads=2)
    with pytest.raises(Wait, match=r"because the CA ca\.test answers late or not at all") as caught:
        worker.call(CA)
    assert caught.value.imposed


def test_an_unknown_party_is_not_said_to_be_late(worker):
    worker.hang(CA, threads=2)
    with pytest.raises(Full) as caught:
        worker.call(CA)
    assert caught.value.what == ""


def test_a_worker_with_one_thread_is_not_refused(worker, monkeypatch):
    monkeypatch.setattr(board, "board", board.Board(1))
    lanes.note(CA.key, Standing.TROUBLE)
    assert not worker.is_refused(CA)


def test_outside_of_a_worker_nothing_is_refused(worker, monkeypatch):
    monkeypatch.setattr(board, "board", None)
    lanes.note(CA.key, Standing.TROUBLE)
    worker.hang(CA, threads=9)
    assert not worker.is_refused(CA)


def test_other_processes_learn_of_the_trouble_within_a_second(worker):
    worker.call(CA, error=away())
    lanes.forget()  # as in another process
    assert lanes.standing_of(CA.key) == Standing.TROUBLE


def test_without_a_lane_nothing_is_held(worker):
    with lanes.enter(None):
        assert board.board.calls() == []


def test_forked_children_see_each_others_calls():
    shared = board.Board(2)
    is_shown, tell = os.pipe()
    child = os.fork()
    if not child:
        place = shared.take()
        shared.write(place, board.Call(board.number_of("ca:a"), 7, clock.monotonic(), False))
        os.write(tell, b"1")
        os._exit(0)
    os.read(is_shown, 1)
    os.waitpid(child, 0)
    assert [(each.lane, each.owner) for each in shared.calls()] == [(board.number_of("ca:a"), 7)]


def test_a_child_takes_the_place_of_the_one_that_was_killed(monkeypatch):
    shared = board.Board(2)
    monkeypatch.setattr(board, "current_process", lambda: SimpleNamespace(index=1))
    assert [shared.take(), shared.take()] == [1, 1]
    assert len(shared.calls()) == 1
