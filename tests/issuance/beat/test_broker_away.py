"""A request succeeds without Redis, because the row is the queue and the sweep sends it later."""

import pytest

from certctrl import dispatch
from certctrl.celery import app
from issuance import tasks


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch):
    monkeypatch.setattr(app.conf, "broker_url", "redis://127.0.0.1:1/0", raising=False)
    monkeypatch.setattr(app, "_pool", None)
    monkeypatch.setattr(app.amqp, "_producer_pool", None)


def test_a_chain_that_cannot_be_sent_is_no_error():
    tasks.start(1)


def test_a_message_that_cannot_be_sent_is_reported_to_the_caller():
    assert dispatch.nudge(tasks.look) is False
