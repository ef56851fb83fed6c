"""With many rows, a list of the admin reads few of them, counts few, and has no filter of all."""

from typing import Any

import pytest
from django.contrib import admin as site
from django.db import connection
from django.test import Client
from django.urls import reverse

from accounts.models import User
from certctrl import admin
from issuance.models import Certificate
from tests import everything
from tests.certctrl.adminwalk import walk
from tests.dashboard.test_many import rows_read
from tests.fakes import copies
from tests.issuance.beat.test_plans import statements
from tests.issuance.failing import issued

MANY = 2000
MOST = 100
MOST_ROWS = MOST * 3


@pytest.fixture
def staff(db) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.net"))
    return client


@pytest.fixture
def many(world, staff, monkeypatch) -> None:
    """A table of each kind, with as many rows as certificates, or a part of it."""
    for name in ("MOST_COUNTED", "NEWEST", "MOST_FOUND"):
        monkeypatch.setattr(admin, name, MOST)
    everything.fill(world, everything.waiting(world, User.objects.get()))
    copies.Copies(MANY).write()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        for way in ("seqscan", "hashjoin", "mergejoin"):  # the rows are few for the planner
            cursor.execute(f"SET LOCAL enable_{way} = off")


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db
def test_every_page_reads_few_of_many_rows(many, staff):
    wide = []

    def visit(address: str) -> Any:
        with statements() as ran:
            page = staff.get(address)
        assert page.status_code in (200, 302, 403), address
        read = [each for sql, params in ran for each in rows_read(sql, params)]
        wide.extend((address, *each) for each in read if each[0] > MOST_ROWS)
        return page

    walk(visit)
    assert [(each[0], each[1], each[2][:400]) for each in wide] == []


@pytest.mark.django_db
def test_a_list_counts_up_to_its_bound(staff, world, account, credential, monkeypatch):
    monkeypatch.setattr(admin, "MOST_COUNTED", 2)
    for number in range(3):
        issued(world, account, credential, f"n{number}.example.com")
    page = staff.get(reverse("admin:issuance_certificate_changelist"))
    assert page.context["cl"].result_count == 2


@pytest.mark.django_db
def test_an_old_row_is_found_by_its_index(staff, world, account, credential, monkeypatch):
    monkeypatch.setattr(admin, "NEWEST", 1)
    old = issued(world, account, credential, "old.example.com")
    issued(world, account, credential, "new.example.com")
    search = reverse("admin:issuance_certificate_changelist")

    def found(words: str) -> list[Certificate]:
        return list(staff.get(search, {"q": words}).context["cl"].queryset)

    assert found("old.ex") == [old]
    assert found("ld.example") == []
    assert [each.domain for each in found("ew.example")] == ["new.example.com"]


def test_no_filter_reads_all_values_of_a_column():
    filters = [
        (model, each)
        for model, page in site.site._registry.items()
        for each in page.list_filter
        if isinstance(each, str)
    ]
    fields = [(model.__name__, model._meta.get_field(name)) for model, name in filters]
    assert fields
    small = {"AcmeAccount", "DnsCredential", "User"}
    wide = [
        f"{model}.{field.name}"
        for model, field in fields
        if model not in small
        and not field.choices
        and field.get_internal_type() not in ("BooleanField",)
    ]
    assert [(each[0], each[1], each[2][:400]) for each in wide] == []
