"""A message runs the steps of its chain only up to the state of the row."""

import pytest
from celery import signature
from celery.app.trace import build_tracer

from certctrl.celery import app
from issuance import tasks, workflow

pytestmark = pytest.mark.django_db


@pytest.fixture
def sent(monkeypatch):
    """The primary keys that `present` was sent for."""
    sent = []
    monkeypatch.setattr(
        tasks.STEP_TASKS["present"], "apply_async", lambda args, *_, **__: sent.append(args[0])
    )
    return sent


def run_first_link(issuance_id):
    """Run the first message of a chain as a worker does. The second link is `present`."""
    order = tasks.STEP_TASKS["order"]
    rest = [signature("issuance.present", args=(issuance_id,), immutable=True, app=app)]
    trace = build_tracer(order.name, order, app=app, propagate=True)
    trace("id", (issuance_id,), {}, {"id": "id", "chain": rest})


def test_the_next_link_is_sent_when_the_step_is_through(sent, monkeypatch):
    monkeypatch.setattr(workflow, "take", lambda step, issuance_id: True)
    run_first_link(7)
    assert sent == [7]


def test_nothing_more_is_sent_when_the_step_must_wait(sent, monkeypatch):
    monkeypatch.setattr(workflow, "take", lambda step, issuance_id: False)
    run_first_link(7)
    assert sent == []
