"""A full disk is reported as full, for the server or the database. Reads still work."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis
from django.core.cache import caches
from django.db import OperationalError, connection

from accounts import audit
from certctrl import clock, disk, dispatch
from certctrl.health import SWEPT
from lab.ca import PROJECT
from tests import factories
from tests.patience import until

pytestmark = pytest.mark.django_db
MIB = 1024 * 1024
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to mount a small file system"
)
needs_redis = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="needs Debian's redis-server"
)


@pytest.fixture
def small(tmp_path):
    """A file system of four MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return filler


ON_A_FULL_DISK = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
import django
django.setup()
from django.core.cache import cache
from accounts.models import User
from certctrl import clock
from certctrl.health import SWEPT
from tests import factories
from tests.certctrl.test_disk_full import fill
from tests.conftest import JSONClient
from pathlib import Path

user = factories.UserFactory(email="alice@example.org")
client = JSONClient(raise_request_exception=False)
client.force_login(user)
script = JSONClient(raise_request_exception=False)
script.credentials(HTTP_AUTHORIZATION="Bearer " + factories.api_key(user, "dns_providers:*[read]"))
cache.set(SWEPT, clock.now().timestamp(), None)
body = {"provider": "cloudflare", "api_token": "a-token"}
told = []

def tell(name, answer):
    told.append([name, answer.status_code, answer.body])

def ask():
    tell("create", client.post("/apiv1/me/dns-providers", body))
    login = {"email": "alice@example.org", "password": factories.PASSWORD}
    tell("login", client.post("/auth", login))
    tell("list", client.get("/apiv1/me/dns-providers"))
    tell("list by key", script.get("/apiv1/me/dns-providers"))
    tell("health", client.get("/health"))

tell("room", client.get("/health"))
filler = fill(Path(sys.argv[1]))
for number in range(400):  # until the last page of the file and of its journal is taken
    if client.post("/apiv1/me/dns-providers", body).status_code != 201:
        break
ask()
filler.unlink()
cache.delete("disk_full")
ask()
print(json.dumps(told))
"""


@pytest.mark.slow
@needs_root
def test_sqlite_on_a_full_disk_says_why_and_recovers_when_there_is_room(small):
    if connection.vendor != "sqlite":
        pytest.skip("it is SQLite's file that is on the small disk")
    file = small / "certctrl.sqlite3"
    copy = sqlite3.connect(file)
    copy.executescript("\n".join(connection.connection.iterdump()))
    copy.close()
    environment = os.environ | {
        "DATABASE_URL": f"sqlite:///{file}",
        "PYTHONPATH": str(PROJECT),
        "ALLOWED_HOSTS": "*",
    }
    ran = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(small)],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    room = told[0]
    full = dict(map(split, told[1:6]))
    again = dict(map(split, told[6:]))
    assert room[1] == 200
    for name, status in (("create", 507), ("login", 507), ("health", 503)):
        assert full[name][0] == status, full
        error = full[name][1]["error"]
        assert (error["code"], error["key"]) == (20012, "GENERAL::DISK_FULL")
        assert "The disk of the database is full" in error["what"]
        assert error["params"]["retry_after"] == 60
    assert (full["list"][0], full["list by key"][0]) == (200, 200), "what only reads is answered"
    assert {name: status for name, (status, _) in again.items()} == {
        "create": 201,
        "login": 200,
        "list": 200,
        "list by key": 200,
        "health": 200,
    }
    assert "sqlite3" not in ran.stdout


def split(row):
    name, status, body = row
    return name, (status, body)


@pytest.mark.slow
@needs_root
def test_manage_py_on_a_full_disk_says_so_without_a_traceback(small):
    file = small / "certctrl.sqlite3"
    fill(small)
    secrets = {"SECRET_KEY": "x" * 50, "MASTER_KEYS": "1:" + "A" * 43 + "="}
    environment = (
        os.environ | secrets | {"DATABASE_URL": f"sqlite:///{file}", "DATA_DIR": str(small)}
    )
    environment["DJANGO_SETTINGS_MODULE"] = "certctrl.settings"
    ran = subprocess.run(
        [sys.executable, "manage.py", "migrate"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode != 0
    assert "The disk of the database is full" in ran.stderr
    assert "Traceback" not in ran.stderr


# --- PostgreSQL ---


class FullDatabase(Exception):
    """Like psycopg.errors.DiskFull, PostgreSQL's error 53100."""

    sqlstate = "53100"


def test_postgresql_out_of_space_is_reported(client_of, alice, monkeypatch):
    def full(*args, **kwargs):
        raise OperationalError("could not extend file") from FullDatabase()

    client = client_of(alice)
    monkeypatch.setattr(audit, "insert", full)
    key = {
        "name": "ci",
        "expires_in_seconds": 60,
        "permissions": [factories.permission("devices:*[read]")],
    }
    answer = client.post("/apiv1/me/apikeys", key)
    assert (answer.status_code, answer.error["key"]) == (507, "GENERAL::DISK_FULL")
    assert answer.headers["Retry-After"] == "60"
    assert "database" in answer.error["what"]
    caches["default"].set(SWEPT, clock.now().timestamp(), None)
    assert client.get("/health").status_code == 503, "whoever looks is told too"


@pytest.mark.slow
@needs_root
@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_a_postgresql_whose_disk_is_full_is_known_by_its_error(small):
    with connection.cursor() as cursor:
        cursor.execute("SHOW data_directory")
        owner = Path(cursor.fetchone()[0]).stat()
        # The server's user reaches the folder through every folder above it.
        for folder in (small, *small.parents):
            if folder == Path(tempfile.gettempdir()):
                break
            folder.chmod(0o755)
        os.chown(small, owner.st_uid, owner.st_gid)
        cursor.execute(f"CREATE TABLESPACE small LOCATION '{small}'")
        try:
            cursor.execute("CREATE TABLE filler (words text) TABLESPACE small")
            with pytest.raises(OperationalError) as error:
                cursor.execute(
                    "INSERT INTO filler"
                    " SELECT repeat(i::text, 200) FROM generate_series(1, 50000) i"
                )
            assert "database" in disk.refusal_of(error.value).what
        finally:
            cursor.execute("DROP TABLE IF EXISTS filler")
            cursor.execute("DROP TABLESPACE small")


def test_a_database_that_is_busy_is_no_full_disk(client_of, alice, monkeypatch):
    def busy(*args, **kwargs):
        raise OperationalError("database is locked") from sqlite3.OperationalError(
            "database is locked"
        )

    monkeypatch.setattr(audit, "insert", busy)
    key = {
        "name": "ci",
        "expires_in_seconds": 60,
        "permissions": [factories.permission("devices:*[read]")],
    }
    answer = client_of(alice).post("/apiv1/me/apikeys", key)
    assert (answer.status_code, answer.error["key"]) == (503, "GENERAL::UNAVAILABLE")


@pytest.mark.parametrize("number", disk.NO_SPACE)
def test_a_file_that_could_not_be_written_is_this_servers_disk(number):
    assert "The disk of this server is full" in disk.refusal_of(OSError(number, "no")).what
    assert disk.refusal_of(OSError(13, "Permission denied")) is None
    assert disk.refusal_of(ValueError("x")) is None
    assert disk.refusal_of(None) is None


# --- a real Redis ---


@pytest.fixture
def full_redis(tmp_path, settings, request):
    """A Redis that accepts no write, for lack of `memory` or `disk`, and its settings."""
    folder = tmp_path / "redis"
    folder.mkdir()
    if request.param == "disk":
        folder = request.getfixturevalue("small")
    socket = tmp_path / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    more = ["--save", "1 1"] if request.param == "disk" else ["--save", "", "--maxmemory", "1"]
    process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(socket))
    try:
        until(lambda: answers(client), "Redis answers")
        if request.param == "disk":
            client.set("key", "value")
            fill(folder)
            client.bgsave()
            until(
                lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
                "the disk is full",
            )
        cache = {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"unix://{socket}",
        }
        settings.CACHES = {"default": cache}
        yield f"redis+socket://{socket}"
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    finally:
        client.close()
        process.kill()
        process.wait()


def answers(client):
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@needs_redis
@pytest.mark.parametrize(
    "full_redis",
    ["memory", pytest.param("disk", marks=needs_root)],
    indirect=True,
    ids=["memory", "disk"],
)
def test_health_says_that_redis_is_full_and_creates_go_on(full_redis, client_of, alice):
    answer = client_of().get("/health")
    assert (answer.status_code, answer.error["key"]) == (503, "GENERAL::DISK_FULL")
    assert "Redis" in answer.error["what"]
    assert client_of(alice).post("/apiv1/me/cas", {"name": "Home"}).status_code == 201
    login = client_of().post("/auth", {"email": alice.email, "password": factories.PASSWORD})
    assert login.status_code == 200, "nothing is counted, and people can still log in"


@needs_redis
@pytest.mark.parametrize("full_redis", ["memory"], indirect=True)
def test_a_message_that_a_full_redis_does_not_take_is_left_to_the_sweep(full_redis):
    from celery import Celery

    app = Celery(
        broker=full_redis, broker_transport_options={"max_retries": 1, "interval_start": 0}
    )
    app.conf.task_publish_retry = False

    @app.task
    def nothing():
        """Do nothing; it is never run."""

    assert dispatch.send(lambda: nothing.apply_async()) is False
