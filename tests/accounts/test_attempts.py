"""The sign-in page counts failures as the API does."""

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.urls import reverse

from accounts import passwords, services
from accounts.models import User

PASSWORD = "a-long-password-1A"


@pytest.fixture
def staff(db) -> User:
    return User.objects.create_superuser("root@example.org", PASSWORD)


def log_in(client, password: str, username: str = "root@example.org", **more):
    return client.post(reverse("sign-in"), {"email": username, "password": password}, **more)


def test_the_right_password_logs_in(client, staff):
    assert log_in(client, PASSWORD).status_code == 302


def test_the_moment_of_the_login_is_kept_as_by_the_apis(client, staff):
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False):
        log_in(client, PASSWORD)
        assert client.get("/auth/status").json()["data"]["auth_time"] == 1893456000
        User.objects.update(last_login=None)
        assert client.get("/auth/status").json()["data"]["auth_time"] == 1893456000


def test_after_too_many_failures_the_right_password_is_not_looked_at(client, staff):
    for _ in range(services.MAX_FAILURES):
        assert log_in(client, "wrong").status_code == 401
    page = log_in(client, PASSWORD)
    assert page.status_code == 429
    assert 0 < int(page.headers["Retry-After"]) <= services.FAILURES_COUNT_FOR
    assert "Too many attempts" in page.content.decode()


def test_a_login_that_works_forgets_the_failures(client, staff):
    for _ in range(services.MAX_FAILURES - 1):
        log_in(client, "wrong")
    assert log_in(client, PASSWORD).status_code == 302
    client.logout()
    assert log_in(client, PASSWORD).status_code == 302


SPELLINGS = (
    "root@example.org",
    "  Root@Example.ORG ",
    "\N{FULLWIDTH LATIN SMALL LETTER R}oot@example.org",
    "ROOT\N{FULLWIDTH COMMERCIAL AT}example.org",
    "root@example\N{FULLWIDTH FULL STOP}org",
    "\N{MATHEMATICAL BOLD SMALL R}oot@example.org\N{IDEOGRAPHIC SPACE}",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_account_is_found_in_every_spelling_of_its_address(client, staff, spelling):
    assert log_in(client, PASSWORD, spelling).status_code == 302


def test_every_spelling_of_an_address_counts_for_its_account(client, staff):
    for number in range(services.MAX_FAILURES):
        assert log_in(client, "wrong", SPELLINGS[number % len(SPELLINGS)]).status_code == 401
    for spelling in SPELLINGS:
        assert log_in(client, PASSWORD, spelling).status_code == 429


def test_every_spelling_of_an_unknown_address_counts_as_one(client, db):
    for number in range(services.MAX_FAILURES):
        assert log_in(client, "wrong", SPELLINGS[number % len(SPELLINGS)]).status_code == 401
    assert {log_in(client, "wrong", spelling).status_code for spelling in SPELLINGS} == {429}


def test_the_page_and_the_api_count_together(client, client_of, staff):
    for _ in range(services.MAX_FAILURES):
        log_in(client, "wrong", SPELLINGS[2])
    answer = client_of().post("/auth/general", {"email": "root@example.org", "password": PASSWORD})
    assert answer.status_code == 429


def test_no_second_user_has_another_spelling_of_an_address(client, staff):
    first = User.objects.create_user(
        "Anna@B\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", PASSWORD
    )
    twin = User(email="anna@bu\N{COMBINING DIAERESIS}cher.example", password="unused")
    with pytest.raises(ValidationError, match="Another user has"):
        twin.full_clean()
    assert User.objects.get_by_natural_key(" ANNA@BU\N{COMBINING DIAERESIS}CHER.EXAMPLE") == first


def test_a_page_that_waits_for_too_long_says_when_to_come_back(client, staff, monkeypatch):
    monkeypatch.setattr(passwords, "PATIENCE", 0.01)
    with passwords.hashing(lambda: None), passwords.hashing(lambda: None):
        page = log_in(client, PASSWORD)
    assert (page.status_code, page.headers["Retry-After"]) == (503, str(passwords.PAUSE))
    assert "Too many logins" in page.content.decode()
    assert log_in(client, PASSWORD).status_code == 302


@pytest.mark.parametrize("body", [{"password": ""}, {}, {"email": "", "password": PASSWORD}])
def test_the_api_forgets_no_failures_for_an_empty_member(client_of, staff, body):
    def ask(**more):
        return client_of().post("/auth/general", {"email": "root@example.org"} | more)

    for _ in range(services.MAX_FAILURES):
        assert ask(password="wrong").status_code == 401
    ask(**body)
    assert ask(password=PASSWORD).status_code == 429


@pytest.mark.parametrize("limit", ["MAX_FAILURES_OF_ADDRESS", "MAX_FAILURES_ANYWHERE"])
def test_a_try_that_another_limit_refuses_does_not_count_for_the_account(
    client, staff, monkeypatch, limit
):
    with monkeypatch.context() as patched:
        patched.setattr(services, limit, 0)
        for _ in range(services.MAX_FAILURES):
            assert log_in(client, "wrong").status_code == 429
    assert log_in(client, PASSWORD).status_code == 302
