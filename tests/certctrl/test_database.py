"""The database is named by a URL, or by its parts. A password may have any character."""

import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import ConnectionHandler

from certctrl import datastores, settings
from certctrl.environment import Environment
from tests.e2e.processes import make_cluster
from tests.servers import free_port, serving

ODD = "p+a/s=s%2?@w:o#r d&;,[x]ü€$'\"\\"
POSTGRESQL = {"ENGINE": "django.db.backends.postgresql"}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`given(DATABASE_URL=...)` returns the settings that Django gets."""

    def read(**settings: object) -> dict[str, Any]:
        for part in ("URL", *datastores.PARTS, "PASSWORD_FILE"):
            monkeypatch.delenv(f"DATABASE_{part}", raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(f"DATABASE_{name}", str(value))
        return datastores.database(Environment(), Path("/data folder?+"))

    return read


def test_the_default_database_is_sqlite_in_a_data_folder_of_any_name(given):
    assert given() == {"ENGINE": datastores.SQLITE, "NAME": "/data folder?+/certctrl.sqlite3"}
    assert given(URL="sqlite:////srv/a@b.sqlite3")["NAME"] == "/srv/a@b.sqlite3"


def test_its_parts_arrive_as_written(given):
    parts = {"HOST": "db", "PORT": 6432, "NAME": "certs", "USER": "ü", "PASSWORD": ODD}
    assert given(**parts) == POSTGRESQL | parts
    assert given(HOST="/run/postgresql") == POSTGRESQL | {
        "HOST": "/run/postgresql",
        "NAME": "certctrl",
        "USER": "certctrl",
    }


def test_a_part_counts_before_that_of_the_url_whose_options_stay(given):
    found = given(
        URL="postgres://u:old@db:6432/certs?sslmode=verify-full", PASSWORD=ODD, HOST="other"
    )
    assert (found["USER"], found["PASSWORD"], found["HOST"], found["PORT"]) == (
        "u",
        ODD,
        "other",
        6432,
    )
    assert found["OPTIONS"] == {"sslmode": "verify-full"}


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("a+b=c", "a+b=c"),
        ("a:b@c", "a:b@c"),
        ("a%2Fb%25%3F", "a/b%?"),
        ("a&b;c,d$e'f!", "a&b;c,d$e'f!"),
        ("ü ℀", "ü ℀"),
        (quote(ODD, safe=""), ODD),
    ],
)
@pytest.mark.parametrize(
    "rest",
    ["db:5432/certs", "db/certs?sslmode=require", "db", "db?sslmode=require", "[::1]:5432/certs"],
)
def test_a_password_in_the_url_is_read_by_the_standard(given, written, password, rest):
    found = given(URL=f"postgres://certctrl:{written}@{rest}")
    assert (found["USER"], found["PASSWORD"]) == ("certctrl", password)
    assert found["HOST"] == ("::1" if "::1" in rest else "db")


@pytest.mark.parametrize(
    "password", ["s3cret/b", "s3cret?b", "s3cret#b", "s3cret%b", "%s3cret", "s3[cret", "s3cret%"]
)
def test_one_that_the_url_cuts_is_refused_without_being_shown(given, password):
    with pytest.raises(
        ImproperlyConfigured, match=r"Set DATABASE_PASSWORD .* percent-encoded"
    ) as refused:
        given(URL=f"postgres://certctrl:{password}@db:5432/certs")
    assert "s3" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"URL": "s3cret"}, "DATABASE_URL must begin with postgres://"),
        ({"URL": "mysql://u:s3cret@h/d"}, "DATABASE_URL must begin with postgres://"),
        ({"URL": "postgres://u:s3cret"}, "The host or the port of DATABASE_URL"),
        ({"URL": "postgres://u:s3cret@h:99999/d"}, "The host or the port of DATABASE_URL"),
        ({"PASSWORD": "s3cret"}, "Set DATABASE_HOST"),
        ({"URL": "sqlite:///x", "PASSWORD": "s3cret"}, "DATABASE_URL names SQLite"),
        ({"HOST": "h", "PORT": "s3cret"}, "DATABASE_PORT is not a whole number"),
    ],
)
def test_an_invalid_database_url_is_refused_without_being_shown(given, settings, what):
    with pytest.raises(ImproperlyConfigured, match=what) as refused:
        given(**settings)
    assert "s3cret" not in str(refused.value)


# --- a real server that asks for it ---


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """A PostgreSQL where the role certctrl logs in with ODD. Return its port."""
    # Not in pytest's folder, which only its owner may enter: PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="certctrl-scram-"))
    folder.chmod(0o755)
    data, binaries, user = make_cluster(folder / "data")
    access = folder / "hba.conf"
    port = free_port()
    access.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    options = {"listen_addresses": "127.0.0.1", "port": port, "hba_file": access, "fsync": "off"}
    command = [binaries / "postgres", "-D", data, "-k", data]
    command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    conninfo = f"host={data} port={port} user=postgres dbname=postgres"
    log = folder / "log"
    try:
        with serving(
            command, port, log, lambda: answers(conninfo), end=signal.SIGINT, user=user, cwd="/"
        ):
            with psycopg.connect(conninfo, autocommit=True) as connection:
                literal = psycopg.sql.Literal(ODD).as_string(connection)
                connection.execute(f"CREATE ROLE certctrl LOGIN PASSWORD {literal}")
                connection.execute("CREATE DATABASE certctrl OWNER certctrl")
            yield port
    finally:
        shutil.rmtree(folder)


def answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


def logs_in(config: dict[str, Any]) -> bool:
    connection = ConnectionHandler({"default": config})["default"]
    try:
        connection.get_new_connection(connection.get_connection_params()).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_real_server_accepts_the_password_from_setting_and_url(given, server, tmp_path):
    assert logs_in(given(HOST="127.0.0.1", PORT=server, PASSWORD=ODD))
    assert logs_in(
        given(URL=f"postgres://certctrl:{quote(ODD, safe='')}@127.0.0.1:{server}/certctrl")
    )
    (tmp_path / "password").write_text(f"{ODD}\n")
    assert logs_in(given(HOST="127.0.0.1", PORT=server, PASSWORD_FILE=tmp_path / "password"))
    assert not logs_in(given(HOST="127.0.0.1", PORT=server, PASSWORD=secrets.token_hex()))


def test_statements_are_prepared_unless_the_setting_is_off(monkeypatch):
    assert settings.postgres_options()["prepare_threshold"]
    monkeypatch.setattr(settings, "PREPARED_STATEMENTS", False)
    assert not {"prepare_threshold", "server_side_binding"} & set(settings.postgres_options())
