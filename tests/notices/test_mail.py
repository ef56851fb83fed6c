"""Mails at a real mail server."""

import json
import smtplib
import socket

import pytest
import responses
from django.core import mail as django_mail

from certctrl.sentences import sentence as _
from notices import raising
from notices.models import Delivery, NoticeSettings

pytestmark = pytest.mark.django_db
REFUSED = "The CA refused the order for %(domain)s."


def only() -> Delivery:
    return Delivery.objects.get()


def test_a_mail_says_what_happened_and_comes_from_the_operators_address(world, mailbox, tell):
    tell()
    world.sweep()
    (mail,) = mailbox.mails
    assert (mail["From"], mail["To"], mail["Subject"]) == (
        "certctrl <notices@example.com>",
        "alice@example.org",
        "example.com was renewed",
    )
    assert mail["Message-ID"] == f"<{only().uuid}@example.com>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().startswith("All is well with example.com.")
    assert (mailbox.senders, mailbox.recipients) == (["notices@example.com"], ["alice@example.org"])
    assert (only().state, only().sent_at, only().wake_at) == ("sent", world.time, None)


def test_a_mail_goes_to_the_address_of_the_settings(world, mailbox, tell, alice):
    NoticeSettings.objects.create(
        owner=alice, email="ops@example.net", confirmed_email="ops@example.net"
    )
    tell()
    world.sweep()
    assert mailbox.recipients == ["ops@example.net"]


@pytest.fixture
def refusal(alice):
    """Alice has a notice about a refusal, in the words of a CA."""
    said = "CAA of example.com forbids it, see https://ca.example/caa"
    what = _("%(what)s The CA says: %(said)s", what=_(REFUSED, domain="example.com"), said=said)
    subject = _("%(domain)s could not be renewed", domain="example.com")
    body = _(
        "There is no certificate for %(domain)s, and it is not retried automatically. "
        "%(what)s\n\nFix this, then start another attempt (renew).",
        domain="example.com",
        what=what,
    )
    raising.raise_once(alice, "renewal_failed", "key", subject, body, {"what": what})


def test_a_mail_is_in_the_language_of_its_owner(world, mailbox, refusal, alice):
    alice.language = "zh-hans"
    alice.save()
    world.sweep()
    (mail,) = mailbox.mails
    assert mail["Subject"] == "example.com 未能续期"
    text = " ".join(mail.get_content().split())
    assert text.startswith("example.com 没有证书")
    assert "> CA 拒绝了 example.com 的订单。CA 的答复" in text
    assert "CAA of example.com forbids it, see" in text
    assert "https://" not in text
    assert "请先解决问题" in text
    assert "通知设置" in text


def test_a_mail_is_english_until_a_person_chooses_otherwise(world, mailbox, refusal):
    world.sweep()
    (mail,) = mailbox.mails
    assert mail["Subject"] == "example.com could not be renewed"
    text = " ".join(mail.get_content().split())
    assert "> The CA refused the order for example.com. The CA says: CAA of" in text
    assert "https://" not in text


def test_a_webhook_gets_english_whatever_the_owners_language(world, hook, refusal, receiver, alice):
    alice.language = "zh-hans"
    alice.save()
    world.sweep()
    (posted,) = receiver.posted
    data = json.loads(posted.body)["data"]
    assert data["subject"] == "example.com could not be renewed"
    assert data["what"].startswith("The CA refused the order for example.com.")


def test_a_mail_server_that_is_away_is_tried_again_by_the_table(world, mailbox, tell):
    mailbox.answers = ["451 try later"]
    tell()
    world.sweep()
    assert (only().state, only().stumbles) == ("waiting", 1)
    assert only().error_what == "The mail server answered 451: try later"
    assert (only().wake_at - world.time).total_seconds() == 5
    world.advance(5)
    world.sweep()
    assert (len(mailbox.mails), only().state, only().error_what) == (1, "sent", "")


def test_a_port_without_a_server_is_a_failure_like_others(world, mailbox, tell, settings):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        settings.EMAIL_PORT = unused.getsockname()[1]
    tell()
    world.sweep()
    what = "The mail server could not be reached (ConnectionRefusedError)."
    assert only().error_what == f"{what} The operator must check EMAIL_HOST and EMAIL_PORT."


def test_a_mail_server_that_says_nothing_costs_no_more_than_the_time_out(
    world, mailbox, tell, settings
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.EMAIL_PORT = silent.getsockname()[1]
        settings.EMAIL_TIMEOUT = 0.1
        tell()
        world.sweep()
    assert only().error_what == (
        "The mail server closed the connection, or did not answer in time. "
        "The operator must check EMAIL_HOST and EMAIL_PORT."
    )


def test_a_refused_address_is_reported_in_the_servers_words(world, mailbox, tell):
    mailbox.says = "550 no such user"
    tell()
    world.sweep()
    assert only().error_what == "The mail server refused the address (550): no such user"


def test_a_wrong_password_is_reported_without_showing_it(world, mailbox, tell, settings, caplog):
    settings.EMAIL_HOST_USER = "me"
    settings.EMAIL_HOST_PASSWORD = "hunter2-wrong"
    tell()
    world.sweep()
    assert set(mailbox.logins) == {b"hunter2-wrong"}
    assert only().error_what.startswith("The mail server refused the login (535)")
    assert "hunter2" not in caplog.text + only().error_what


def test_the_right_password_is_taken(world, mailbox, tell, settings):
    settings.EMAIL_HOST_USER = "me"
    settings.EMAIL_HOST_PASSWORD = "right"
    tell()
    world.sweep()
    assert len(mailbox.mails) == 1


def test_a_mail_that_was_accepted_is_not_sent_again_for_a_bad_good_bye(
    world, mailbox, tell, monkeypatch
):
    def quit_badly(connection: smtplib.SMTP) -> None:
        connection.close()
        raise smtplib.SMTPResponseException(421, b"too busy to say good-bye")

    monkeypatch.setattr(smtplib.SMTP, "quit", quit_badly)
    tell()
    world.sweep()
    assert (len(mailbox.mails), only().state) == (1, "sent")


def test_pending_mails_are_given_up_when_mails_are_turned_off(world, mailbox, tell, alice):
    tell()
    NoticeSettings.objects.create(owner=alice, email_on=False)
    world.sweep()
    assert (mailbox.mails, only().state, only().error_what) == (
        [],
        "given_up",
        "Mails are turned off. Turn them on in your notice settings.",
    )


# --- other backends ---


def test_any_backend_of_django_may_be_named(world, mailbox, tell, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    tell()
    world.sweep()
    assert [each.subject for each in django_mail.outbox] == ["example.com was renewed"]
    assert mailbox.mails == []


@pytest.fixture
def postmark(mailbox, settings):
    settings.EMAIL_BACKEND = "anymail.backends.postmark.EmailBackend"
    settings.ANYMAIL = {
        "POSTMARK_SERVER_TOKEN": "token-of-postmark",
        "POSTMARK_API_URL": "https://mail.example.com/",
    }


@responses.activate
def test_a_mail_service_of_anymail_is_called_through_the_guarded_session(world, postmark, tell):
    accepted = {"ErrorCode": 0, "Message": "OK", "MessageID": "1", "To": "alice@example.org"}
    responses.post("https://mail.example.com/email", json=accepted)
    tell()
    world.sweep()
    (call,) = responses.calls
    assert only().state == "sent"
    assert call.request.headers["User-Agent"].startswith("certctrl/")
    assert call.request.headers["X-Postmark-Server-Token"] == "token-of-postmark"


@responses.activate
def test_a_refusal_of_the_mail_service_is_reported_without_its_token(world, postmark, tell, caplog):
    responses.post(
        "https://mail.example.com/email", status=401, json={"Message": "token-of-postmark is wrong"}
    )
    tell()
    world.sweep()
    assert (
        only().error_what
        == "The mail service refused the mail (401). The operator must check ANYMAIL."
    )
    assert "token-of-postmark" not in caplog.text


def test_a_mail_service_at_a_private_address_is_not_called(world, postmark, tell, settings):
    settings.ANYMAIL |= {"POSTMARK_API_URL": "https://10.1.2.3/"}
    tell()
    world.sweep()
    assert only().error_what.startswith(
        "The mail service could not be reached. 10.1.2.3 is not a public address"
    )
