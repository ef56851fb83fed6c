"""Audit events of logins, failed logins, and changes of users by staff."""

import json

import pytest
import time_machine

from accounts import services
from accounts.models import AuditEvent, User
from tests import factories
from tests.factories import PASSWORD

GUESS = "a guessed password, perhaps nearly right"


@pytest.fixture
def login(client_of):
    def post(email="alice@example.org", password=PASSWORD, ip="203.0.113.9"):
        return client_of().post("/auth", {"email": email, "password": password}, REMOTE_ADDR=ip)

    return post


@pytest.fixture
def root(db):
    return factories.UserFactory(email="root@example.org", is_staff=True, is_superuser=True)


def events(action):
    return list(AuditEvent.objects.filter(action=action).order_by("pk"))


def form(client, user, password):
    return client.post("/sign-in", {"email": user, "password": password}, format="multipart")


def test_a_login_is_kept_with_its_address(login, alice):
    assert login().status_code == 200
    (event,) = events("user.logged_in")
    assert (event.owner, event.actor, event.object) == (alice, alice.email, f"user:{alice.pk}")
    assert event.ip == "203.0.113.9"


def test_a_failed_login_is_audited_for_the_account_without_the_password(login, alice):
    assert login("ALICE@example.org", GUESS).status_code == 401
    (event,) = events("user.login_failed")
    assert (event.owner, event.object, event.ip) == (alice, f"user:{alice.pk}", "203.0.113.9")
    assert GUESS not in json.dumps([event.actor, event.object, event.detail])


def test_the_address_of_an_unknown_login_is_not_stored(login, alice):
    assert login("my-password-by-mistake@example.org", GUESS).status_code == 401
    assert not AuditEvent.objects.exists()


def test_failures_are_kept_up_to_a_number_and_again_an_hour_later(login, alice):
    with time_machine.travel("2026-01-01T00:00Z", tick=False) as at:
        for number in range(services.MOST_FAILURES_NOTED + 5):
            login(password=GUESS, ip=f"203.0.113.{number}")
        kept = events("user.login_failed")
        assert len(kept) == services.MOST_FAILURES_NOTED
        assert [bool(each.detail) for each in kept[-2:]] == [False, True], (
            "the last one says that more are left out"
        )
        at.shift(3601)
        login(password=GUESS)
        assert len(events("user.login_failed")) == services.MOST_FAILURES_NOTED + 1


def test_the_sign_in_page_keeps_both_too(client_of, root):
    client = client_of()
    assert form(client, root.email, GUESS).status_code == 401
    assert form(client, root.email, PASSWORD).status_code == 302
    assert [each.owner for each in events("user.login_failed") + events("user.logged_in")] == [
        root,
        root,
    ]


def test_a_logout_is_kept_where_somebody_was_logged_in(client_of, login, alice):
    client = client_of(alice)
    for _ in range(2):
        assert client.post("/auth/logout").status_code == 204
    assert len(events("user.logged_out")) == 1


def test_changes_of_a_user_by_staff_are_audited(client_of, root, alice):
    page = f"/admin/accounts/user/{alice.pk}/change/"
    fields = {
        "email": alice.email,
        "name": "alice",
        "kind": "person",
        "country_of_residence": "",
        "language": "en",
    }
    answer = client_of(root).post(
        page, fields | {"is_active": "on", "is_staff": "on"}, format="multipart"
    )
    assert answer.status_code == 302, answer.content
    (event,) = events("user.changed")
    assert (event.owner, event.actor, event.ip) == (alice, root.email, "127.0.0.1")
    assert event.detail["changed"] == ["Staff status"]
    assert (event.detail["is_staff"], event.detail["is_superuser"], event.detail["is_active"]) == (
        True,
        False,
        True,
    )


def test_a_password_that_staff_set_is_kept_and_not_which(client_of, root, alice):
    new = "Another-horse-2"
    page = f"/admin/accounts/user/{alice.pk}/password/"
    body = {"password1": new, "password2": new, "usable_password": "true"}
    assert client_of(root).post(page, body, format="multipart").status_code == 302
    alice.refresh_from_db()
    assert alice.check_password(new)
    (event,) = events("user.changed")
    assert event.detail["changed"] == ["password"]
    assert new not in json.dumps(event.detail)


def test_a_user_that_staff_make_or_delete_is_kept(client_of, root):
    client = client_of(root)
    body = {
        "email": "new@example.org",
        "password1": PASSWORD,
        "password2": PASSWORD,
        "usable_password": "true",
    }
    assert client.post("/admin/accounts/user/add/", body, format="multipart").status_code == 302
    made = User.objects.get(email="new@example.org")
    gone = client.post(
        f"/admin/accounts/user/{made.pk}/delete/", {"post": "yes"}, format="multipart"
    )
    assert gone.status_code == 302
    assert not User.objects.filter(pk=made.pk).exists()
    kept = events("user.created") + events("user.deleted")
    assert [(each.owner, each.actor, each.object) for each in kept] == [
        (root, root.email, f"user:{made.pk}")
    ] * 2
    assert [each.detail for each in kept] == [{"email": "new@example.org"}] * 2
