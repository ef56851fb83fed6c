"""The admin shows every table without secrets. Staff read it, and change nothing by hand."""

import re
from datetime import timedelta

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.db.models import Model
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import ApiKey, AuditEvent, Session, User
from certctrl import admin as paging
from certctrl.policy import ADMIN_POLICY
from dashboard.page import SECURITY_POLICY
from devices.models import Device, DeviceTag
from dnsproviders.models import DisabledProvider, DnsCredential, TxtRecord
from issuance.models import Certificate, Issuance
from notices.models import Notice, Webhook
from tests import everything
from tests.certctrl import adminwalk

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


def address(model: type[Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def test_a_table_is_listed_searched_and_opened_without_secrets(client, every_table, subtests):
    for model in TABLES:
        with subtests.test(model.__name__):
            row = model._default_manager.first()
            assert row, "a table without a row proves nothing"
            listed = address(model, "changelist")
            asked = [(listed, {}), (listed, {"q": "example"})]
            if model is not Session:  # its primary key is not shown
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


def test_every_table_has_a_page():
    without = {"permission", "group", "contenttype", "logentry"}  # of Django, and not in use
    models = {each for each in apps.get_models() if each._meta.model_name not in without}
    assert models - set(admin.site._registry) == set()


def test_the_search_of_the_library_leads_to_the_index(client, staff):
    page = client.get(reverse("admin:search"), {"s": "cert", "extended": "1"})
    assert page.headers["Location"] == reverse("admin:index")


@pytest.mark.parametrize(("page", "status"), [("change", 404), ("history", 404), ("delete", 403)])
def test_a_session_has_no_page(client, every_table, page, status):
    without = [each for each, at in admin.site._registry.items() if at.list_display_links is None]
    assert without == [Session]
    assert client.get(address(Session, page, Session.objects.first().pk)).status_code == status


def test_staff_read_every_table_but_that_of_users(client, every_table, subtests):
    client.force_login(User.objects.create_user("reader@example.org", is_staff=True))
    for model in [each for each in TABLES if each is not User]:
        with subtests.test(model.__name__):
            assert client.get(address(model, "changelist")).status_code == 200
    assert client.get(address(User, "changelist")).status_code == 403


def test_a_user_with_a_history_is_not_deleted(client, every_table, staff):
    page = address(User, "delete", staff.pk)
    assert client.get(page).status_code == 403
    assert client.post(page, {"post": "yes"}).status_code == 403
    listed = client.get(address(User, "changelist")).content.decode()
    assert "delete_selected" not in listed


def test_every_table_can_be_searched():
    assert [model for model, page in admin.site._registry.items() if not page.search_fields] == []


def test_nothing_is_made_changed_or_deleted_by_hand(client, every_table, subtests):
    for model in [each for each in TABLES if each not in (User, DisabledProvider)]:
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


def test_the_page_of_a_row_leads_to_the_rows_that_belong_to_it(client, every_table):
    certificate = Certificate.objects.latest("pk")
    page = client.get(address(Certificate, "change", certificate.pk)).content.decode()
    links = re.findall(adminwalk.NEIGHBOUR, page)
    attempts = [each for each in links if "/issuance/issuance/" in each]
    assert attempts == [f"{address(Issuance, 'changelist')}?certificate__exact={certificate.pk}"]
    shown = client.get(attempts[0]).context["cl"].queryset
    assert list(shown) == list(certificate.issuances.order_by("-pk"))
    assert Issuance.objects.count() > len(shown)


def test_the_rows_that_belong_to_a_row_are_not_only_the_newest(client, every_table, monkeypatch):
    monkeypatch.setattr(paging, "NEWEST", 1)
    first = Issuance.objects.earliest("pk")
    listed = address(Issuance, "changelist")
    found = client.get(listed, {"certificate__exact": first.certificate_id}).context["cl"]
    assert first in found.queryset
    monkeypatch.setattr(paging, "MOST_FOUND", 1)
    newest = Issuance.objects.latest("pk")
    found = client.get(listed, {"account__exact": newest.account_id}).context["cl"]
    assert set(found.queryset) == {first, newest}
    assert client.get(listed, {"certificate__exact": "x"}).status_code == 302  # to the whole list


def test_the_certificates_that_end_soon_are_found(client, every_table):
    ends_now, ends_later = Certificate.objects.order_by("pk")[:2]
    Certificate.objects.filter(pk=ends_now.pk).update(expires_at=timezone.now())
    later = timezone.now() + timedelta(days=8)
    Certificate.objects.filter(pk=ends_later.pk).update(expires_at=later)
    page = client.get(address(Certificate, "changelist"), {"part": "ends"})
    assert list(page.context["cl"].queryset) == [ends_now]


def test_the_page_of_a_user_counts_each_kind_of_row_once(client, every_table, staff):
    with CaptureQueriesContext(connection) as ran:
        page = client.get(address(User, "change", staff.pk)).content.decode()
    assert "certificates: 2 of" in page
    counts = [each["sql"] for each in ran if "COUNT(*)" in each["sql"]]
    assert counts
    assert len(set(counts)) == len(counts)
