"""`manage.py backup`, `manage.py restore` and `python -m backups`."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent, User
from backups import making
from backups.contents import settings_file
from certctrl.environment import Environment, read_env
from tests.emptying import empty_database

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def recipient(recovery_key: Any) -> str:
    return str(recovery_key.to_public())


def run(*args: Any) -> str:
    out = io.StringIO()
    call_command(*args, stdout=out)
    return out.getvalue()


def in_a_process(*args: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m backups` without any setting."""
    return subprocess.run(
        [sys.executable, "-m", "backups", *map(str, args)],
        cwd=django_settings.BASE_DIR,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_list_says_what_a_backup_would_hold_and_shows_no_secret(owner):
    said = run("backup", "--list")
    assert "1  users" in said
    assert "master keys: 1" in said
    assert "SECRET_KEY" in said
    assert django_settings.SECRET_KEY not in said
    assert "A" * 43 not in said


def test_the_list_is_shown_before_anything_is_written(tmp_path, owner, recipient, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    with pytest.raises(CommandError, match="Nothing was written"):
        run("backup", "--to", tmp_path / "a", "--recipient", recipient)
    assert len(asked) == 1
    assert list(tmp_path.iterdir()) == []
    assert not AuditEvent.objects.exists()


def test_a_yes_writes_it(tmp_path, owner, recipient, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert "1  users" in run("backup", "--to", tmp_path / "a", "--recipient", recipient)
    assert (tmp_path / "a").exists()


def test_the_recipients_of_the_settings_are_used(tmp_path, owner, settings, recipient):
    settings.BACKUP_RECIPIENTS = [recipient]
    run("backup", "--to", tmp_path / "a", "--yes")
    [event] = AuditEvent.objects.all()
    assert event.detail["recovery_keys"] == [recipient]


def test_without_a_recovery_key_nothing_is_written(tmp_path, owner):
    with pytest.raises(CommandError, match="BACKUP_RECIPIENTS"):
        run("backup", "--to", tmp_path / "a", "--yes")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_named(tmp_path, owner, recipient):
    with pytest.raises(CommandError, match="nowhere"):
        run("backup", "--to", tmp_path / "nowhere/a", "--recipient", recipient, "--yes")


def test_a_restore_says_what_it_restored(tmp_path, owner, recipient, recovery_file):
    run("backup", "--to", tmp_path / "a", "--recipient", recipient, "--yes")
    empty_database()
    assert "1  users" in run("restore", tmp_path / "a", "--recovery-key", recovery_file)
    assert User.objects.get() == owner


def test_a_restore_that_is_refused_says_why_in_a_sentence(tmp_path, owner, backup, recovery_file):
    with pytest.raises(CommandError, match="in use"):
        run("restore", backup, "--recovery-key", recovery_file)


def test_a_backup_that_is_missing_is_named(tmp_path, recovery_file):
    with pytest.raises(CommandError, match="nowhere cannot be read"):
        run("restore", tmp_path / "nowhere", "--recovery-key", recovery_file)


def test_a_backup_is_checked_without_settings_and_database(owner, backup, recovery_file):
    checked = in_a_process(backup, "--recovery-key", recovery_file)
    assert "is complete" in checked.stdout, checked.stderr
    assert "1  users" in checked.stdout


def test_a_damaged_backup_is_found_without_settings(owner, backup, recovery_file):
    backup.write_bytes(backup.read_bytes()[:-9])
    checked = in_a_process(backup, "--recovery-key", recovery_file)
    assert checked.returncode == 1
    assert checked.stderr.count("\n") == 1
    assert "not complete" in checked.stderr


def test_the_settings_are_written_into_a_new_file(owner, backup, recovery_file, tmp_path):
    env = tmp_path / "env"
    assert in_a_process(backup, "--recovery-key", recovery_file, "--settings", env).returncode == 0
    assert f"SECRET_KEY='{django_settings.SECRET_KEY}'" in env.read_text()
    assert env.stat().st_mode & 0o777 == 0o600
    again = in_a_process(backup, "--recovery-key", recovery_file, "--settings", env)
    assert "Name a new file" in again.stderr


@pytest.mark.parametrize("value", ["plain", "'quoted'", 'a "b" $HOME #c', " spaces ", r"a\nb\'"])
def test_settings_are_read_as_they_were(monkeypatch, tmp_path, owner, value):
    monkeypatch.setattr(Environment, "given", {"A_SETTING": value})
    (tmp_path / "env").write_text(settings_file(making.contents()))
    monkeypatch.setattr(os, "environ", {})
    read_env(tmp_path / "env")
    assert os.environ["A_SETTING"] == value


def test_a_setting_of_several_lines_becomes_a_comment(monkeypatch, tmp_path, owner):
    monkeypatch.setattr(Environment, "given", {"A_SETTING": "one\ntwo"})
    (tmp_path / "env").write_text(settings_file(making.contents()))
    monkeypatch.setattr(os, "environ", {})
    read_env(tmp_path / "env")
    assert "A_SETTING" not in os.environ
    assert "# two" in (tmp_path / "env").read_text()


def test_settings_of_the_machine_are_left_out(monkeypatch):
    given = {"DATABASE_URL": "postgres://", "REDIS_URL": "redis://", "DATA_DIR": "/x", "TURN": "8"}
    monkeypatch.setattr(Environment, "given", given)
    assert making.given_settings() == {"TURN": "8"}


def test_a_backup_without_users_may_be_made_and_restored(
    tmp_path: Path, recovery_key: Any, restore: Any, db: None
):
    making.make(tmp_path / "a", [recovery_key.to_public()], "operator")
    restore(tmp_path / "a")
    assert not AuditEvent.objects.exists()
