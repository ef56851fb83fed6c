"""An event makes one notice, with a delivery for each channel of its owner."""

import pytest
from django.db import transaction

from notices import raising, webhooks
from notices.models import Delivery, Notice, NoticeSettings
from tests.issuance.services.test_races import at_once

pytestmark = pytest.mark.django_db
Kind = Notice.Kind


def ways() -> list[str]:
    return sorted(Delivery.objects.values_list("channel", flat=True))


@pytest.mark.postgres
def test_an_event_that_is_raised_twenty_times_makes_one_mail(world, mailbox, tell):
    assert [tell() for _ in range(20)] == [True] + [False] * 19
    world.sweep()
    world.advance(3600)
    world.sweep()
    assert mailbox.subjects == ["example.com was renewed"]


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_an_event_that_threads_raise_at_once_makes_one_mail(world, mailbox, tell):
    assert sorted(at_once(*[tell] * 8)) == [False] * 7 + [True]
    world.sweep()
    assert len(mailbox.mails) == 1


@pytest.mark.postgres
def test_the_same_key_of_another_owner_is_another_event(mailbox, tell, bob):
    assert tell()
    assert tell(owner=bob)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_notice_of_a_transaction_rolled_back_is_never_sent(mailbox, tell):
    def fail() -> None:
        with transaction.atomic():
            assert tell()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert not Notice.objects.exists()
    assert not Delivery.objects.exists()
    assert tell()


def test_a_notice_goes_by_mail_and_to_each_webhook(mailbox, hook, alice, tell):
    webhooks.create_webhook(alice, {"url": "https://hooks.example.com/"})
    tell()
    assert ways() == ["email", "webhook", "webhook"]


def test_without_a_mail_server_no_mail_is_made(hook, tell, settings):
    assert settings.MAIL_IS_SET_UP is False
    tell()
    assert ways() == ["webhook"]
    assert Notice.objects.count() == 1


def test_an_owner_who_turned_mails_off_gets_none(mailbox, hook, alice, tell):
    NoticeSettings.objects.create(owner=alice, email_on=False)
    tell()
    assert ways() == ["webhook"]


def test_a_muted_kind_is_kept_and_not_sent(mailbox, hook, alice, tell):
    NoticeSettings.objects.create(owner=alice, muted=["renewed"])
    tell()
    assert ways() == []
    tell(kind=Kind.EXPIRING)
    assert ways() == ["email", "webhook"]
    assert Notice.objects.count() == 2


def test_a_webhook_gets_the_kinds_that_it_names(alice, tell, receiver):
    webhooks.create_webhook(alice, {"url": receiver.url, "kinds": ["expiring"]})
    tell()
    assert ways() == []
    tell(kind=Kind.EXPIRING)
    assert ways() == ["webhook"]


@pytest.mark.parametrize("gone", ["disabled_at", "retired_at"])
def test_a_webhook_that_is_disabled_or_removed_gets_none(hook, tell, world, gone):
    webhook, _ = hook
    setattr(webhook, gone, world.time)
    webhook.save()
    tell()
    assert ways() == []


def test_a_test_goes_everywhere_whatever_is_muted(mailbox, alice, receiver):
    NoticeSettings.objects.create(owner=alice, muted=Kind.values)
    webhooks.create_webhook(alice, {"url": receiver.url, "kinds": ["expiring"]})
    raising.raise_test(alice)
    raising.raise_test(alice)
    assert ways() == ["email", "email", "webhook", "webhook"]


def test_a_subject_is_one_line_that_fits(alice):
    raising.raise_once(alice, Kind.RENEWED, "k", "a\r\nBcc: everybody\n" + "x" * 400, "body")
    subject = Notice.objects.get().subject
    assert subject.startswith("a Bcc: everybody xxx")
    assert len(subject) == 300
