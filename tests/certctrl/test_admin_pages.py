"""The admin shows every table without secrets. Staff search, retry and cancel there."""

from datetime import timedelta

import pytest
from django.contrib import admin
from django.db.models import Model
from django.urls import reverse

from accounts.models import ApiKey, AuditEvent, User
from certctrl.policy import ADMIN_POLICY
from certctrl.turns import LostTurn
from dashboard.page import SECURITY_POLICY
from devices.models import Device, DeviceTag
from dnsproviders import records
from dnsproviders.models import DnsCredential, TxtRecord
from issuance import services
from issuance.models import Certificate, Drill, Issuance
from notices import raising
from notices.models import Delivery, Notice, Webhook
from tests import everything

pytestmark = pytest.mark.django_db
TABLES = [model for model in admin.site._registry if model._meta.app_label != "auth"]
SEARCHED = {
    User: "root@example.org",
    ApiKey: "script",
    AuditEvent: "example.done",
    Certificate: "own.example",
    Issuance: "own.example",
    DnsCredential: "a zone",
    TxtRecord: "_acme-challenge",
    Notice: "test",
    Webhook: "hooks.example.com",
    Device: "edge 1",
    DeviceTag: "edge",
}


@pytest.fixture
def staff(client) -> User:
    user = User.objects.create_superuser("root@example.org", "a-long-password-1A")
    client.force_login(user)
    return user


def test_the_way_to_the_sign_in_has_the_policy_of_the_pages(client, staff):
    assert client.get("/admin/").headers["Content-Security-Policy"] == ADMIN_POLICY
    client.logout()
    answer = client.get("/admin/login/")
    assert answer.headers["Content-Security-Policy"] == SECURITY_POLICY


@pytest.fixture
def rows(world, staff):
    """A waiting attempt, and a row of most other tables."""
    return everything.waiting(world, staff)


@pytest.fixture
def every_table(rows, world, staff) -> list[str]:
    """Make a row of every table. Return the texts that no page may show."""
    return everything.fill(world, rows)


def test_a_password_is_changed_on_the_settings_page_alone(client, staff):
    new = {"new_password1": "Another-horse-2", "new_password2": "Another-horse-2"}
    form = {"old_password": "a-long-password-1A", **new}
    response = client.post(reverse("admin:password_change"), form)
    assert response.headers["Location"] == reverse("settings")
    staff.refresh_from_db()
    assert staff.check_password("a-long-password-1A")


def address(model: type[Model], page: str, *args: int) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def test_a_table_is_listed_searched_and_opened_without_secrets(client, every_table, subtests):
    for model in TABLES:
        with subtests.test(model.__name__):
            row = model._default_manager.first()
            assert row, "a table without a row proves nothing"
            listed = address(model, "changelist")
            asked = [(listed, {}), (listed, {"q": "example"})]
            asked.append((address(model, "change", row.pk), {}))
            for url, query in asked:
                page = client.get(url, query)
                assert page.status_code == 200, url
                text = page.content.decode()
                assert [secret for secret in every_table if secret in text] == [], url


def test_a_search_finds_what_it_is_for_and_nothing_else(client, every_table, subtests):
    for model, words in SEARCHED.items():
        with subtests.test(model.__name__):
            listed = address(model, "changelist")
            assert client.get(listed, {"q": words}).context["cl"].queryset.exists()
            assert not client.get(listed, {"q": "zebra"}).context["cl"].queryset.exists()


def test_every_table_can_be_searched():
    assert [model for model, page in admin.site._registry.items() if not page.search_fields] == []


def test_nothing_is_made_changed_or_deleted_by_hand(client, every_table, subtests):
    for model in [each for each in TABLES if each is not User]:
        with subtests.test(model.__name__):
            pk = model._default_manager.first().pk
            count = model._default_manager.count()
            assert client.get(address(model, "add")).status_code == 403
            assert client.post(address(model, "add"), {}).status_code == 403
            assert client.post(address(model, "change", pk), {}).status_code == 403
            assert client.post(address(model, "delete", pk), {"post": "yes"}).status_code == 403
            client.post(
                address(model, "changelist"),
                {"action": "delete_selected", "_selected_action": [pk], "post": "yes"},
            )
            assert model._default_manager.count() == count


def test_a_user_who_is_not_staff_is_sent_to_the_login(client, db):
    client.force_login(User.objects.create_user("bob@example.org"))
    page = client.get(reverse("admin:issuance_issuance_changelist"))
    assert page.status_code == 302
    assert "login" in page["Location"]


def test_a_second_user_of_an_address_is_refused_in_a_sentence(client, staff):
    password = {
        "password1": "Correct-horse-8x",
        "password2": "Correct-horse-8x",
        "usable_password": "true",
    }
    page = client.post(address(User, "add"), {"email": "ROOT@example.org"} | password)
    assert "Another user has this e-mail address" in page.content.decode()
    assert User.objects.count() == 1


def act(client, model: str, action: str, pk: int) -> None:
    data = {"action": action, "_selected_action": [pk]}
    assert client.post(reverse(f"admin:{model}_changelist"), data).status_code == 302


def test_an_attempt_is_canceled_and_that_is_audited(client, rows):
    act(client, "issuance_issuance", "cancel", Issuance.objects.get().pk)
    assert Issuance.objects.get().state == Issuance.State.CANCELED
    assert AuditEvent.objects.filter(action="issuance.canceled", actor="root@example.org").exists()


def test_an_attempt_is_retried_at_once(client, rows, world):
    Issuance.objects.update(wake_at=world.time + timedelta(minutes=20))
    world.zone.hides = False
    act(client, "issuance_issuance", "retry", Issuance.objects.get().pk)
    world.sweep()
    assert Certificate.objects.get().status == "active"


def test_an_attempt_that_ended_is_not_canceled_nor_is_the_one_that_is_open(client, rows):
    ended = Issuance.objects.get()
    services.cancel(rows)
    latest = services.issue(rows)
    assert "has ended" in told(client, "cancel", ended)
    latest.refresh_from_db()
    assert latest.is_open
    assert not AuditEvent.objects.filter(action="issuance.canceled").exists()


def test_an_attempt_that_was_canceled_is_followed_by_a_new_one_once(client, rows):
    ended = Issuance.objects.get()
    services.cancel(rows)
    assert "retried" in told(client, "retry", ended)
    assert "Retry the latest" in told(client, "retry", ended)
    assert Issuance.objects.count() == 2


def test_an_attempt_that_issued_is_not_retried(client, rows, world):
    world.zone.hides = False
    world.advance(3600)
    world.sweep()
    assert "cannot be retried" in told(client, "retry", Issuance.objects.get())
    assert Issuance.objects.count() == 1


def told(client, action: str, issuance: Issuance) -> str:
    """Return the message of the page after an action."""
    data = {"action": action, "_selected_action": [issuance.pk]}
    page = client.post(reverse("admin:issuance_issuance_changelist"), data, follow=True)
    return " ".join(str(message) for message in page.context["messages"])


def test_a_record_that_a_worker_took_from_the_page_is_a_sentence(client, rows, monkeypatch):
    def lost(record):
        raise LostTurn

    monkeypatch.setattr(records, "mark_removed_by_hand", lost)
    record = TxtRecord.objects.order_by("pk").first()
    data = {"action": "mark_removed_by_hand", "_selected_action": [record.pk]}
    page = client.post(reverse("admin:dnsproviders_txtrecord_changelist"), data, follow=True)
    assert "was not marked" in " ".join(map(str, page.context["messages"]))
    assert not AuditEvent.objects.filter(action="record.removed_by_hand").exists()


def test_a_record_that_was_left_behind_is_marked_as_removed_by_hand(client, rows):
    record = TxtRecord.objects.order_by("pk").first()
    act(client, "dnsproviders_txtrecord", "mark_removed_by_hand", record.pk)
    record.refresh_from_db()
    assert record.cleaned_at
    assert AuditEvent.objects.filter(action="record.removed_by_hand").exists()


def acted(client, row: Model, action: str) -> str:
    """Return the message of the page after an action on a row."""
    data = {"action": action, "_selected_action": [row.pk]}
    page = client.post(address(type(row), "changelist"), data, follow=True)
    return " ".join(str(message) for message in page.context["messages"])


def test_a_certificate_is_renewed_and_revoked(client, rows, world):
    world.zone.hides = False
    world.advance(3600)
    world.sweep()
    assert "an attempt has begun" in acted(client, rows, "renew")
    assert Issuance.objects.filter(certificate=rows, reason="manual").exists()
    assert "will be sent" in acted(client, rows, "revoke")
    assert rows.versions.get().revoke_asked_at
    event = AuditEvent.objects.get(action="certificate.revoked")
    assert event.actor == "root@example.org"


def test_a_certificate_without_a_version_is_not_revoked(client, rows):
    assert "nothing to revoke" in acted(client, rows, "revoke")


def test_a_drill_replaces_everything_of_an_issuer(client, rows, world):
    world.zone.hides = False
    world.advance(3600)
    world.sweep()
    version = rows.versions.get()
    assert "has started, with 1 certificates" in acted(client, version, "start_drill")
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
