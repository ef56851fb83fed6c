"""The embedded server's environment: its data folder, its secrets, its Redis, its lab.

`manage.py up` calls `prepare()` before Django reads its settings, because those want secrets that the first start has
yet to make. What is in the environment (or in `.env`) always wins over what is made here.
"""

import fcntl
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from certctrl.environment import read_env
from certctrl.redisserver import RedisServer
from certctrl.state import State
from certctrl.supervisor import Child

if TYPE_CHECKING:
    from lab.loopback import Lab

BASE_DIR = Path(__file__).resolve().parent.parent
STATE_FILE = "embedded.json"
MASTER_KEY_FILE = "master.keys"


class Refused(SystemExit):
    """The server cannot start; the sentence says why and what to do."""


@dataclass
class Embedded:
    """What `manage.py up` runs. `redis` is None when REDIS_URL names another, `lab` with LAB=0."""

    folder: Path
    state: State
    listen: str
    port: int
    redis: RedisServer | None
    lab: "Lab | None"
    lock: int

    def manage(self, command: str) -> str:
        """How a person calls one of our commands."""
        where = "" if self.folder == BASE_DIR / ".data" else f"DATA_DIR={shlex.quote(str(self.folder))} "
        return f"{where}{shlex.quote(os.path.relpath(sys.executable))} manage.py {command}"

    @property
    def address(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.listen, self.listen)  # noqa: S104
        return f"http://{host}:{self.port}"

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def make_master_key(self) -> None:
        """At the first start and never again, since a new key opens nothing old. Raises Refused when it is gone."""
        from keystore.masterkeys.file import generate  # which wants Django's settings

        path = self.folder / MASTER_KEY_FILE
        if os.environ.get("MASTER_KEYS_PATH") != str(path):
            return
        if self.state.get("master_key_made") and not path.exists():
            raise Refused(f"{path} is gone. Put it back: without it the secrets in the database cannot be opened.")
        generate(path)
        self.state.once("master_key_made", True)

    def children(self) -> list[Child]:
        """web, clock, worker, beat: in the order of starting."""
        from django.conf import settings

        python, celery = sys.executable, [sys.executable, "-m", "celery", "-A", "certctrl"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", settings.LOG_LEVEL]
        pool = ["--pool", settings.WORKER_POOL, "--concurrency", str(settings.WORKER_CONCURRENCY)]
        schedule = str(self.folder / "beat" / "schedule")
        web = ["uvicorn", "certctrl.asgi:application", "--host", self.listen, "--port", str(self.port)]
        web += [] if settings.BEHIND_PROXY else ["--no-proxy-headers"]
        return [
            self._child("web", [python, "-m", *web, "--timeout-graceful-shutdown", "5", "--no-access-log"], 8),
            self._child("clock", [*celery, "worker", "-P", "solo", "-Q", "sweep", "-n", "clock@%h", *quiet], 5),
            self._child(
                "worker",
                [*celery, "worker", "-Q", "celery", "-n", "worker@%h", *pool, *quiet],
                15,
                {"MALLOC_ARENA_MAX": "2"} | os.environ,
            ),
            self._child("beat", [*celery, "beat", "--schedule", schedule, "--max-interval", "1", "--pidfile="], 5),
        ]

    def _child(
        self, name: str, command: list[str], patience: float, environment: Mapping[str, str] | None = None
    ) -> Child:
        return Child(name, command, environment=environment, log=self.log(name), patience=patience, folder=BASE_DIR)


_prepared: Embedded | None = None


def prepared() -> Embedded:
    """What prepare() made. Raises Refused when the command was not started through manage.py."""
    if _prepared is None:
        raise Refused("Start the embedded server with `make run` or `python manage.py up`.")
    return _prepared


def prepare() -> Embedded:
    """Make folder, secrets and ports ready, and put what the settings read into the environment. Raises Refused."""
    global _prepared
    folder = data_folder()
    listen, port = os.environ.get("LISTEN", "127.0.0.1"), port_of(os.environ.get("PORT", "8080"))
    os.umask(0o077)  # SQLite's files, too, are for their owner only
    make_folder(folder)
    lock = take_lock(folder)
    refuse_taken(listen, port)
    state = State(folder / STATE_FILE)
    before = dict(os.environ)
    provide_secrets(os.environ, folder, state)
    redis = None if given(os.environ, "REDIS_URL") else own_redis(folder, state)
    if redis:
        os.environ["REDIS_URL"] = redis.url
    lab = own_lab(folder, state)
    state.keep(environment={name: value for name, value in os.environ.items() if before.get(name) != value})
    _prepared = Embedded(folder, state, listen, port, redis, lab, lock)
    return _prepared


def recall() -> None:
    """For the other commands: the environment that the embedded server of this data folder runs in, if there is one."""
    state = State(data_folder() / STATE_FILE)
    for name, value in state.get("environment", {}).items():
        if not given(os.environ, name):
            os.environ[name] = value


def data_folder() -> Path:
    read_env(BASE_DIR / ".env")
    return Path(os.environ.setdefault("DATA_DIR", str(BASE_DIR / ".data"))).absolute()


def given(env: MutableMapping[str, str], name: str) -> bool:
    """Is the setting in the environment, itself or as NAME_FILE?"""
    return bool(env.get(name) or env.get(f"{name}_FILE"))


def port_of(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise Refused(f"PORT is {text!r}: give a number from 1 to 65535, for example PORT=8081.")
    return int(text)


def make_folder(folder: Path) -> None:
    """The data folder and what is in it, for its owner only."""
    try:
        for each in (folder, folder / "log", folder / "beat"):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as exc:
        raise Refused(f"The data folder {folder} cannot be used ({exc.strerror}): choose another, DATA_DIR.") from None


def take_lock(folder: Path) -> int:
    """A lock that lasts as long as this process. Raises Refused when another server has it."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = os.pread(descriptor, 16, 0).decode() or "unknown"
        raise Refused(
            f"Another server (process {who}) runs on the data folder {folder}: stop it, or choose another, DATA_DIR."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def refuse_taken(listen: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
        except OSError as exc:
            raise Refused(
                f"The server cannot listen on {listen}:{port} ({exc.strerror}). "
                f"Choose another port: PORT={port + 1} make run"
            ) from None


def provide_secrets(env: MutableMapping[str, str], folder: Path, state: State) -> None:
    """SECRET_KEY and the master keys, where the environment has none."""
    if not given(env, "SECRET_KEY"):
        env["SECRET_KEY"] = state.once("secret_key", secrets.token_urlsafe(48))
    if not given(env, "MASTER_KEYS") and not given(env, "MASTER_KEYS_PATH"):
        env["MASTER_KEYS_PATH"] = str(folder / MASTER_KEY_FILE)


def own_redis(folder: Path, state: State) -> RedisServer:
    """A Redis of our own, on a Unix socket. Raises Refused when this machine has none."""
    if given(os.environ, "REDIS_PASSWORD"):
        raise Refused("REDIS_PASSWORD is set and REDIS_URL is not: set both, or neither for a Redis of its own.")
    redis = RedisServer.found(folder, state.once("redis_password", secrets.token_hex(24)))
    if redis is None:
        raise Refused(
            "No Redis was found: install redis-server (or valkey-server), or set REDIS_URL to one that is running."
        )
    return redis


def own_lab(folder: Path, state: State) -> "Lab | None":
    """The lab, unless LAB=0; its addresses are in the environment of all children then."""
    if os.environ.get("LAB", "1").lower() in {"0", "no", "false", "off"}:
        return None
    from lab.loopback import Lab, LabProblem

    try:
        lab = Lab.prepared(folder / "lab", state)
    except LabProblem as exc:
        raise Refused(str(exc)) from None
    os.environ.update(lab.settings(os.environ))
    return lab
