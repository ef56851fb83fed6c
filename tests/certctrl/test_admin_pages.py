"""The admin shows every table, searchable and without secrets; attempts are retried and canceled there."""

from datetime import timedelta

import pytest
from django.contrib import admin
from django.urls import reverse

from accounts.models import AuditEvent, User
from dnsproviders.models import TxtRecord
from issuance.models import Certificate, Issuance
from keystore.models import Envelope, KeyWrap
from tests.fakes.world import World

pytestmark = pytest.mark.django_db
TABLES = [model for model in admin.site._registry if model._meta.app_label != "auth"]


@pytest.fixture
def world(monkeypatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def staff(client) -> User:
    user = User.objects.create_superuser("root@example.org", "a-long-password-1A")
    client.force_login(user)
    return user


@pytest.fixture
def rows(world, staff):
    """A waiting attempt, and with it a row of most tables."""
    world.zone.hides = True
    certificate, _ = world.create(world.account(staff), world.credential(staff))
    world.deliver()
    return certificate


@pytest.mark.parametrize("model", TABLES, ids=lambda model: model.__name__)
def test_a_table_is_listed_searched_and_opened_without_secrets(client, rows, model):
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    pages = [client.get(reverse(f"{name}_changelist")), client.get(reverse(f"{name}_changelist"), {"q": "example"})]
    row = model._default_manager.first()
    if row:
        pages.append(client.get(reverse(f"{name}_change", args=[row.pk])))
    secrets = [bytes(each.ciphertext).hex() for each in Envelope.objects.all()]
    secrets += [bytes(each.wrapped_dek).hex() for each in KeyWrap.objects.all()] + ["PRIVATE KEY", "ciphertext"]
    for page in pages:
        assert page.status_code == 200
        assert [secret for secret in secrets if secret in page.content.decode()] == []


@pytest.mark.parametrize("model", [model for model in TABLES if model is not User], ids=lambda model: model.__name__)
def test_nothing_is_made_by_hand(client, staff, model):
    page = client.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add"))
    assert page.status_code == 403


def test_who_is_no_staff_is_sent_to_the_login(client, db):
    client.force_login(User.objects.create_user("bob@example.org"))
    page = client.get(reverse("admin:issuance_issuance_changelist"))
    assert page.status_code == 302
    assert "login" in page["Location"]


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


def test_a_record_that_was_left_behind_is_marked_as_removed_by_hand(client, rows):
    record = TxtRecord.objects.order_by("pk").first()
    act(client, "dnsproviders_txtrecord", "mark_removed_by_hand", record.pk)
    record.refresh_from_db()
    assert record.cleaned_at
    assert AuditEvent.objects.filter(action="record.removed_by_hand").exists()
