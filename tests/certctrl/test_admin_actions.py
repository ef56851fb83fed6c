"""The actions of operators in the admin: each calls a service, and says what it did."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib import admin as site
from django.db.models import Model
from django.urls import reverse

from accounts.models import ApiKey, AuditEvent, Session, User
from certctrl import admin
from certctrl.turns import LostTurn
from devices.models import Device
from dnsproviders import records
from dnsproviders.models import DisabledProvider, TxtRecord
from issuance import services
from issuance.models import Certificate, CertificateVersion, Drill, Issuance
from notices import raising, webhooks
from notices.models import Delivery, Notice, Webhook
from signin import secondfactor
from signin.models import SecondFactor
from tests import everything, factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client) -> User:
    user = User.objects.create_superuser("root@example.org", "a-long-password-1A")
    client.force_login(user)
    return user


@pytest.fixture
def rows(world, staff) -> Certificate:
    """A certificate whose attempt waits."""
    return everything.waiting(world, staff)


def post(client, row: Model, action: str, *more: Model, **data: str):
    """Choose the action for the rows. Return the page that follows."""
    rows = (row, *more)
    chosen = [each.public_id if isinstance(each, Session) else each.pk for each in rows]
    listed = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_changelist")
    given = {"action": action, "_selected_action": chosen} | data
    return client.post(listed, given, follow=True)


def acted(client, row: Model, action: str, *more: Model) -> str:
    """Return the messages after a confirmed action on rows."""
    page = post(client, row, action, *more, confirmed="yes")
    return " ".join(str(message) for message in page.context["messages"])


def last_event(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("pk")


def test_an_attempt_is_canceled_and_that_is_audited(client, rows):
    assert acted(client, Issuance.objects.get(), "cancel") == "1 attempt is canceled."
    assert Issuance.objects.get().state == Issuance.State.CANCELED
    assert AuditEvent.objects.filter(action="issuance.canceled", actor="root@example.org").exists()


def test_an_attempt_is_retried_at_once(client, rows, world):
    Issuance.objects.update(wake_at=world.time + timedelta(minutes=20))
    world.zone.hides = False
    assert "tried again now" in acted(client, Issuance.objects.get(), "retry")
    world.sweep()
    assert Certificate.objects.get().status == "active"


def test_an_attempt_that_ended_is_not_canceled_nor_is_the_one_that_is_open(client, rows):
    ended = Issuance.objects.get()
    services.cancel(rows)
    latest = services.issue(rows)
    assert "has ended" in acted(client, ended, "cancel")
    latest.refresh_from_db()
    assert latest.is_open
    assert not AuditEvent.objects.filter(action="issuance.canceled").exists()


def test_an_attempt_that_was_canceled_is_followed_by_a_new_one_once(client, rows):
    ended = Issuance.objects.get()
    services.cancel(rows)
    assert acted(client, ended, "retry") == "1 attempt is tried again now."
    assert "Retry the latest" in acted(client, ended, "retry")
    assert Issuance.objects.count() == 2


def test_an_attempt_that_issued_is_not_retried(client, rows, world):
    world.zone.hides = False
    world.advance(3600)
    world.sweep()
    assert "cannot be retried" in acted(client, Issuance.objects.get(), "retry")
    assert Issuance.objects.count() == 1


def test_a_record_that_a_worker_took_from_the_page_is_a_sentence(client, rows, monkeypatch):
    def lost(record):
        raise LostTurn

    monkeypatch.setattr(records, "mark_removed_by_hand", lost)
    record = TxtRecord.objects.order_by("pk").first()
    assert "was not marked" in acted(client, record, "mark_removed_by_hand")
    assert not AuditEvent.objects.filter(action="record.removed_by_hand").exists()


def test_a_record_that_was_left_behind_is_marked_as_removed_by_hand(client, rows):
    record = TxtRecord.objects.order_by("pk").first()
    assert "marked as removed" in acted(client, record, "mark_removed_by_hand")
    record.refresh_from_db()
    assert record.cleaned_at
    assert AuditEvent.objects.filter(action="record.removed_by_hand").exists()


def test_a_certificate_is_renewed_and_revoked(client, rows, world):
    world.zone.hides = False
    world.advance(3600)
    world.sweep()
    assert acted(client, rows, "renew") == "An attempt of 1 certificate has begun."
    assert Issuance.objects.filter(certificate=rows, reason="manual").exists()
    revoked = "The revocation of 1 certificate will be sent to its CA."
    assert acted(client, rows, "revoke") == revoked
    assert rows.versions.get().revoke_asked_at
    event = AuditEvent.objects.get(action="certificate.revoked")
    assert event.actor == "root@example.org"
    assert "was asked for already" in acted(client, rows, "revoke")


def test_a_certificate_without_a_version_is_not_revoked(client, rows):
    assert "nothing to revoke" in acted(client, rows, "revoke")


def test_a_drill_replaces_everything_of_an_issuer(client, rows, world):
    world.zone.hides = False
    world.advance(3600)
    world.sweep()
    version = rows.versions.get()
    started = "1 drill has started: 1 certificate is replaced."
    assert acted(client, version, "start_drill") == started
    assert Drill.objects.get().issuer == version.issuer
    assert "already running" in acted(client, version, "start_drill")
    assert Drill.objects.count() == 1


def test_a_delivery_that_was_given_up_is_sent_again(client, staff, world):
    raising.raise_test(staff)
    notice = Notice.objects.get()
    notice.deliveries.all().delete()
    delivery = Delivery.objects.create(
        owner=staff, notice=notice, channel="email", given_up_at=world.time
    )
    assert "is sent again" in acted(client, delivery, "send_again")
    delivery.refresh_from_db()
    assert (delivery.state, delivery.wake_at) == ("waiting", world.time)
    assert "Only a delivery that was given up" in acted(client, delivery, "send_again")
    assert AuditEvent.objects.filter(action="delivery.sent_again").count() == 1


# --- confirmed, permitted and bounded ---


def key_of(owner: User) -> ApiKey:
    factories.api_key(owner, "certificates:*[read]")
    return ApiKey.objects.get()


CONFIRMED: dict[str, Callable[[User], tuple[Model, str]]] = {
    "API key": lambda alice: (key_of(alice), "revoke"),
    "device": lambda alice: (factories.device(alice, "edge"), "revoke"),
    "user": lambda alice: (alice, "lock_out"),
    "second factor": lambda alice: (secondfactor.start(alice), "remove"),
}


@pytest.mark.parametrize("name", CONFIRMED)
def test_a_person_confirms_what_cannot_be_undone(client, staff, alice, name):
    row, action = CONFIRMED[name](alice)
    before = type(row).objects.values().get(pk=row.pk)
    page = post(client, row, action)
    assert page.status_code == 200
    assert str(row) in page.content.decode()
    assert type(row).objects.values().get(pk=row.pk) == before
    assert "1 " in acted(client, row, action)
    assert type(row).objects.filter(pk=row.pk).values().first() != before


def test_a_person_confirms_a_revocation_and_a_drill(client, rows, world):
    world.zone.hides = False
    world.advance(3600)
    world.sweep()
    version = CertificateVersion.objects.get()
    assert "cannot be undone" in post(client, rows, "revoke").content.decode()
    assert "can be stopped" in post(client, version, "start_drill").content.decode()
    version.refresh_from_db()
    assert version.revoke_asked_at is None
    assert not Drill.objects.exists()


def test_staff_who_are_no_superusers_only_read(client, rows):
    client.force_login(User.objects.create_user("reader@example.org", is_staff=True))
    attempt = Issuance.objects.get()
    page = reverse("admin:issuance_issuance_changelist")
    assert client.get(page).status_code == 200
    assert acted(client, attempt, "cancel") == ""
    attempt.refresh_from_db()
    assert attempt.is_open
    assert client.get(reverse("admin:keystore_keywrap_rotate_master_key")).status_code == 403


def test_actions_and_their_sentences_are_in_the_language_of_the_person(client, staff, alice):
    client.cookies["language"] = "zh-hans"
    listed = client.get(reverse("admin:accounts_user_changelist")).content.decode()
    assert "结束所有会话" in listed
    assert "此操作无法撤回" in post(client, key_of(alice), "revoke").content.decode()
    assert acted(client, alice, "lock_out") == "1 个用户已停用。"


def test_an_action_of_too_many_rows_does_nothing(client, staff, alice, monkeypatch):
    monkeypatch.setattr(admin, "MOST_CHOSEN", 1)
    bob = factories.UserFactory()
    assert "More than 1 rows" in acted(client, alice, "lock_out", bob)
    assert User.objects.filter(is_active=False).count() == 0


def test_rows_that_were_left_alone_are_counted_by_reason(client, staff, alice):
    hook, _ = webhooks.create_webhook(alice, {"url": "https://hooks.example.com/"})
    other, _ = webhooks.create_webhook(alice, {"url": "https://hooks.example.com/2"})
    assert acted(client, hook, "disable") == "1 webhook is disabled."
    said = acted(client, hook, "disable", other)
    assert "1 webhook is disabled. 1 was left alone:" in said
    assert "is disabled already" in said


# --- users, keys and sessions ---


def test_an_api_key_is_revoked_by_the_operator(client, staff, alice, client_of):
    token = factories.api_key(alice, "certificates:*[read]")
    key = ApiKey.objects.get()
    assert acted(client, key, "revoke") == "1 API key is revoked."
    assert last_event("apikey.revoked").actor == staff.email
    assert last_event("apikey.revoked").owner == alice
    assert client_of(token=token).get("/apiv1/me/certificates").status_code == 401
    assert "is revoked already" in acted(client, key, "revoke")


def test_a_session_is_ended(client, staff, alice, client_of):
    other = client_of(alice)
    session = Session.objects.get(user=alice)
    assert acted(client, session, "end") == "1 session has ended."
    assert other.get("/auth/profile").status_code == 401
    assert last_event("session.ended").actor == staff.email
    assert "has ended, or has no user" in acted(client, session, "end")


def test_a_session_that_is_named_by_less_is_not_ended(client, staff):
    listed = reverse("admin:accounts_session_changelist")
    client.post(listed, {"action": "end", "_selected_action": ["", "%"]})
    assert Session.objects.count() == 1


def test_all_sessions_of_a_user_end(client, staff, alice, client_of):
    client_of(alice), client_of(alice)
    assert acted(client, alice, "end_sessions") == "All sessions of 1 user have ended."
    assert not alice.sessions.exists()
    assert last_event("session.all_ended").actor == staff.email
    assert "has no session" in acted(client, alice, "end_sessions")


def test_a_user_is_locked_out_and_let_in(client, staff, alice, client_of):
    other = client_of(alice)
    assert acted(client, alice, "lock_out") == "1 user is locked out."
    assert other.get("/auth/profile").status_code == 401
    assert not alice.sessions.exists()
    assert "is locked out already" in acted(client, alice, "lock_out")
    assert acted(client, alice, "let_in") == "1 user may sign in again."
    assert client_of(alice).get("/auth/profile").status_code == 200
    assert "is not locked out" in acted(client, alice, "let_in")
    actors = AuditEvent.objects.filter(owner=alice).order_by("pk").values_list("action", "actor")
    assert list(actors) == [("user.locked_out", staff.email), ("user.let_in", staff.email)]


def test_an_operator_cannot_lock_herself_out(client, staff):
    assert "cannot lock yourself out" in acted(client, staff, "lock_out")
    staff.refresh_from_db()
    assert staff.is_active


def test_a_second_factor_is_removed(client, staff, alice):
    factor = secondfactor.start(alice)
    assert acted(client, factor, "remove") == "1 second factor is removed."
    assert not SecondFactor.objects.exists()
    assert last_event("second_factor.removed").actor == staff.email


# --- the rest ---


def test_a_webhook_is_disabled_and_enabled(client, staff, alice):
    hook, _ = webhooks.create_webhook(alice, {"url": "https://hooks.example.com/"})
    assert acted(client, hook, "disable") == "1 webhook is disabled."
    assert not Webhook.objects.get().enabled
    assert acted(client, hook, "enable") == "1 webhook is enabled."
    assert Webhook.objects.get().enabled
    assert last_event("webhook.changed").actor == staff.email
    assert "is enabled already" in acted(client, hook, "enable")


def test_a_device_is_revoked(client, staff, alice):
    device = factories.device(alice, "edge", name="edge 1")
    assert acted(client, device, "revoke") == "1 device is revoked."
    assert Device.objects.get().status == "REVOKED"
    assert last_event("device.revoked").actor == staff.email
    assert "is revoked already" in acted(client, device, "revoke")


def test_a_drill_is_stopped_and_resumed(client, staff):
    drill = Drill.objects.create(by=staff, issuer="example CA")
    assert "is running" in acted(client, drill, "resume")
    assert acted(client, drill, "stop") == "1 drill is stopped."
    assert Drill.objects.get().status == "stopped"
    assert "is stopped already" in acted(client, drill, "stop")
    assert acted(client, drill, "resume") == "1 drill is resumed."
    assert Drill.objects.get().status == "running"


def test_a_notice_is_sent_again(client, staff, world):
    raising.raise_test(staff)
    notice = Notice.objects.get()
    assert "was given up" in acted(client, notice, "send_again")
    notice.deliveries.all().delete()
    notice.deliveries.create(owner=staff, channel="email", given_up_at=world.time)
    assert acted(client, notice, "send_again") == "1 notice is sent again."
    assert Delivery.objects.get().state == "waiting"


def actions_of(user: User, rf) -> dict[str, list[str]]:
    request = rf.get("/")
    request.user = user
    pages = site.site._registry.items()
    found = {model.__name__: [*page.get_actions(request)] for model, page in pages}
    return {name: actions for name, actions in found.items() if actions}


def test_no_action_is_permitted_to_staff_who_are_no_superusers(staff, rf):
    assert {"User", "ApiKey", "Session", "Device"} <= set(actions_of(staff, rf))
    reader = User.objects.create_user("reader@example.org", is_staff=True)
    assert actions_of(reader, rf) == {}


# --- a DNS provider is disabled ---


ADD_DISABLED = "/admin/dnsproviders/disabledprovider/add/"


def test_an_operator_disables_a_provider_and_enables_it(client, rows, world):
    sent = {"provider": "httpreq", "why": "an outage"}
    assert client.post(ADD_DISABLED, sent).status_code == 302
    row = DisabledProvider.objects.get()
    assert (row.provider, row.by.email) == ("httpreq", "root@example.org")
    assert "already exists" in client.post(ADD_DISABLED, sent).content.decode()
    assert last_event("dns_provider.disabled").actor == "root@example.org"
    assert acted(client, row, "enable") == "1 DNS provider is enabled."
    assert not DisabledProvider.objects.exists()
    assert last_event("dns_provider.enabled").object == "dns_provider:httpreq"


def test_staff_who_are_no_superusers_disable_no_provider(client, staff):
    client.force_login(User.objects.create_user("reader@example.org", is_staff=True))
    sent = {"provider": "httpreq", "why": "an outage"}
    assert client.post(ADD_DISABLED, sent).status_code == 403
    assert not DisabledProvider.objects.exists()
