"""Sessions in the database, and Django's own functions for sessions."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from asgiref.sync import async_to_sync
from django.utils import timezone

from accounts.models import Session
from accounts.sessions import SessionStore, digest_of, prune
from tests import factories
from tests.factories import PASSWORD

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]


def test_the_table_holds_a_digest_that_is_no_cookie(client_of, alice):
    client = client_of()
    client.post("/auth/general", {"email": alice.email, "password": PASSWORD})
    cookie = client.cookies["cjj365"].value
    row = Session.objects.get()
    assert row.session_key == digest_of(cookie) != cookie
    assert client.get("/auth/profile").status_code == 200
    client.cookies["cjj365"] = row.session_key
    assert client.get("/auth/profile").status_code == 401


def test_logging_out_and_in_again_leaves_no_old_row(client_of, alice):
    client = client_of()
    login = {"email": alice.email, "password": PASSWORD}
    client.post("/auth/general", login)
    first = client.cookies["cjj365"].value
    client.post("/auth/logout", {})
    client.post("/auth/general", login)
    second = client.cookies["cjj365"].value
    assert second != first
    assert [each.session_key for each in Session.objects.all()] == [digest_of(second)]
    client.post("/auth/logout", {})
    assert not Session.objects.exists()


def test_the_admins_session_works(client):
    root = factories.UserFactory(email="root@example.org", is_staff=True, is_superuser=True)
    client.post("/sign-in", {"email": root.email, "password": PASSWORD})
    assert client.get("/admin/").status_code == 200
    client.post("/admin/logout/")
    assert client.get("/admin/").status_code == 302


def test_the_last_use_of_a_session_is_noted_every_five_minutes(client_of, alice):
    client = client_of()
    with time_machine.travel(timezone.now(), tick=False) as at:
        client.post("/auth/general", {"email": alice.email, "password": PASSWORD})
        first = Session.objects.get().seen_at
        for minutes, noted in ((4, 0), (2, 6)):
            at.shift(timedelta(minutes=minutes))
            assert client.get("/auth/profile").status_code == 200
            assert Session.objects.get().seen_at == first + timedelta(minutes=noted)


def made(**data: Any) -> SessionStore:
    store = SessionStore()
    store.update(data)
    store.save()
    return store


def test_cycle_key_keeps_the_data_under_another_id(db):
    store = made(a=1)
    old = store.session_key
    store.cycle_key()
    assert SessionStore(store.session_key)["a"] == 1
    assert not SessionStore().exists(old)
    assert Session.objects.count() == 1


def test_flush_removes_the_row_and_the_data(db):
    store = made(a=1)
    store.flush()
    assert not Session.objects.exists()
    assert store.session_key is None


def test_an_expired_session_is_empty_and_pruning_removes_it(db):
    store = made(a=1)
    assert dict(SessionStore("x" * 32).items()) == {}
    Session.objects.update(expire_date=timezone.now() - timedelta(days=1))
    assert dict(SessionStore(store.session_key).items()) == {}
    prune()
    assert not Session.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_asynchronous_store_uses_the_same_rows():
    store = made(a=1)

    async def steps() -> tuple[Any, bool, bool]:
        other = SessionStore(store.session_key)
        found = await other.aget("a")
        await other.aset("a", 2)
        await other.asave()
        await other.acycle_key()
        known = await other.aexists(store.session_key), await other.aexists(other.session_key)
        await other.adelete()
        return found, *known

    assert async_to_sync(steps)() == (1, False, True)
    assert not Session.objects.exists()
