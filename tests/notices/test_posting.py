"""Webhooks at a receiver on loopback, read by the public library."""

import json

import pytest
import standardwebhooks

from certctrl import outgoing
from certctrl.log import mask
from keystore import envelope
from notices import webhooks
from notices.models import Delivery, Notice, Webhook
from tests.fakes.receiver import Receiver

pytestmark = pytest.mark.django_db
Kind = Notice.Kind


def only() -> Delivery:
    return Delivery.objects.get()


def test_the_public_library_verifies_what_a_receiver_gets(world, receiver, hook, tell):
    _, secret = hook
    tell()
    world.sweep()
    (posted,) = receiver.posted
    told = posted.verified(secret)
    notice = Notice.objects.get()
    assert told == {
        "type": "certificate.renewed",
        "timestamp": f"{world.time:%Y-%m-%dT%H:%M:%SZ}",
        "data": {
            "notice_id": notice.pk,
            "subject": "example.com was renewed",
            "text": "All is well with example.com.",
            "domain": "example.com",
            "certificate_id": 7,
        },
    }
    assert posted.headers["content-type"] == "application/json"
    assert posted.path == "/hook"
    assert posted.id == f"msg_{only().uuid.hex}"
    assert only().state == "sent"


def test_another_secret_or_another_body_does_not_verify(world, receiver, hook, tell):
    _, secret = hook
    tell()
    world.sweep()
    (posted,) = receiver.posted
    other = standardwebhooks.Webhook("whsec_" + "A" * 32)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        other.verify(posted.body, posted.headers)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(posted.body + b" ", posted.headers)


@pytest.mark.parametrize("kind", sorted(set(Kind.values) - {Kind.CONFIRM_ADDRESS}))
def test_every_kind_has_a_type(world, receiver, hook, tell, kind):
    tell(kind=kind)
    world.sweep()
    assert json.loads(receiver.posted[0].body)["type"].split(".")[0] in (
        "certificate",
        "ca",
        "record",
        "credential",
        "audit",
        "test",
    )


def test_a_secret_has_as_many_bytes_as_the_format_asks_for(hook):
    webhook, secret = hook
    assert secret.startswith("whsec_")
    assert 24 <= len(standardwebhooks.Webhook(secret)._whsecret) <= 64
    assert envelope.unseal(webhook.secret).decode() == secret


@pytest.mark.postgres
def test_a_receiver_that_was_down_gets_it_once_when_it_is_up(world, receiver, hook, tell):
    _, secret = hook
    receiver.answers = [503, 500]
    tell()
    world.sweep()
    assert (only().stumbles, only().error_what) == (1, "127.0.0.1 answered 503.")
    assert Webhook.objects.get().last_error == "127.0.0.1 answered 503."
    world.advance(4)
    world.sweep()
    assert len(receiver.posted) == 1, "too early"
    world.advance(1)
    world.sweep()
    world.advance(300)
    world.sweep()
    world.advance(86400)
    world.sweep()
    assert len(receiver.posted) == 3
    assert (
        len({each.id for each in receiver.posted})
        == len({each.body for each in receiver.posted})
        == 1
    )
    assert len({each.headers["webhook-timestamp"] for each in receiver.posted}) == 3
    assert (only().state, Webhook.objects.get().last_error) == ("sent", "")
    receiver.posted[0].verified(secret)


def test_a_port_without_a_server_is_retried(world, alice, tell):
    with Receiver() as gone:
        webhooks.create_webhook(alice, {"url": gone.url})
    tell()
    world.sweep()
    assert (only().state, only().error_what) == (
        "waiting",
        outgoing.UNTOLD % {"host": "127.0.0.1"},
    )


def test_staff_read_why_the_port_did_not_answer(world, alice, tell):
    alice.is_staff = True
    alice.save()
    with Receiver() as gone:
        webhooks.create_webhook(alice, {"url": gone.url})
    tell()
    world.sweep()
    assert (
        only().error_what
        == "127.0.0.1 could not be reached (Connection refused). Check its name and port."
    )


def test_a_receiver_may_ask_for_a_pause(world, receiver, hook, tell):
    receiver.answers = [429, 429]
    receiver.headers = {"Retry-After": "900"}
    tell()
    world.sweep()
    assert (only().wake_at - world.time).total_seconds() == 900
    receiver.headers = {"Retry-After": "600000"}
    world.advance(900)
    world.sweep()
    assert (only().wake_at - world.time).total_seconds() == 86400


def test_410_disables_the_webhook_and_what_waits_for_it_is_given_up(world, receiver, hook, tell):
    receiver.answers = [503, 410]
    tell("first.example.com")
    world.sweep()
    tell("second.example.com")
    world.sweep()
    webhook = Webhook.objects.get()
    assert webhook.disabled_at == world.time
    assert webhook.last_error.startswith("127.0.0.1 answered 410, so it wants no more notices")
    world.advance(5)
    world.sweep()
    assert len(receiver.posted) == 2
    assert [each.state for each in Delivery.objects.all()] == ["given_up", "given_up"]
    tell("third.example.com")
    assert Delivery.objects.count() == 2


def test_a_redirect_is_not_followed(world, hook, receiver, tell):
    with Receiver() as elsewhere:
        receiver.answers = [302]
        receiver.headers = {"Location": elsewhere.url}
        tell()
        world.sweep()
        assert elsewhere.posted == []
    assert only().state == "waiting"
    assert only().error_what == (
        "127.0.0.1 answered 302. Redirects are not followed. Give the final address."
    )


def test_a_private_address_is_not_called_unless_the_setting_names_it(
    world, receiver, hook, tell, settings
):
    settings.ALLOW_PRIVATE = []
    tell()
    world.sweep()
    assert receiver.posted == []
    assert "127.0.0.1 is not a public address" in only().error_what
    settings.ALLOW_PRIVATE = ["127.0.0.1"]
    world.advance(5)
    world.sweep()
    assert len(receiver.posted) == 1


def test_a_removed_webhook_gets_no_pending_delivery(world, receiver, hook, tell):
    webhook, _ = hook
    tell()
    webhooks.retire_webhook(webhook)
    world.sweep()
    assert receiver.posted == []
    assert (only().state, only().error_what) == ("given_up", "The webhook was disabled or deleted.")


def test_after_a_rotation_the_new_secret_signs(world, receiver, hook, tell):
    webhook, old = hook
    new = webhooks.rotate_secret(webhook)
    tell()
    world.sweep()
    receiver.posted[0].verified(new)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        receiver.posted[0].verified(old)
    assert envelope.Envelope.objects.filter(purpose="webhook_secret").count() == 1


def test_a_secret_that_got_into_a_line_of_the_log_is_masked(hook):
    _, secret = hook
    assert mask(f"posted with {secret}") == "posted with whsec_***"


def test_the_secret_is_in_no_log_line_and_in_no_error(
    world, receiver, hook, tell, caplog, monkeypatch
):
    caplog.set_level("DEBUG")
    _, secret = hook
    receiver.answers = [500]
    tell()
    world.sweep()
    monkeypatch.setattr(standardwebhooks.Webhook, "sign", lambda self, **told: 1 / 0)
    world.advance(5)
    world.sweep()
    assert only().error_what == "Internal error; the server log has the details."
    told = caplog.text + only().error_what + Webhook.objects.get().last_error
    assert secret.removeprefix("whsec_") not in told
    assert "notice.failed" in told
