"""The admin's login counts failures as the API's does."""

import pytest
import time_machine
from django.urls import reverse

from accounts import services
from accounts.models import User

PASSWORD = "a-long-password-1A"


@pytest.fixture
def staff(db) -> User:
    return User.objects.create_superuser("root@example.org", PASSWORD)


def log_in(client, password: str):
    return client.post(reverse("admin:login"), {"username": "root@example.org", "password": password})


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
        assert log_in(client, "wrong").status_code == 200
    page = log_in(client, PASSWORD)
    assert page.status_code == 200
    assert "Too many attempts" in page.content.decode()


def test_a_login_that_works_forgets_the_failures(client, staff):
    for _ in range(services.MAX_FAILURES - 1):
        log_in(client, "wrong")
    assert log_in(client, PASSWORD).status_code == 302
    client.logout()
    assert log_in(client, PASSWORD).status_code == 302
