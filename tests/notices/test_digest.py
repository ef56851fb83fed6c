"""Twenty mails a day, and one daily digest of the others."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from notices import delivery, mail, raising
from notices.models import Delivery, Notice, NoticeSettings
from tests.fakes.outside import Died
from tests.issuance.services.test_races import at_once

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]
HOUR = 3600
FEW = 3  # single mails a day, instead of twenty


@pytest.fixture
def few(alice) -> None:
    NoticeSettings.objects.create(owner=alice, digest_over=FEW)


@pytest.fixture
def crowd(world, mailbox, tell):
    """`crowd(7)` makes 7 notices, and sweeps until each mail and call had its turn."""

    def build(count: int, name: str = "host") -> None:
        for number in range(count):
            tell(f"{name}{number}.example.com")
        for _ in range(2):
            world.sweep()

    return build


def digests(mailbox) -> list[str]:
    return [each.get_content() for each in mailbox.mails if each["Subject"].endswith("certctrl")]


def test_the_twenty_first_waits_for_the_digest(world, mailbox, crowd):
    crowd(43)
    assert len(mailbox.mails) == 20
    assert digests(mailbox) == []
    assert [each.state for each in Delivery.objects.filter(digest__isnull=False)] == ["held"] * 23
    world.advance(HOUR)
    world.sweep()
    world.sweep()
    assert mailbox.subjects[20:] == ["23 notices of certctrl"]
    (text,) = digests(mailbox)
    assert text.count("was renewed") == 23
    assert "host20.example.com was renewed" in text
    assert "host19.example.com" not in text
    assert f"{world.time - timedelta(hours=1):%Y-%m-%d %H:%M} UTC  host20" in text
    assert {each.state for each in Delivery.objects.all()} == {"sent"}


def test_there_is_one_digest_a_day(world, mailbox, few, crowd):
    crowd(FEW + 5)
    world.advance(HOUR)
    world.sweep()
    crowd(5, "later")
    for _ in range(22):
        world.advance(HOUR)
        world.sweep()
    assert len(digests(mailbox)) == 1
    world.advance(2 * HOUR)
    world.sweep()
    assert len(digests(mailbox)) == 2
    assert digests(mailbox)[1].count("was renewed") == 5


def test_a_day_later_mails_are_single_again(world, mailbox, few, crowd):
    crowd(FEW + 1)
    world.advance(25 * HOUR)
    world.sweep()
    crowd(FEW, "next")
    assert len(mailbox.mails) == FEW + 1 + FEW


def test_each_owner_says_how_many_are_too_many(world, mailbox, crowd, alice):
    NoticeSettings.objects.create(owner=alice, digest_over=2)
    crowd(3)
    world.advance(HOUR)
    world.sweep()
    assert mailbox.subjects[2:] == ["1 notice of certctrl"]


def test_webhooks_are_never_held(world, mailbox, crowd, hook, receiver, alice):
    NoticeSettings.objects.create(owner=alice, digest_over=0)
    crowd(3)
    assert (len(receiver.posted), len(mailbox.mails)) == (3, 0)


def test_the_mails_of_one_owner_are_not_anothers(world, mailbox, few, crowd, tell, bob):
    crowd(FEW)
    tell("bob.example.net", owner=bob)
    world.sweep()
    assert mailbox.recipients[-1] == "bob@example.net"


def test_a_mail_that_is_tried_again_does_not_count_twice(world, mailbox, few, crowd):
    mailbox.answers = ["451 later"] * FEW
    crowd(FEW)
    world.advance(5)
    for _ in range(FEW):
        world.sweep()
    assert len(mailbox.mails) == FEW
    assert digests(mailbox) == []


def test_a_digest_that_failed_is_tried_again_with_the_same_notices(
    world, mailbox, few, crowd, tell
):
    crowd(FEW + 2)
    mailbox.answers = ["451 later"]
    world.advance(HOUR)
    world.sweep()
    tell("after.example.com")
    world.sweep()
    world.advance(5)
    world.sweep()
    assert mailbox.subjects[-1] == "2 notices of certctrl"
    assert Delivery.objects.get(notice__subject__startswith="after").state == "held"
    assert Delivery.objects.filter(notice=None, begun_at=None).count() == 1


def test_a_digest_whose_worker_died_is_sent_again_under_the_same_id(
    world, mailbox, few, crowd, monkeypatch, settings
):
    crowd(FEW + 2)
    real = mail.send

    def die(row: Delivery) -> None:
        real(row)
        raise Died

    monkeypatch.setattr(mail, "send", die)
    world.advance(HOUR)
    with pytest.raises(Died):
        world.sweep()
    monkeypatch.setattr(mail, "send", real)
    world.advance(settings.LEASE + 1)
    world.sweep()
    first, second = [each for each in mailbox.mails if each["Subject"] == "2 notices of certctrl"]
    assert first["Message-ID"] == second["Message-ID"]
    assert first.get_content() == second.get_content()
    assert {each.state for each in Delivery.objects.all()} == {"sent"}


def test_when_a_digest_is_given_up_so_is_what_it_held(world, mailbox, few, crowd):
    crowd(FEW + 2)
    NoticeSettings.objects.update(email_on=False)
    world.advance(HOUR)
    world.sweep()
    assert [each.state for each in Delivery.objects.filter(digest__isnull=False)] == [
        "given_up"
    ] * 2


def test_two_digests_of_an_owner_never_collect_at_once(world, mailbox, few, crowd, alice):
    crowd(FEW + 1)
    with pytest.raises(IntegrityError), transaction.atomic():
        Delivery.objects.create(owner=alice, channel="email", wake_at=world.time)


@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_concurrent_workers_send_twenty_and_hold_the_rest_in_one_digest(world, mailbox, tell):
    for number in range(30):
        tell(f"host{number}.example.com")
    acts = [
        lambda pk=pk: delivery.deliver(pk) for pk in Delivery.objects.values_list("pk", flat=True)
    ]
    assert {str(each) for each in at_once(*acts)} == {"None"}
    assert len(mailbox.mails) == 20
    digest = Delivery.objects.get(notice=None)
    assert digest.held.count() == 10
    world.advance(HOUR)
    results = at_once(*[lambda: delivery.deliver(digest.pk)] * 8)
    assert [str(each) for each in results].count("None") == 1
    assert mailbox.subjects[20:] == ["10 notices of certctrl"]
    connection.close()


def test_urgent_notices_do_not_wait_behind_good_news(world, mailbox, few, crowd, tell):
    crowd(FEW + 1)
    tell("shop.example.com", kind=Notice.Kind.EXPIRING)
    world.sweep()
    assert len(mailbox.mails) == FEW + 1
    assert Delivery.objects.get(notice__kind=Notice.Kind.EXPIRING).sent_at == world.time


def test_many_urgent_notices_are_sent_in_a_digest_too(world, mailbox, few, tell):
    for number in range(FEW + 3):
        tell(f"host{number}.example.com", kind=Notice.Kind.EXPIRING)
    for _ in range(FEW + 3):
        world.sweep()
    assert len(mailbox.mails) == FEW
    assert Delivery.objects.filter(digest__isnull=False).count() == 3


def test_a_test_goes_out_however_many_mails_there_were(world, mailbox, few, crowd, alice):
    crowd(FEW)
    test = raising.raise_test(alice)
    world.sweep()
    assert test.deliveries.get().sent_at == world.time
