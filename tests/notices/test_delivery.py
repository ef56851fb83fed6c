"""A delivery has its own retry table, is given up at its end, and survives a dead worker."""

from contextvars import Context
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, transaction

from certctrl import dispatch
from issuance.beat import sweep
from notices import delivery, mail, posting
from notices.models import Delivery
from tests.fakes.outside import Died

pytestmark = pytest.mark.django_db
OTHERS = datetime(2001, 1, 1, tzinfo=UTC)


def only() -> Delivery:
    return Delivery.objects.get()


def test_it_is_given_up_after_the_last_try_of_the_table(world, receiver, hook, tell):
    receiver.answers = [500] * 20
    began = world.time
    tell()
    world.sweep()
    tried = []
    while only().wake_at:
        tried.append(only().wake_at - world.time)
        world.advance(tried[-1].total_seconds())
        world.sweep()
    seconds = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert tried == [timedelta(seconds=each) for each in seconds]
    assert len(receiver.posted) == 10
    assert (only().state, only().error_what) == ("given_up", "127.0.0.1 answered 500.")
    assert only().given_up_at - began == timedelta(seconds=sum(seconds))
    world.advance(10 * 86400)
    world.sweep()
    assert len(receiver.posted) == 10


@pytest.mark.postgres
@pytest.mark.parametrize("way", ["email", "webhook"])
def test_a_worker_killed_between_send_and_commit_resends_with_the_same_id(
    world, mailbox, receiver, hook, tell, settings, monkeypatch, way
):
    sends = {"email": (mail, "send"), "webhook": (posting, "post")}
    module, name = sends[way]
    real = getattr(module, name)

    def die(row: Delivery) -> None:
        real(row)
        raise Died

    monkeypatch.setattr(module, name, die)
    tell()
    Delivery.objects.exclude(channel=way).delete()
    with pytest.raises(Died):
        world.sweep()
    assert only().holder
    monkeypatch.setattr(module, name, real)
    world.sweep()
    assert len(mailbox.mails) + len(receiver.posted) == 1, "the lease is not over"
    world.advance(settings.LEASE + 1)
    world.sweep()
    if way == "email":
        assert len({each["Message-ID"] for each in mailbox.mails}) == 1
    else:
        assert len({each.id for each in receiver.posted}) == 1
    assert len(mailbox.mails) + len(receiver.posted) == 2
    assert only().state == "sent"


def test_a_worker_past_its_lease_writes_nothing(world, mailbox, tell, settings, monkeypatch):
    real = mail.send

    def slow(row: Delivery) -> None:
        monkeypatch.setattr(mail, "send", real)
        world.advance(settings.LEASE + 1)
        Context().run(delivery.deliver, row.pk)  # another worker
        Delivery.objects.update(sent_at=OTHERS)

    monkeypatch.setattr(mail, "send", slow)
    tell()
    world.sweep()
    assert len(mailbox.mails) == 1
    assert only().sent_at == OTHERS


def test_one_message_is_sent_until_resend_has_passed(world, mailbox, tell, settings):
    tell()
    sweep.sweep.run()
    sweep.sweep.run()
    assert world.sent.count("notices.deliver") == 1
    world.advance(settings.RESEND + 1)
    sweep.sweep.run()
    assert world.sent.count("notices.deliver") == 2


def test_an_owner_has_a_share_on_its_way_and_the_next_owner_too(
    world, mailbox, tell, bob, monkeypatch
):
    monkeypatch.setattr(dispatch, "OF_ONE", 4)
    for number in range(10):
        tell(f"host{number}.example.com")
    for number in range(2):
        tell(f"host{number}.example.com", owner=bob)
    for _ in range(2):
        sweep.sweep.run()
        sent = Delivery.objects.exclude(queued_at=None)
        assert sorted(each.owner.name for each in sent) == ["alice"] * 4 + ["bob"] * 2


@pytest.mark.postgres
@pytest.mark.parametrize(
    "fields",
    [{"wake_at": None}, {"given_up_at": "now"}, {"channel": "webhook"}, {"sent_at": "now"}],
    ids=str,
)
def test_the_table_refuses_a_delivery_that_would_never_end(world, mailbox, tell, fields):
    tell()
    fields = {name: world.time if value == "now" else value for name, value in fields.items()}
    with pytest.raises(IntegrityError), transaction.atomic():
        Delivery.objects.update(**fields)


def test_nobody_is_called_through_a_full_lane(world, mailbox, receiver, hook, tell, fill_lane):
    fill_lane(delivery.lane_of("webhook", hook[0].host))
    fill_lane(delivery.MAIL)
    tell()
    world.sweep()
    assert (receiver.posted, mailbox.subjects) == ([], [])
    waiting = [(row.channel, row.state, row.stumbles) for row in Delivery.objects.all()]
    assert sorted(waiting) == [("email", "waiting", 0), ("webhook", "waiting", 0)]


def test_each_host_of_webhooks_has_a_lane_whose_calls_may_end_early():
    found = [delivery.lane_of("webhook", host) for host in ("a.example", "b.example")]
    assert [(each.key, each.ends_early) for each in found] == [
        ("hook:a.example", True),
        ("hook:b.example", True),
    ]
    assert not delivery.lane_of("email", None).ends_early
