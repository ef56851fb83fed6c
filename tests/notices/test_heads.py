"""Signed heads of the audit log are mailed and posted to the receivers."""

import json
from datetime import timedelta

import pytest
from django.core import mail
from django.utils import timezone

from accounts import audit, chain
from keystore import heads
from notices import delivery, posting
from notices.heads import send
from notices.models import Delivery, Notice

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def now(monkeypatch):
    """The time as a list of one. The tests move it."""
    now = [timezone.now().replace(hour=12)]
    monkeypatch.setattr(timezone, "now", lambda: now[0])
    return now


@pytest.fixture(autouse=True)
def log(alice, settings, now):
    settings.AUDIT_HEADS_TO = ["Alice@example.org"]
    settings.AUDIT_HEADS_EVERY = 86400.0
    settings.MAIL_IS_SET_UP, settings.NOTICE_FROM = True, "certctrl@example.org"
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    audit.record(alice, "alice", "key.opened", "certificate:7")
    chain.seal()


def test_a_head_is_sent_once_in_each_interval(now):
    send()
    now[0] += timedelta(hours=1)
    send()
    assert Notice.objects.count() == 1
    now[0] += timedelta(days=1)
    send()
    assert Notice.objects.count() == 2


def test_a_head_is_sent_even_if_nothing_was_added(now):
    send()
    now[0] += timedelta(days=1)
    send()
    first, second = (each.data["head"] for each in Notice.objects.order_by("pk"))
    assert (first["hash"], first["at"] == second["at"]) == (second["hash"], False)


def test_a_mail_carries_the_head():
    send()
    delivery.deliver(Delivery.objects.get().pk)
    (sent,) = mail.outbox
    head = heads.find(sent.message().as_string())
    assert heads.link_of(head) == chain.head()
    assert heads.is_genuine(head)
    assert head["hash"] in sent.subject


def test_a_post_carries_the_head():
    send()
    body = posting.payload(Delivery.objects.get()).decode()
    assert json.loads(body)["type"] == "audit.head"
    assert heads.is_genuine(heads.find(body))


def test_each_receiver_gets_a_head(bob, settings):
    settings.AUDIT_HEADS_TO = ["alice@example.org", "nobody@example.org", "bob@example.net"]
    send()
    assert {each.owner.email for each in Notice.objects.all()} == {
        "alice@example.org",
        "bob@example.net",
    }
