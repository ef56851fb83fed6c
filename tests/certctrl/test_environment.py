"""A setting has the value that was written, from every source, and no error repeats it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from certctrl.environment import Environment, read_env

ROOT = Path(__file__).resolve().parents[2]
ODD = [
    "$HOME",
    "\\$x",
    "a$b",
    " spaces ",
    "#a # b",
    "100%",
    "ü€",
    "a'b\"c",
    "a\\nb",
    "key=value",
    "a,b;c",
    "[]{}()",
    "\u2028",
]
SECRETS = (
    "SECRET_KEY",
    "MASTER_KEYS",
    "EMAIL_HOST_PASSWORD",
    "ADMIN_PASSWORD",
    "DATABASE_PASSWORD",
    "REDIS_PASSWORD",
)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {name: os.environ[name] for name in ("PATH", "HOME")})


@pytest.mark.parametrize("secret", ODD)
def test_a_value_arrives_as_written_from_the_environment_env_and_a_file(tmp_path, secret):
    os.environ["A"] = secret
    (tmp_path / ".env").write_bytes(f"B={secret}\nC=next\n".encode())
    read_env(tmp_path / ".env")
    (tmp_path / "file").write_bytes(secret.encode())
    os.environ["D_FILE"] = str(tmp_path / "file")
    assert [Environment().str(name) for name in "ABCD"] == [secret, secret, "next", secret]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"s3cret", "s3cret"),
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b"s3cret\n\n", "s3cret\n"),
        (b" s3cret \n", " s3cret "),
        (b"two\r\nlines\r\n", "two\r\nlines"),
        (b"s3cret\r", "s3cret\r"),
        ("ü $ # % ' \"\n".encode(), "ü $ # % ' \""),
    ],
)
def test_of_a_file_one_line_end_is_dropped_and_nothing_else(tmp_path, name, written, read):
    (tmp_path / "file").write_bytes(written)
    os.environ[f"{name}_FILE"] = str(tmp_path / "file")
    assert Environment().str(name) == read


def test_the_settings_read_every_secret_so(tmp_path):
    """The settings module is imported whole, in its own process."""
    show = """if True:
        import json
        from certctrl import settings as s
        from certctrl.environment import Environment
        found = [s.SECRET_KEY, s.EMAIL_HOST_PASSWORD, s.ANYMAIL["TOKEN"],
                 s.DATABASES["default"]["PASSWORD"],
                 s.CACHES["default"]["OPTIONS"]["password"], Environment().str("ADMIN_PASSWORD")]
        print(json.dumps(found))
    """
    secret = " $s3cret#%ü' "
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_HOST": "db",
        "MASTER_KEYS": "1:" + "A" * 43 + "=",
    }
    for name in (
        "SECRET_KEY",
        "EMAIL_HOST_PASSWORD",
        "ADMIN_PASSWORD",
        "DATABASE_PASSWORD",
        "REDIS_PASSWORD",
        "ANYMAIL",
    ):
        path = tmp_path / name
        path.write_text((json.dumps({"TOKEN": secret}) if name == "ANYMAIL" else secret) + "\n")
        environment[f"{name}_FILE"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", show], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == [secret] * 6, done.stderr


def test_quotes_around_a_whole_value_of_env_are_taken_off(tmp_path):
    (tmp_path / ".env").write_text(
        "\ufeff# comment\n  # another\n\n"
        "export A=' a$b\\'\r\nB=\"a\\\"b\\\\c\\n\"\nC='\nD=\nE=1\nE=2\n"
    )
    read_env(tmp_path / ".env")
    assert [os.environ[name] for name in "ABCDE"] == [" a$b\\", 'a"b\\c\\n', "'", "", "2"]


def test_the_environment_comes_before_env_as_a_value_and_as_a_file(tmp_path):
    (tmp_path / ".env").write_text("A=env\nB_FILE=/env\nC=env\n")
    os.environ |= {"A": "a", "B": "b", "C_FILE": "/c"}
    read_env(tmp_path / ".env")
    assert os.environ["A"] == "a"
    assert "B_FILE" not in os.environ
    assert "C" not in os.environ


@pytest.mark.parametrize("line", ["A = s3cret", "s3cret", "1A=s3cret", " A=s3cret", "A=s3cret\0"])
def test_a_line_of_env_that_sets_nothing_is_named_and_not_shown(tmp_path, line):
    (tmp_path / ".env").write_text(f"B=1\n{line}\n")
    what = r"Line 2 of .*\.env cannot be read\. Write NAME=value"
    with pytest.raises(ImproperlyConfigured, match=what) as refused:
        read_env(tmp_path / ".env")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, r"cannot be read \(No such file"),
        (lambda path: path.mkdir(), r"cannot be read \(Is a directory"),
        (lambda path: path.write_bytes(b"s3cret\xff"), "is not UTF-8. Save it as UTF-8."),
        (lambda path: path.write_bytes(b"s3cret\0"), "is not text, because it has a zero byte"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path, make, why):
    path = tmp_path / "file"
    make(path)
    os.environ["SECRET_KEY_FILE"] = str(path)
    with pytest.raises(
        ImproperlyConfigured, match=f"SECRET_KEY_FILE names {path}, which {why}"
    ) as refused:
        Environment().str("SECRET_KEY")
    assert "s3cret" not in str(refused.value)


def test_a_missing_or_empty_secret_is_asked_for(tmp_path):
    (tmp_path / "empty").write_text("\n")
    for given in ({}, {"SECRET_KEY": ""}, {"SECRET_KEY_FILE": str(tmp_path / "empty")}):
        os.environ |= given
        with pytest.raises(ImproperlyConfigured, match="Set SECRET_KEY, or SECRET_KEY_FILE"):
            Environment().str("SECRET_KEY")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ANYMAIL", '{"TOKEN": "s3cret'),
        ("ANYMAIL", '["s3cret"]'),
        ("ANYMAIL", "[" * 100_000 + "s3cret"),
        ("EMAIL_PORT", "s3cret"),
        ("EMAIL_TIMEOUT", "s.ecret"),
        ("DATABASE_URL", "postgres://u:s3cret/x@h/d"),
        ("DATABASE_URL", "postgres://h:s3cret/d"),
        ("DATABASE_URL", "s3cret"),
        ("REDIS_URL", "rediss://:s3cret#@h/0"),
    ],
)
def test_a_process_ends_with_a_sentence_and_shows_no_value(tmp_path, name, value):
    """A value that is too long for the environment is in a file."""
    (tmp_path / "value").write_text(value)
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "k",
        "MASTER_KEYS": "1:k",
        "DATA_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=environment | {f"{name}_FILE": str(tmp_path / "value")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert name in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("written", "kept"),
    [("", 90), ("7", 7), ("9999", 9999), ("forever", None)],
)
def test_days_are_a_number_or_forever(written, kept):
    os.environ["KEPT"] = written
    found = Environment().days("KEPT", 90, least=7)
    assert (found and found.days) == kept


@pytest.mark.parametrize("written", ["0", "6", "-1", "1.5", "10000", "never", "s3cret", "٩٩"])
def test_other_days_are_refused_and_not_shown(written):
    os.environ["KEPT"] = written
    what = r"KEPT is not a number of days\. Write a whole number from 7 to 9999, or forever\."
    with pytest.raises(ImproperlyConfigured, match=what) as refused:
        Environment().days("KEPT", 90, least=7)
    assert "s3cret" not in str(refused.value)
