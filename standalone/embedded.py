"""The environment of the embedded server: its data folder, secrets, Redis and lab.

`manage.py up` calls `prepare()` before Django reads its settings. The settings need secrets that
the first start creates. Values in the environment or in `.env` always win.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import sqlite3
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from certctrl import listening
from certctrl.environment import read_env
from certctrl.state import StateFile
from certctrl.supervisor import Child
from standalone import ports
from standalone.redisserver import RedisServer

if TYPE_CHECKING:
    from lab.loopback import Lab


BASE_DIR = Path(__file__).resolve().parent.parent
STATE_FILE = "embedded.json"
MASTER_KEY_FILE = "master.keys"
DATABASE_FILE = "certctrl.sqlite3"
NOT_IN_A_DEMO = (
    *("DATABASE_URL", "DATABASE_HOST", "DATABASE_PORT", "DATABASE_NAME", "DATABASE_USER"),
    *("DATABASE_PASSWORD", "REDIS_URL", "REDIS_PASSWORD", "SECRET_KEY", "MASTER_KEYS"),
    *("MASTER_KEYS_PATH", "MASTER_KEYS_ELSEWHERE", "MASTER_KEY_CURRENT", "EMAIL_HOST"),
    *("EMAIL_BACKEND", "NOTICE_FROM", "AUDIT_HEADS_TO", "AUDIT_ARCHIVE", "BACKUP_RECIPIENTS"),
    *("SERVICE_ZONE", "SERVICE_DNS_CREDENTIAL", "ADMIN_EMAIL", "ADMIN_PASSWORD"),
)
PORTS = range(8080, 8180)  # tried in order when PORT is not set


class CannotStart(SystemExit):
    """The server cannot start. The sentence says why and what to do."""


@dataclass
class Embedded:
    """The parts that `manage.py up` runs.

    `redis` is None when REDIS_URL names another server. `lab` is None with LAB=0.
    """

    folder: Path
    state: StateFile
    listen: str
    port: int
    redis: RedisServer | None
    lab: "Lab | None"
    lock: int

    def manage(self, command: str) -> str:
        """Return the shell command that runs one of our management commands."""
        where = (
            ""
            if self.folder == BASE_DIR / ".data"
            else f"DATA_DIR={shlex.quote(str(self.folder))} "
        )
        return f"{where}{shlex.quote(os.path.relpath(sys.executable))} manage.py {command}"

    @property
    def address(self) -> str:
        host = listening.in_url(listening.called(self.listen))
        return f"http://{host}:{self.port}{os.environ.get('URL_PREFIX', '').rstrip('/')}"

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def make_master_key(self) -> None:
        """Create the master key at the first start, and never again.

        A new key cannot open old secrets. Raise CannotStart when the key is gone or cannot be used.
        """
        # The import needs Django's settings.
        from keystore.masterkeys import FileKeys, MasterKeyProblem, create_file

        path = self.folder / MASTER_KEY_FILE
        if os.environ.get("MASTER_KEYS_PATH") != str(path):
            return
        if not path.exists() and (
            self.state.get("master_key_made") or holds_secrets(self.folder / DATABASE_FILE)
        ):
            raise CannotStart(
                f"{path} is missing. Restore it, because only its key opens the secrets in "
                "the database."
            )
        if path.is_file() and not path.read_bytes().strip(b"\0 \t\r\n"):
            raise CannotStart(
                f"{path} is empty. Restore it from a backup, because only its key opens the "
                "secrets in the database. No new key was generated."
            )
        try:
            create_file(path)
            FileKeys(path).keys()
        except MasterKeyProblem as exc:
            raise CannotStart(f"{path} cannot be used. {exc}") from None
        self.state.once("master_key_made", True)

    def note_database(self) -> None:
        """Record that the database file exists. From now on, an empty file is a damaged one.

        Do nothing if the database is another one.
        """
        if uses_database_file(os.environ):
            self.state.once("database_made", True)

    def children(self) -> list[Child]:
        """Return web, clock and worker, in the order of starting."""
        from django.conf import settings

        python = sys.executable
        celery = [sys.executable, "-m", "celery", "-A", "certctrl"]
        quiet = [
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            "--loglevel",
            settings.LOG_LEVEL,
        ]
        pool = ["--pool", settings.WORKER_POOL, "--concurrency", str(settings.WORKER_CONCURRENCY)]
        web = ["certctrl.webserver", "--host", self.listen, "--port", str(self.port)]
        return [
            self._child("web", [python, "-m", *web], 8),
            self._child("clock", [python, "-m", "standalone.clock"], 5),
            self._child(
                "worker",
                [*celery, "worker", "-Q", "celery", "-n", "worker@%h", *pool, *quiet],
                15,
            ),
        ]

    def _child(
        self,
        name: str,
        command: list[str],
        patience: float,
    ) -> Child:
        return Child(
            name,
            command,
            log=self.log(name),
            patience=patience,
            folder=BASE_DIR,
            forked=True,
        )


_prepared: Embedded | None = None


def prepared() -> Embedded:
    """Return the result of prepare(). Raise CannotStart if manage.py did not start the command."""
    if _prepared is None:
        raise CannotStart("Start the embedded server with `make run` or `python manage.py up`.")
    return _prepared


def prepare() -> Embedded:
    """Prepare the folder, the secrets and the ports, and set the environment for the settings.

    Raise CannotStart when one of them cannot be used.
    """
    if is_on("DEMO"):
        isolate(os.environ)
    folder = data_folder()
    try:
        return _prepare(folder)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CannotStart(
            f"The disk of the data folder {folder} is full. Make room, then start again."
        ) from None


def _prepare(folder: Path) -> Embedded:
    global _prepared
    listen = listen_of(os.environ.get("LISTEN", ""))
    port = os.environ.get("PORT", "")
    wanted = port_of(port) if port else None
    os.umask(0o077)  # only the owner may read the files, SQLite's too
    make_folder(folder)
    lock = take_lock(folder)
    taken = take_port(listen, wanted, folder)
    state = StateFile(folder / STATE_FILE)
    if uses_database_file(os.environ):
        refuse_emptied(folder / DATABASE_FILE, state)
    before = dict(os.environ)
    provide_secrets(os.environ, folder, state)
    redis = None if given(os.environ, "REDIS_URL") else own_redis(folder, state)
    if redis:
        os.environ["REDIS_URL"] = redis.url
    lab = own_lab(folder, state)
    state.keep(
        environment={name: value for name, value in os.environ.items() if before.get(name) != value}
    )
    _prepared = Embedded(folder, state, listen, taken, redis, lab, lock)
    return _prepared


def isolate(env: MutableMapping[str, str]) -> None:
    """Take nothing from outside the data folder. `.env` does not replace a name that is set.

    A demo must not come near another database, Redis or mail server.
    """
    env.setdefault("DATA_DIR", str(BASE_DIR / ".demo"))
    for name in NOT_IN_A_DEMO:
        env.pop(f"{name}_FILE", None)
        env[name] = ""
    env["LAB"] = "0"


def is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in {"1", "yes", "true", "on"}


def recall() -> None:
    """Set the environment of this data folder's embedded server, for the other commands.

    Do nothing when there is no such server.
    """
    state = StateFile(data_folder() / STATE_FILE)
    for name, value in state.get("environment", {}).items():
        if not given(os.environ, name):
            os.environ[name] = value


def data_folder() -> Path:
    read_env(BASE_DIR / ".env")
    return Path(os.environ.setdefault("DATA_DIR", str(BASE_DIR / ".data"))).absolute()


def given(env: MutableMapping[str, str], name: str) -> bool:
    """Return whether the setting is in the environment, as NAME or as NAME_FILE."""
    return bool(env.get(name) or env.get(f"{name}_FILE"))


def uses_database_file(env: MutableMapping[str, str]) -> bool:
    """Return whether the database is the file in the data folder."""
    return not given(env, "DATABASE_URL") and not given(env, "DATABASE_HOST")


def port_of(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise CannotStart(
            f"PORT is {text!r}. Give a number from 1 to 65535, for example PORT=8081."
        )
    return int(text)


def make_folder(folder: Path) -> None:
    """Create the data folder, for its owner only."""
    try:
        for each in (folder, folder / "log", folder / "static"):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as exc:
        raise CannotStart(
            f"The data folder {folder} cannot be used ({exc.strerror}). Choose another with "
            "DATA_DIR."
        ) from None


def take_lock(folder: Path) -> int:
    """Lock the data folder until this process ends.

    Raise CannotStart when another server has the lock.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = os.pread(descriptor, 16, 0).decode() or "unknown"
        raise CannotStart(
            f"Another server (process {who}) uses the data folder {folder}. Stop it, or "
            "choose another folder with DATA_DIR."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def listen_of(text: str) -> str:
    try:
        return listening.host_of(text)
    except ValueError as exc:
        raise CannotStart(str(exc)) from None


def take_port(listen: str, wanted: int | None, folder: Path) -> int:
    """Return the wanted port, or else the first free one. Raise CannotStart without one."""
    if wanted is None:
        free = (port for port in PORTS if ports.take(listen, port, folder, [ports.TCP]))
        if port := next(free, None):
            return port
        refuse_taken(listen, PORTS[-1])
        wanted = PORTS[-1]
    refuse_taken(listen, wanted)
    if not ports.take(listen, wanted, folder, [ports.TCP]):
        raise taken(listen, wanted, "another server that starts now has it")
    return wanted


def refuse_taken(listen: str, port: int) -> None:
    try:
        ports.bind(listen, port)
    except OSError as exc:
        raise taken(listen, port, str(exc.strerror)) from None


def taken(listen: str, port: int, why: str) -> CannotStart:
    return CannotStart(
        f"The server cannot listen on {listening.in_url(listen)}:{port} ({why}). Choose "
        f"another port: PORT={port + 1} make run"
    )


def refuse_emptied(path: Path, state: StateFile) -> None:
    """Raise CannotStart for a database file that became empty.

    SQLite takes an empty file for a new database. All data would silently be gone.
    """
    if state.get("database_made") and path.exists() and not path.stat().st_size:
        raise CannotStart(
            f"The database {path} is empty. Restore it from a backup, or delete it to begin "
            "with a new one."
        )


def holds_secrets(path: Path) -> bool:
    """Return whether the database file has secrets that a master key sealed."""
    if not path.exists():
        return False
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            return (
                database.execute("SELECT 1 FROM keystore_envelope LIMIT 1").fetchone() is not None
            )
        except sqlite3.DatabaseError:  # no such table yet, or damaged; `up` reports that next
            return False


def provide_secrets(env: MutableMapping[str, str], folder: Path, state: StateFile) -> None:
    """Set SECRET_KEY and the master keys where the environment has none."""
    if not given(env, "SECRET_KEY"):
        env["SECRET_KEY"] = state.once("secret_key", secrets.token_urlsafe(48))
    if not given(env, "MASTER_KEYS") and not given(env, "MASTER_KEYS_PATH"):
        env["MASTER_KEYS_PATH"] = str(folder / MASTER_KEY_FILE)


def own_redis(folder: Path, state: StateFile) -> RedisServer:
    """Return a Redis server on a Unix socket. Raise CannotStart when this machine has no Redis."""
    if given(os.environ, "REDIS_PASSWORD"):
        raise CannotStart(
            "REDIS_PASSWORD is set, but REDIS_URL is not. Set both, or unset both to use a "
            "Redis that this server starts."
        )
    redis = RedisServer.found(folder, state.once("redis_password", secrets.token_hex(24)))
    if redis is None:
        raise CannotStart(
            "No Redis was found. Install redis-server or valkey-server, or set REDIS_URL to a "
            "running Redis."
        )
    return redis


def own_lab(folder: Path, state: StateFile) -> "Lab | None":
    """Return the lab, or None with LAB=0. The environment of all children gets its addresses.

    Raise CannotStart when the lab cannot start.
    """
    if os.environ.get("LAB", "1").lower() in {"0", "no", "false", "off"}:
        return None
    from lab.loopback import Lab, LabProblem

    try:
        lab = Lab.prepared(folder / "lab", state)
    except LabProblem as exc:
        raise CannotStart(str(exc)) from None
    os.environ.update(lab.settings(os.environ))
    return lab
