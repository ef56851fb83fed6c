"""Login, status, profile and logout."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import time_machine
from django.conf import settings
from django.contrib.auth.hashers import BasePasswordHasher
from django.core.cache import cache
from django.test import RequestFactory

from accounts import browsers, passwords, services
from accounts.models import Session
from certctrl import clock
from certctrl.errors import Unavailable
from tests import factories
from tests.factories import PASSWORD
from tests.patience import LIMIT, until


@pytest.fixture
def login(client_of):
    def post(
        email="alice@example.org", password=PASSWORD, client=None, path="/auth/general", **more
    ):
        return (client or client_of()).post(path, {"email": email, "password": password} | more)

    return post


@pytest.mark.parametrize("path", ["/auth/general", "/auth"])
@pytest.mark.parametrize("action", [{}, {"action": "login"}])
def test_the_right_password_logs_in_and_sets_the_cookie(login, alice, path, action):
    response = login(path=path, **action)
    assert response.status_code == 200
    assert response.body == {
        "data": {"user": {"id": alice.pk, "email": alice.email, "roles": ["user"]}, "to": "/"}
    }
    cookie = response.cookies["cjj365"]
    assert next(iter(response.cookies)) == "cjj365"
    assert cookie["path"] == "/"
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert cookie.value not in response.content.decode()


def test_the_cookie_opens_what_is_the_users_own(login, client_of, alice):
    client = client_of()
    assert client.get("/apiv1/me/apikeys").status_code == 401
    login(client=client)
    assert client.get("/apiv1/me/apikeys").status_code == 200
    assert client.get(f"/apiv1/users/{alice.pk}/apikeys").status_code == 200


def test_the_case_of_the_address_does_not_matter(login, alice):
    assert login(email="ALICE@Example.ORG").status_code == 200


def test_an_administrator_has_the_role(login, db):
    factories.UserFactory(email="root@example.org", is_staff=True)
    assert login(email="root@example.org").data_member["user"]["roles"] == ["user", "admin"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "Wrong-horse-1"},
        {"email": "nobody@example.org"},
        {"password": PASSWORD + " "},
        {"password": PASSWORD.lower()},
    ],
)
def test_wrong_password_and_unknown_user_read_the_same(login, alice, wrong):
    response = login(**wrong)
    assert (response.status_code, response.error["code"]) == (401, 5018)
    assert response.error["what"] == "The e-mail address or the password is wrong. Check both."
    assert "cjj365" not in response.cookies


def test_an_inactive_user_reads_like_an_unknown_one(login, alice):
    alice.is_active = False
    alice.save()
    response = login()
    assert response.status_code == 401
    assert response.error["what"] == login(email="nobody@example.org").error["what"]


@pytest.mark.parametrize("email", ["alice@example.org", "nobody@example.org"])
def test_a_password_is_hashed_whether_the_user_exists_or_not(login, alice, monkeypatch, email):
    from django.contrib.auth.hashers import MD5PasswordHasher

    hashed = []
    encode = MD5PasswordHasher.encode
    monkeypatch.setattr(
        MD5PasswordHasher, "encode", lambda *args: hashed.append(1) or encode(*args)
    )
    assert issubclass(MD5PasswordHasher, BasePasswordHasher)
    assert login(email=email, password="Wrong-horse-1").status_code == 401
    assert len(hashed) == 1


def test_the_session_is_a_new_one_after_logging_in(login, client_of, alice, bob):
    client = client_of()
    login(client=client)
    before = client.cookies["cjj365"].value
    login(client=client, email=bob.email)
    assert client.cookies["cjj365"].value != before
    assert not Session.objects.filter(session_key=before).exists()


def test_a_session_that_was_planted_is_not_taken_over(login, client_of, alice):
    client = client_of()
    client.cookies["cjj365"] = "planted" * 4
    login(client=client)
    assert client.cookies["cjj365"].value != "planted" * 4


@pytest.mark.parametrize(
    ("wanted", "to"),
    [
        ("/certificates?page=2", "/certificates?page=2"),
        ("/", "/"),
        ("", "/"),
        ("//evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("///evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("certificates", "/"),
        ("/ok/../x", "/ok/../x"),
    ],
)
def test_next_is_taken_as_a_local_path_only(login, alice, wanted, to):
    assert login(next=wanted).data_member["to"] == to


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"password": "x"}, "email"),
        ({"email": "alice@example.org"}, "password"),
        ({}, "email"),
        ({"email": "no address", "password": "x"}, "email"),
        ({"email": ["alice@example.org"], "password": "x"}, "email"),
        ({"email": "alice@example.org", "password": {"$ne": 1}}, "password"),
        ({"email": "alice@example.org", "password": ""}, "password"),
        ({"email": "alice@example.org", "password": "x" * 1025}, "password"),
        ({"email": "alice@example.org", "password": PASSWORD, "next": ["/"]}, "next"),
    ],
)
def test_bad_input_is_400_and_names_the_member(client_of, alice, body, field):
    response = client_of().post("/auth/general", body)
    assert response.status_code == 400
    assert response.error["params"] == {"field": field}


@pytest.mark.parametrize("action", ["dance", "log_in", "", None, 1, ["login"]])
def test_an_unknown_action_is_400_with_a_sentence(login, alice, action):
    response = login(action=action)
    assert (response.status_code, response.error["code"]) == (400, 5000)
    assert (
        response.error["what"]
        == f"There is no action {json.dumps(action)} here. Choose one of login, register, "
        "activate-user, request-reset-password, reset-password."
    )


def test_an_endless_action_is_not_repeated_whole(login, alice):
    assert len(login(action="x" * 100_000).error["what"]) < 300


def test_status_names_the_user_that_is_logged_in(client_of, login, alice):
    client = client_of()
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False):
        login(client=client)
        user = {
            "id": alice.pk,
            "name": "alice",
            "email": alice.email,
            "roles": ["user"],
            "country_of_residence": "",
            "language": "en",
        }
        assert client.get("/auth/status").body == {
            "data": {
                "user": user,
                "to": "",
                "amr": ["pwd"],
                "acr": "aal1",
                "auth_time": 1893456000,
                "mfa": False,
            }
        }


def test_status_without_a_session_is_200_with_an_error_body(client_of, db):
    response = client_of().get("/auth/status")
    assert response.status_code == 200
    assert set(response.body) == {"error"}
    assert response.error["code"] == 999999


def test_profile_is_for_those_who_are_logged_in(client_of, alice):
    assert client_of(alice).get("/auth/profile").data_member["email"] == alice.email
    response = client_of().get("/auth/profile")
    assert (response.status_code, response.error["code"]) == (401, 5104)


def test_logging_out_ends_the_session(client_of, alice):
    client = client_of(alice)
    cookie = client.cookies["cjj365"].value
    response = client.post("/auth/logout")
    assert (response.status_code, response.content) == (204, b"")
    client.cookies["cjj365"] = cookie
    assert client.get("/apiv1/me/apikeys").status_code == 401


def test_a_broken_body_logs_nobody_out(client_of, alice):
    client = client_of(alice)
    assert (
        client.generic("POST", "/auth/logout", "{", content_type="application/json").status_code
        == 400
    )
    assert client.get("/auth/profile").status_code == 200


def test_logging_out_twice_is_no_error(client_of, db):
    assert client_of().post("/auth/logout").status_code == 204


def test_a_user_who_is_made_inactive_is_out_at_once(client_of, alice):
    client = client_of(alice)
    alice.is_active = False
    alice.save()
    assert client.get("/apiv1/me/apikeys").status_code == 401
    assert client.get("/auth/status").error["code"] == 999999


# --- Too many tries ---


def test_after_ten_failures_even_the_right_password_waits(login, alice):
    for _ in range(services.MAX_FAILURES):
        assert login(password="Wrong-horse-1").status_code == 401
    response = login()
    assert (response.status_code, response.error["code"]) == (429, 5013)
    assert 0 < int(response.headers["Retry-After"]) <= services.FAILURES_COUNT_FOR
    assert "seconds" in response.error["what"]


def test_the_wait_ends_when_it_said(login, alice):
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False) as traveller:
        for _ in range(services.MAX_FAILURES):
            login(password="Wrong-horse-1")
        traveller.shift(100)
        assert login().headers["Retry-After"] == "200"
        traveller.shift(201)
        assert login().status_code == 200


@pytest.mark.parametrize("ahead", [7200, 30 * 86400])
def test_failures_counted_by_a_clock_that_was_ahead_expire(login, alice, ahead):
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False) as traveller:
        traveller.shift(ahead)
        for _ in range(services.MAX_FAILURES):
            login(password="Wrong-horse-1")
        assert login().status_code == 429
        traveller.shift(-ahead)
        assert login().status_code == 200


def test_a_success_empties_the_count(login, alice):
    for _ in range(2):
        for _ in range(services.MAX_FAILURES - 1):
            assert login(password="Wrong-horse-1").status_code == 401
        assert login().status_code == 200


def test_the_count_ignores_the_case_of_the_address(login, alice):
    for _ in range(services.MAX_FAILURES):
        login(email="Alice@example.org", password="Wrong-horse-1")
    assert login(email="alice@example.org").status_code == 429


def test_others_are_not_kept_waiting(login, client_of, alice, bob):
    for _ in range(services.MAX_FAILURES + 1):
        login(password="Wrong-horse-1")
    assert login(email=bob.email).status_code == 200
    elsewhere = {"email": alice.email, "password": PASSWORD}
    assert (
        client_of().post("/auth/general", elsewhere, REMOTE_ADDR="203.0.113.9").status_code == 200
    )


def try_from_everywhere(client_of, email, times=services.MAX_FAILURES_ANYWHERE):
    """Send wrong passwords, each from another address. Return the last response."""
    wrong = {"email": email, "password": "Wrong-horse-1"}
    return [
        client_of().post("/auth/general", wrong, REMOTE_ADDR=f"203.0.113.{n}") for n in range(times)
    ][-1]


def test_failures_from_ever_other_addresses_are_counted_together(login, client_of, alice):
    assert try_from_everywhere(client_of, "Alice@example.org").status_code == 401
    response = login()
    assert (response.status_code, response.error["code"]) == (429, 5013)
    assert 0 < int(response.headers["Retry-After"]) <= services.FAILURES_COUNT_FOR


def test_strangers_do_not_lock_out_who_logs_in_from_where_they_did_before(login, client_of, alice):
    assert login().status_code == 200
    try_from_everywhere(client_of, alice.email)
    assert login().status_code == 200
    assert login(password="Wrong-horse-1").status_code == 401


@pytest.fixture
def few(monkeypatch):
    """The number of failures from everywhere that lock an account to strangers."""
    monkeypatch.setattr(services, "MAX_FAILURES_ANYWHERE", 3)
    return 3


def test_strangers_do_not_lock_out_a_browser_that_logged_in_before(login, client_of, alice, few):
    client = client_of()
    assert login(client=client).status_code == 200
    client.post("/auth/logout")
    try_from_everywhere(client_of, alice.email, few)
    client.defaults["REMOTE_ADDR"] = "198.51.100.7"
    assert login(client=client, password="Wrong-horse-1").status_code == 401
    assert login(client=client).status_code == 200
    client.post("/auth/logout")
    client.defaults["REMOTE_ADDR"] = "198.51.100.8"
    client.cookies["known_browser"] = client.cookies["known_browser"].value[:-1]
    assert login(client=client).status_code == 429


def test_a_known_browser_has_few_tries_too(login, client_of, alice, bob, few):
    client = client_of()
    login(client=client)
    client.post("/auth/logout")
    for number in range(services.MAX_FAILURES):
        client.defaults["REMOTE_ADDR"] = f"198.51.100.{number}"
        assert login(client=client, password="Wrong-horse-1").status_code == 401
    assert login(client=client).status_code == 429
    try_from_everywhere(client_of, bob.email, few)
    client.defaults["REMOTE_ADDR"] = "198.51.100.200"
    assert login(client=client, email=bob.email).status_code == 429, "it is not known to bob"


def test_a_browser_stays_known_to_each_of_its_users(login, client_of, alice, bob, few):
    client = client_of()
    for email in (alice.email, bob.email):
        assert login(client=client, email=email).status_code == 200
        client.post("/auth/logout")
    try_from_everywhere(client_of, alice.email, few)
    client.defaults["REMOTE_ADDR"] = "198.51.100.7"
    assert login(client=client).status_code == 200


def test_a_browser_is_known_for_thirty_days_whoever_else_signs_in(
    login, client_of, alice, bob, few
):
    client = client_of()
    with time_machine.travel(clock.now(), tick=False) as traveller:
        for email, days in ((alice.email, 25), (bob.email, 6), (bob.email, 0)):
            assert login(client=client, email=email).status_code == 200
            client.post("/auth/logout")
            traveller.shift(timedelta(days=days))
        try_from_everywhere(client_of, alice.email, few)
        try_from_everywhere(client_of, bob.email, few)
        client.defaults["REMOTE_ADDR"] = "198.51.100.7"
        assert login(client=client, email=bob.email).status_code == 200
        client.defaults["REMOTE_ADDR"] = "198.51.100.8"
        assert login(client=client).status_code == 429


def test_a_browser_is_known_to_its_latest_users(login, client_of, alice, bob, few, monkeypatch):
    monkeypatch.setattr(browsers, "MOST_USERS", 1)
    client = client_of()
    for email in (alice.email, bob.email):
        login(client=client, email=email)
        client.post("/auth/logout")
    try_from_everywhere(client_of, alice.email, few)
    client.defaults["REMOTE_ADDR"] = "198.51.100.7"
    assert login(client=client).status_code == 429


def test_a_sign_in_without_a_password_gives_no_new_tries_of_it(client_of, alice):
    answers = []
    for _number in range(3):
        client = client_of()
        request = RequestFactory().get("/")
        request.session = client.session
        services.begin_session(request, alice, ("link",))
        request.session.save()
        client.cookies[settings.SESSION_COOKIE_NAME] = request.session.session_key
        for _try in range(services.MAX_FAILURES // 2):
            sent = client.post("/confirm", {"password": "Wrong-horse-1"}, format="multipart")
            answers.append(sent.status_code)
    assert answers.count(429) == services.MAX_FAILURES // 2


def test_strangers_do_not_stop_a_session_from_confirming(client_of, alice, few):
    client = client_of(alice)
    try_from_everywhere(client_of, alice.email, few)
    client.defaults["REMOTE_ADDR"] = "198.51.100.7"
    assert client.post("/confirm", {"password": PASSWORD}, format="multipart").status_code == 302


def test_one_address_alone_does_not_keep_the_others_waiting(login, client_of, alice):
    for _ in range(services.MAX_FAILURES_ANYWHERE + 1):
        login(password="Wrong-horse-1")
    elsewhere = {"email": alice.email, "password": PASSWORD}
    assert (
        client_of().post("/auth/general", elsewhere, REMOTE_ADDR="203.0.113.9").status_code == 200
    )


def test_unknown_addresses_are_throttled_like_known_ones(login, db):
    for _ in range(services.MAX_FAILURES):
        login(email="nobody@example.org")
    assert login(email="nobody@example.org").status_code == 429


# --- One address, many accounts ---


def guess(client_of, number, ip="203.0.113.7", **more):
    wrong = {"email": f"person{number}@example.org", "password": "Wrong-horse-1"} | more
    return client_of().post("/auth/general", wrong, REMOTE_ADDR=ip)


def test_one_address_tries_a_few_accounts_and_waits(client_of, alice, bob):
    tried = [guess(client_of, number) for number in range(services.MAX_FAILURES_OF_ADDRESS)]
    assert {answer.status_code for answer in tried} == {401}
    refused = guess(client_of, 99, email=alice.email, password=PASSWORD)
    assert (refused.status_code, refused.error["code"]) == (429, 5013)
    assert 0 < int(refused.headers["Retry-After"]) <= services.FAILURES_COUNT_FOR
    assert (
        guess(client_of, 99, "203.0.113.8", email=alice.email, password=PASSWORD).status_code == 200
    )


@pytest.mark.parametrize(
    ("spellings", "other"),
    [
        (
            ["2001:db8:1:2::1", "2001:db8:1:2:ffff::", "2001:DB8:1:2::a1", "[2001:db8:1:2::7]:443"],
            "2001:db8:1:3::1",
        ),
        (
            ["198.51.100.4", "::ffff:198.51.100.4", "198.51.100.4:5060", "::FFFF:c633:6404"],
            "198.51.100.5",
        ),
    ],
)
def test_an_address_is_one_however_it_is_spelled(client_of, db, spellings, other):
    for number in range(services.MAX_FAILURES_OF_ADDRESS):
        assert guess(client_of, number, spellings[number % len(spellings)]).status_code == 401
    assert {guess(client_of, 99, spelling).status_code for spelling in spellings} == {429}
    assert guess(client_of, 99, other).status_code == 401


def test_a_known_address_logs_in_while_strangers_there_are_throttled(client_of, alice):
    right = {"email": alice.email, "password": PASSWORD}
    assert guess(client_of, 0, **right).status_code == 200
    for number in range(services.MAX_FAILURES_OF_ADDRESS + 1):
        answer = guess(client_of, number)
    assert answer.status_code == 429
    assert guess(client_of, 0, **right).status_code == 200


def test_logins_that_succeed_do_not_count_for_their_address(client_of, db):
    for number in range(services.MAX_FAILURES_OF_ADDRESS + 1):
        factories.UserFactory(email=f"person{number}@example.org")
        assert guess(client_of, number, password=PASSWORD).status_code == 200
    assert guess(client_of, 99).status_code == 401


def test_a_try_of_an_unknown_account_counts_for_its_address_and_everywhere(client_of, db):
    for number in range(services.MAX_FAILURES_ANYWHERE):
        assert guess(client_of, 1, f"198.51.100.{number}").status_code == 401
    assert guess(client_of, 1, "198.51.100.200").status_code == 429


def test_where_the_address_is_not_known_only_the_account_counts(client_of, db):
    for number in range(services.MAX_FAILURES_OF_ADDRESS + 1):
        assert guess(client_of, number, "").status_code == 401


# --- Passwords are hashed a few at a time ---


def test_a_login_without_a_free_place_says_when_to_retry(login, alice, monkeypatch):
    monkeypatch.setattr(passwords, "PATIENCE", 0.01)
    with passwords.hashing(lambda: None), passwords.hashing(lambda: None):
        for _ in range(services.MAX_FAILURES + 1):
            refused = login()
    assert (refused.status_code, refused.error["code"]) == (503, 20009)
    assert refused.headers["Retry-After"] == str(passwords.PAUSE)
    assert login().status_code == 200


def test_a_place_that_gets_free_is_taken_by_who_waits(login, alice):
    first = passwords.hashing(lambda: None)
    with passwords.hashing(lambda: None):
        first.__enter__()
        timer = threading.Timer(0.05, lambda: first.__exit__(None, None, None))
        timer.start()
        assert login().status_code == 200
        timer.join()


def test_two_passwords_are_hashed_at_a_time_and_the_others_wait(monkeypatch):
    monkeypatch.setattr(passwords, "PATIENCE", 60.0)
    begun = threading.Semaphore(0)
    go_on = threading.Event()

    def hash_one(number):
        with passwords.hashing(lambda: None):
            begun.release()
            assert go_on.wait(LIMIT)

    with ThreadPoolExecutor(8) as threads:
        done = [threads.submit(hash_one, number) for number in range(8)]
        assert begun.acquire(timeout=LIMIT)
        assert begun.acquire(timeout=LIMIT)
        until(lambda: passwords._queue._value == passwords.MOST_WAITING - 6, "the others wait")
        assert not begun.acquire(blocking=False)
        go_on.set()
    assert all(each.result() is None for each in done)
    assert passwords._places._value == passwords.AT_ONCE


def test_no_more_wait_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(passwords, "_queue", threading.BoundedSemaphore(1))
    taken = passwords.hashing(lambda: None), passwords.hashing(lambda: None), passwords._queue
    with taken[0], taken[1], taken[2], pytest.raises(Unavailable), passwords.hashing(lambda: None):
        pass


def test_without_the_cache_people_can_still_log_in(login, alice, monkeypatch):
    def away(*args, **kwargs):
        raise ConnectionError("no redis")

    for method in ("add", "incr", "get", "delete_many"):
        monkeypatch.setattr(cache, method, away)
    assert login().status_code == 200
    assert login(password="Wrong-horse-1").status_code == 401
