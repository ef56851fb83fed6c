"""Notices, their settings and webhooks over HTTP."""

import pytest
import standardwebhooks

from certctrl.errors import Conflict
from keystore import envelope
from keystore.models import Envelope
from notices import webhooks
from notices.api import NoticeTestThrottle
from notices.models import Delivery, Notice, NoticeSettings, Webhook
from notices.webhooks import MOST
from tests.issuance.api.calling import Caller, refused, rows

pytestmark = pytest.mark.django_db
HOOK = {"url": "https://hooks.example.com/T0ken?key=sesame"}
Kind = Notice.Kind


@pytest.fixture
def api(client_of, alice) -> Caller:
    return Caller(client_of(alice))


@pytest.fixture
def bobs(client_of, bob) -> Caller:
    return Caller(client_of(bob))


# --- notices ---


def test_notices_are_listed_newest_first_with_their_deliveries(api, world, mailbox, tell):
    tell("first.example.com")
    world.sweep()
    tell("second.example.com")
    second, first = api.get("notices").data_member
    assert first == {
        "id": Notice.objects.order_by("pk").first().pk,
        "kind": "renewed",
        "subject": "first.example.com was renewed",
        "body": "All is well with first.example.com.",
        "data": {"domain": "first.example.com", "certificate_id": 7},
        "raised_at": int(world.time.timestamp()),
        "deliveries": [
            {
                "channel": "email",
                "webhook_id": None,
                "state": "sent",
                "next_try_at": None,
                "sent_at": int(world.time.timestamp()),
                "error_what": "",
            }
        ],
    }
    assert second["deliveries"][0]["state"] == "waiting"
    assert api.get(f"notices/{second['id']}").data_member == second


def test_a_list_takes_as_many_queries_for_ten_notices_as_for_one(
    api, mailbox, hook, tell, django_assert_max_num_queries
):
    for number in range(10):
        tell(f"host{number}.example.com")
    with django_assert_max_num_queries(6):
        assert len(api.get("notices").data_member) == 10


def test_notices_of_others_are_not_there(bobs, mailbox, tell):
    tell()
    assert bobs.get("notices").data_member == []
    refused(bobs.get(f"notices/{Notice.objects.get().pk}"), 404)


# --- settings ---

OWN = {"email_confirmed": True, "mails_go_to": "alice@example.org", "note": ""}
DEFAULTS = {"email_on": True, "email": "", "muted": [], "digest_over": 20} | OWN
ASKED = {
    "email_confirmed": False,
    "note": "ops@example.net is not confirmed, because this server sends no mails.",
}


def test_a_user_without_settings_has_the_defaults_and_no_row(api):
    assert api.get("notice-settings").data_member == DEFAULTS
    assert not NoticeSettings.objects.exists()


def test_given_fields_change_and_omitted_fields_stay(api, alice):
    wanted = {"email": "ops@example.net", "muted": ["renewed", "renewed"], "digest_over": 5}
    assert api.put("notice-settings", wanted).data_member == DEFAULTS | wanted | ASKED | {
        "muted": ["renewed"]
    }
    assert api.put("notice-settings", {"email_on": False}).data_member["email"] == "ops@example.net"
    shown = api.get("notice-settings").data_member
    assert shown == DEFAULTS | wanted | ASKED | {"muted": ["renewed"], "email_on": False}
    assert api.put("notice-settings", shown).data_member == shown
    assert NoticeSettings.objects.get().owner == alice


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "nobody"}, "email"),
        ({"email": "a@example.com\nBcc: b@example.com"}, "email"),
        ({"muted": ["weather"]}, "muted[0]"),
        ({"muted": "renewed"}, "muted"),
        ({"digest_over": -1}, "digest_over"),
        ({"digest_over": None}, "digest_over"),
        ({"email_on": "perhaps"}, "email_on"),
    ],
)
def test_wrong_settings_are_refused_by_name(api, body, field):
    before = rows()
    refused(api.put("notice-settings", body), 400, field)
    assert rows() == before
    assert api.get("notice-settings").data_member == DEFAULTS


# --- test button ---


def test_the_test_button_sends_mail_and_webhook_and_returns_the_notice(
    api, world, mailbox, hook, receiver
):
    api.put("notice-settings", {"muted": Kind.values})
    answer = api.post("notice-settings/test")
    assert answer.status_code == 202
    assert sorted(each["channel"] for each in answer.data_member["deliveries"]) == [
        "email",
        "webhook",
    ]
    world.sweep()
    assert mailbox.subjects == ["A test of your notices"]
    assert receiver.posted[0].verified(hook[1])["type"] == "test"
    shown = api.get(f"notices/{answer.data_member['id']}").data_member
    assert {each["state"] for each in shown["deliveries"]} == {"sent"}


def test_the_test_button_is_throttled(api, bobs, monkeypatch):
    monkeypatch.setattr(NoticeTestThrottle, "rate", "2/hour")
    assert [api.post("notice-settings/test").status_code for _ in range(3)] == [202, 202, 429]
    assert bobs.post("notice-settings/test").status_code == 202
    assert api.get("notice-settings").status_code == 200


# --- webhooks ---


def test_a_webhooks_secret_is_shown_once_and_sealed(api):
    made = api.post("webhooks", HOOK | {"kinds": ["expiring"]})
    assert made.status_code == 201
    secret = made.data_member.pop("secret")
    assert standardwebhooks.Webhook(secret)
    pk = made.data_member["id"]
    for answer in (
        api.get(f"webhooks/{pk}"),
        api.put(f"webhooks/{pk}", {}),
        api.patch(f"webhooks/{pk}", {}),
    ):
        assert answer.data_member == made.data_member
    assert api.get("webhooks").data_member == [made.data_member]
    assert made.data_member == HOOK | {
        "id": pk,
        "name": "hooks.example.com",
        "kinds": ["expiring"],
        "enabled": True,
        "disabled_at": None,
        "last_error": "",
        "created_at": made.data_member["created_at"],
    }
    assert envelope.unseal(Envelope.objects.get(purpose="webhook_secret")).decode() == secret


def test_a_webhook_is_changed_and_its_secret_stays(api):
    pk = api.post("webhooks", HOOK).data_member["id"]
    sealed = Webhook.objects.get().secret_id
    wanted = {"url": "https://other.example.com/", "name": "other", "kinds": ["renewed"]}
    changed = api.put(f"webhooks/{pk}", wanted).data_member
    assert {name: changed[name] for name in wanted} == wanted
    assert api.put(f"webhooks/{pk}", changed).data_member == changed
    assert Webhook.objects.get().secret_id == sealed


def test_a_webhook_is_disabled_and_enabled(api, world, tell):
    pk = api.post("webhooks", HOOK | {"enabled": False}).data_member["id"]
    since = api.get(f"webhooks/{pk}").data_member["disabled_at"]
    assert since == int(world.time.timestamp())
    world.advance(60)
    assert api.put(f"webhooks/{pk}", {"enabled": False}).data_member["disabled_at"] == since
    tell("unheard.example.com")
    assert api.put(f"webhooks/{pk}", {"enabled": True}).data_member["disabled_at"] is None
    tell("heard.example.com")
    assert Delivery.objects.get().notice.subject.startswith("heard")


def test_a_webhook_that_is_enabled_again_has_no_old_error(api):
    pk = api.post("webhooks", HOOK | {"enabled": False}).data_member["id"]
    Webhook.objects.update(last_error="hooks.example.com responded with 410.")
    assert api.put(f"webhooks/{pk}", {"name": "other"}).data_member["last_error"]
    assert api.put(f"webhooks/{pk}", {"enabled": True}).data_member["last_error"] == ""
    Webhook.objects.update(last_error="hooks.example.com responded with 500.")
    assert api.put(f"webhooks/{pk}", {"enabled": True}).data_member["last_error"]


@pytest.mark.parametrize("given", [{"name": "other"}, {"enabled": True}])
def test_a_webhook_that_was_just_deleted_is_not_changed(api, given):
    api.post("webhooks", HOOK)
    webhook = Webhook.objects.get()
    webhooks.retire_webhook(Webhook.objects.get())
    with pytest.raises(Conflict, match="was deleted"):
        webhooks.update_webhook(webhook, given)
    assert Webhook.objects.get().name == webhook.name


def test_an_address_is_sealed_and_that_of_before_destroyed(api):
    pk = api.post("webhooks", HOOK).data_member["id"]
    assert api.put(f"webhooks/{pk}", {"url": "https://other.example.com/T0ken"}).status_code == 200
    sealed = Envelope.objects.get(purpose="webhook_url")
    assert envelope.unseal(sealed).decode() == "https://other.example.com/T0ken"
    assert Webhook.objects.get().host == "other.example.com"
    api.delete(f"webhooks/{pk}")
    assert not Envelope.objects.filter(purpose="webhook_url").exists()
    assert Webhook.objects.get().url == ""


def test_a_rotated_secret_is_shown_once_and_the_old_one_is_destroyed(api):
    made = api.post("webhooks", HOOK).data_member
    rotated = api.post(f"webhooks/{made['id']}/rotate-secret")
    assert rotated.status_code == 200
    assert rotated.data_member["secret"] not in (made["secret"], "")
    assert "secret" not in api.get(f"webhooks/{made['id']}").data_member
    sealed = Envelope.objects.get(purpose="webhook_secret")
    assert envelope.unseal(sealed).decode() == rotated.data_member["secret"]


def test_a_webhook_is_deleted_with_its_secret(api, tell):
    pk = api.post("webhooks", HOOK).data_member["id"]
    assert api.delete(f"webhooks/{pk}").status_code == 204
    assert api.get("webhooks").data_member == []
    for answer in (
        api.get(f"webhooks/{pk}"),
        api.put(f"webhooks/{pk}", {}),
        api.delete(f"webhooks/{pk}"),
    ):
        refused(answer, 404)
    refused(api.post(f"webhooks/{pk}/rotate-secret"), 404)
    assert not Envelope.objects.filter(purpose="webhook_secret").exists()
    tell()
    assert not Delivery.objects.exists()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "ftp://hooks.example.com/",
        "http://hooks.example.com/",
        "https://",
        "https://me:secret@hooks.example.com/",
        "https://hooks.example.com/#part",
        "https://hooks.example.com:99999/",
        "https://hooks.example.com/a b",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest",
        "https://[fd00::1]/",
        "https://2130706433/",
        "https://localhost/",
        "x" * 501,
    ],
)
def test_an_address_that_is_not_posted_to_is_refused(api, settings, url):
    settings.ALLOW_PRIVATE = []
    before = rows()
    refused(api.post("webhooks", {"url": url}), 400, "url")
    assert rows() == before
    pk = api.post("webhooks", HOOK).data_member["id"]
    refused(api.put(f"webhooks/{pk}", {"url": url}), 400, "url")
    assert Webhook.objects.get().url == HOOK["url"]


@pytest.mark.parametrize(
    "url", ["http://hooks.corp.example/", "http://10.1.2.3/", "https://10.1.2.3/", "http://[::1]/"]
)
def test_an_address_that_the_setting_names_is_taken_without_tls_too(api, settings, url):
    settings.ALLOW_PRIVATE = ["hooks.corp.example", "10.0.0.0/8", "::1"]
    assert api.post("webhooks", {"url": url}).status_code == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "url"), (HOOK | {"kinds": ["x"]}, "kinds[0]"), (HOOK | {"name": "n" * 65}, "name")],
)
def test_a_wrong_webhook_leaves_nothing(api, body, field):
    before = rows()
    refused(api.post("webhooks", body), 400, field)
    assert rows() == before


def test_there_are_as_many_webhooks_as_a_notice_can_bear(api):
    for _ in range(MOST):
        assert api.post("webhooks", HOOK).status_code == 201
    refused(api.post("webhooks", HOOK), 409)
    api.delete(f"webhooks/{Webhook.objects.first().pk}")
    assert api.post("webhooks", HOOK).status_code == 201


def test_webhooks_of_others_are_not_there(api, bobs):
    pk = api.post("webhooks", HOOK).data_member["id"]
    assert bobs.get("webhooks").data_member == []
    for answer in (
        bobs.get(f"webhooks/{pk}"),
        bobs.put(f"webhooks/{pk}", HOOK),
        bobs.delete(f"webhooks/{pk}"),
    ):
        refused(answer, 404)
    refused(bobs.post(f"webhooks/{pk}/rotate-secret"), 404)


# --- API keys ---


def test_a_key_does_what_it_was_granted(api, key_client, alice):
    pk = api.post("webhooks", HOOK).data_member["id"]
    reader = Caller(key_client(alice, "notices:*[read]", "webhooks:*[read]"))
    for path in ("notices", "notice-settings", "webhooks", f"webhooks/{pk}"):
        assert reader.get(path).status_code == 200
    for answer in (
        reader.put("notice-settings", {"email_on": False}),
        reader.post("notice-settings/test"),
        reader.post("webhooks", HOOK),
        reader.post(f"webhooks/{pk}/rotate-secret"),
    ):
        refused(answer, 403)
    writer = Caller(key_client(alice, "notices:*[write]", f"webhooks:{pk}[write]"))
    assert writer.put("notice-settings", {"email_on": False}).status_code == 200
    assert writer.post("notice-settings/test").status_code == 202
    assert writer.post(f"webhooks/{pk}/rotate-secret").status_code == 200
    refused(writer.post("webhooks", HOOK), 403)


def test_a_granted_notice_is_no_granted_webhook(api, key_client, alice):
    pk = api.post("webhooks", HOOK).data_member["id"]
    script = Caller(key_client(alice, f"notices:{pk}[read,write]"))
    refused(script.post(f"webhooks/{pk}/rotate-secret"), 403)
