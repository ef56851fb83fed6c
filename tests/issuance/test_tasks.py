"""A message carries the steps of an attempt. The next link is sent when a step took long."""

from unittest.mock import Mock

import pytest
from celery.app.trace import build_tracer

from certctrl import dispatch
from certctrl.celery import app
from dnsproviders.base import ProviderError
from dnsproviders.models import TxtRecord
from issuance import tasks, workflow
from issuance.challenges.base import LEFT_TO_WORKER
from tests.fakes.zone import FakeProvider

pytestmark = pytest.mark.django_db
AFTER_PRESENT = [f"issuance.{name}" for name in ("propagate", "validate", "finalize", "download")]


@pytest.fixture
def sent(monkeypatch):
    """What was sent to `present`: the primary keys, the priorities, and the links that follow."""
    sent = []

    def send(args, kwargs=None, *, priority, chain, **options):
        sent.append((*args, priority, [each["task"] for each in reversed(chain)]))

    monkeypatch.setattr(tasks.STEP_TASKS["present"], "apply_async", send)
    return sent


def run_order(issuance_id, priority):
    """Run a message of `order` as a worker does."""
    order = tasks.STEP_TASKS["order"]
    trace = build_tracer(order.name, order, app=app, propagate=True)
    trace("id", (issuance_id,), {}, {"id": "id", "delivery_info": {"priority": priority}})


@pytest.mark.parametrize("priority", [dispatch.FIRST, dispatch.LATER])
def test_the_next_step_is_sent_with_the_same_priority(sent, monkeypatch, priority):
    present = workflow.STEP_AT["ordered"]
    monkeypatch.setattr(workflow, "walk", lambda *_: present)
    run_order(7, priority)
    assert sent == [(7, priority, AFTER_PRESENT)]


def test_the_steps_of_an_attempt_are_sent_as_one_chain(sent):
    assert tasks.start(7, "ordered", priority=dispatch.LATER)
    assert sent == [(7, dispatch.LATER, AFTER_PRESENT)]


def test_nothing_more_is_sent_when_the_walk_has_ended(sent, monkeypatch):
    monkeypatch.setattr(workflow, "walk", lambda *_: None)
    run_order(7, dispatch.FIRST)
    assert sent == []


# --- the records that an attempt leaves ---


def test_the_worker_of_an_attempt_removes_its_record(world, account, credential):
    _, attempt = world.create(account, credential, "www.example.com")
    assert tasks.serve(workflow.STEPS[0], attempt.pk) is None
    record = TxtRecord.objects.get()
    assert record.cleaned_at
    assert world.zone.txt() == []


def test_a_record_that_could_not_be_removed_is_left_to_the_sweep(
    world, account, credential, monkeypatch
):
    _, attempt = world.create(account, credential, "www.example.com")
    trouble = ProviderError("dns_unreachable", "The DNS API is away.")
    with monkeypatch.context() as patch:
        patch.setattr(FakeProvider, "cleanup", Mock(side_effect=trouble))
        tasks.serve(workflow.STEPS[0], attempt.pk)
    attempt.refresh_from_db()
    assert (attempt.state, TxtRecord.objects.get().cleaned_at) == ("issued", None)
    world.advance(60)
    world.sweep()
    assert TxtRecord.objects.get().cleaned_at


def test_an_attempt_that_still_needs_its_record_keeps_it(world, account, credential):
    world.ca.validation_reads = 3
    _, attempt = world.create(account, credential, "www.example.com")
    tasks.serve(workflow.STEPS[0], attempt.pk)
    attempt.refresh_from_db()
    assert attempt.state == "propagated"
    assert TxtRecord.objects.get().cleaned_at is None


def test_a_worker_that_stops_leaves_the_record_to_the_sweep(
    world, account, credential, monkeypatch
):
    _, attempt = world.create(account, credential, "www.example.com")
    monkeypatch.setattr(tasks, "stopping", Mock(is_set=lambda: True))
    tasks.serve(workflow.STEPS[0], attempt.pk)
    assert len(world.zone.txt()) == 1
    world.advance(60)
    world.sweep()
    assert world.zone.txt() == []


def test_the_sweep_leaves_the_record_to_the_worker_for_a_second(
    world, account, credential, monkeypatch
):
    _, attempt = world.create(account, credential, "www.example.com")
    monkeypatch.setattr(tasks, "stopping", Mock(is_set=lambda: True))
    tasks.serve(workflow.STEPS[0], attempt.pk)
    world.sweep()
    assert len(world.zone.txt()) == 1
    world.advance(LEFT_TO_WORKER.total_seconds())
    world.sweep()
    assert world.zone.txt() == []
