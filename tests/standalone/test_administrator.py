"""The administrator of the embedded server: made once, its password shown once."""

from pathlib import Path

import pytest
from django.contrib.auth import authenticate
from django.core.management.base import CommandError

from accounts.models import User
from certctrl.state import StateFile
from standalone.administrator import administrator, shown

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch) -> None:
    for name in ("ADMIN_EMAIL", "ADMIN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "embedded.json")


def can_log_in(email: str, password: str) -> bool:
    return authenticate(username=email, password=password) is not None


def test_the_first_start_makes_an_administrator_whose_password_keeps_the_policy(state) -> None:
    admin = administrator(state)
    assert admin.generated
    assert can_log_in("admin@lab.test", admin.password)
    assert User.objects.get().is_superuser
    classes = (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum())
    assert all(any(map(belongs, admin.password)) for belongs in classes)


def test_the_generated_password_is_written_nowhere(state) -> None:
    admin = administrator(state)
    assert admin.password not in state.path.read_text()


def test_once_shown_it_is_not_shown_again_and_not_changed(state) -> None:
    first = administrator(state)
    shown(state)
    second = administrator(state)
    assert (second.password, second.generated) == ("", False)
    assert can_log_in(first.email, first.password)


def test_a_password_that_nobody_saw_is_replaced_by_one_that_is_shown(state) -> None:
    administrator(state)  # and here the first start was killed
    second = administrator(StateFile(state.path))
    assert second.generated
    assert can_log_in(second.email, second.password)


def test_address_and_password_may_be_given(state, monkeypatch) -> None:
    monkeypatch.setenv("ADMIN_EMAIL", "Ops@example.com")
    monkeypatch.setenv("ADMIN_PASSWORD", "a Given pass-word 1")
    admin = administrator(state)
    assert not admin.generated
    assert can_log_in("ops@example.com", "a Given pass-word 1")


def test_a_password_given_later_changes_nothing_and_helps_only_when_it_is_right(
    state, monkeypatch
) -> None:
    first = administrator(state)
    shown(state)
    monkeypatch.setenv("ADMIN_PASSWORD", "another Pass-word 1")
    assert administrator(state).password == ""
    monkeypatch.setenv("ADMIN_PASSWORD", first.password)
    assert administrator(state).password == first.password


@pytest.mark.parametrize(
    ("name", "value"),
    [("ADMIN_EMAIL", "admin"), ("ADMIN_PASSWORD", "short"), ("ADMIN_PASSWORD", "password1234")],
)
def test_what_cannot_be_used_is_refused_before_there_is_a_user(
    state, monkeypatch, name, value
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(CommandError, match="ADMIN_EMAIL or ADMIN_PASSWORD cannot be used"):
        administrator(state)
    assert not User.objects.exists()


def test_users_that_others_made_are_left_alone(state) -> None:
    User.objects.create_superuser("ops@example.com", "their own Pass-word 1")
    assert administrator(state).password == ""
    assert can_log_in("ops@example.com", "their own Pass-word 1")
