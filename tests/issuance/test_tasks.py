"""A message takes the steps of an attempt. Another message follows only when a step took long."""

import pytest
from celery.app.trace import build_tracer

from certctrl.celery import app
from issuance import tasks, workflow

pytestmark = pytest.mark.django_db


@pytest.fixture
def sent(monkeypatch):
    """What was sent to `present`: the primary keys, with the priorities."""
    sent = []
    monkeypatch.setattr(
        tasks.STEP_TASKS["present"],
        "apply_async",
        lambda args, *, priority, **_: sent.append((*args, priority)),
    )
    return sent


def run_order(issuance_id, priority):
    """Run a message of `order` as a worker does."""
    order = tasks.STEP_TASKS["order"]
    trace = build_tracer(order.name, order, app=app, propagate=True)
    trace("id", (issuance_id,), {}, {"id": "id", "delivery_info": {"priority": priority}})


@pytest.mark.parametrize("priority", [tasks.FIRST, tasks.LATER])
def test_the_next_step_is_sent_with_the_same_priority(sent, monkeypatch, priority):
    present = workflow.STEP_AT["ordered"]
    monkeypatch.setattr(workflow, "walk", lambda step, issuance_id: present)
    run_order(7, priority)
    assert sent == [(7, priority)]


def test_nothing_more_is_sent_when_the_walk_has_ended(sent, monkeypatch):
    monkeypatch.setattr(workflow, "walk", lambda step, issuance_id: None)
    run_order(7, tasks.FIRST)
    assert sent == []
