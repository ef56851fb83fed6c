"""The mail settings in the environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SHOW = """
import json
from certctrl import settings
found = {name for name in vars(settings) if "MAIL" in name or name == "NOTICE_FROM"}
print(json.dumps({name: getattr(settings, name) for name in found}))
"""
SMTP = {"EMAIL_HOST": "smtp.example.com", "NOTICE_FROM": "certctrl@example.com"}


def started_with(**environment: str) -> subprocess.CompletedProcess[str]:
    plain = {
        name: value
        for name, value in os.environ.items()
        if "MAIL" not in name and name != "NOTICE_FROM"
    }
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        env=plain | environment,
        capture_output=True,
        text=True,
    )


def settings_of(**environment: str) -> dict[str, Any]:
    started = started_with(**environment)
    assert started.returncode == 0, started.stderr
    return json.loads(started.stdout)


def test_mails_are_off_until_a_server_is_named():
    assert settings_of()["MAIL_IS_SET_UP"] is False
    assert settings_of(**SMTP)["MAIL_IS_SET_UP"] is True


def test_a_mail_service_is_named_by_its_backend(tmp_path):
    secret = tmp_path / "anymail.json"
    secret.write_text('{"POSTMARK_SERVER_TOKEN": "t"}')
    postmark = {
        "EMAIL_BACKEND": "anymail.backends.postmark.EmailBackend",
        "ANYMAIL_FILE": str(secret),
    }
    found = settings_of(**postmark, NOTICE_FROM="certctrl@example.com")
    assert (found["MAIL_IS_SET_UP"], found["ANYMAIL"]) == (True, {"POSTMARK_SERVER_TOKEN": "t"})


def test_the_password_may_come_from_a_file(tmp_path):
    secret = tmp_path / "smtp"
    secret.write_text("hunter2")
    assert (
        settings_of(**SMTP, EMAIL_HOST_PASSWORD_FILE=str(secret))["EMAIL_HOST_PASSWORD"]
        == "hunter2"
    )


def test_an_exchange_with_the_mail_server_takes_no_longer_than_a_turn():
    assert settings_of(**SMTP, EMAIL_TIMEOUT="500", TURN="30")["EMAIL_TIMEOUT"] == 30
    assert settings_of(**SMTP)["EMAIL_TIMEOUT"] == 10


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"EMAIL_HOST": "smtp.example.com"}, "NOTICE_FROM"),
        ({"EMAIL_BACKEND": "anymail.backends.postmark.EmailBackend"}, "NOTICE_FROM"),
        (SMTP | {"EMAIL_USE_TLS": "true", "EMAIL_USE_SSL": "true"}, "EMAIL_USE_TLS"),
    ],
)
def test_unusable_settings_are_reported_at_the_start(environment, name):
    started = started_with(**environment)
    assert started.returncode != 0
    assert f"ImproperlyConfigured: Set {name}" in started.stderr
