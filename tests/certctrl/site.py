"""A site for tests of the server's surroundings: secrets, a real Redis, and processes."""

import base64
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import requests

from certctrl.supervisor import bound_to
from lab.ca import PROJECT
from standalone.redisserver import RedisServer
from tests.patience import LIMIT, until
from tests.servers import free_port

EMAIL = "owner@example.com"
PASSWORD = "Correct-horse-1"
OWNER = f"""
import django
django.setup()
from accounts.models import User
User.objects.create_superuser({EMAIL!r}, {PASSWORD!r})
"""


class Site:
    """Processes in their own data folder, which end with `stop` and with their parent."""

    def __init__(self, folder: Path, code: Path = PROJECT, **settings: str) -> None:
        self.folder = folder
        self.code = code
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis = RedisServer.found(folder, secrets.token_hex(16))
        assert self.redis
        kept = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "LANG", "TMPDIR")
            if name in os.environ
        }
        self.environment = kept | {
            "DJANGO_SETTINGS_MODULE": "certctrl.settings",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DATA_DIR": str(folder),
            "SECRET_KEY": secrets.token_hex(24),
            "MASTER_KEYS": "1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
            "REDIS_URL": self.redis.url,
            **settings,
        }

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def spawn(self, name: str, command: list[str], **settings: str) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | settings,
                cwd=self.code,
                start_new_session=True,
                preexec_fn=bound_to(os.getpid()),
            )
        return self.processes[name]

    def until(self, name: str, check, what: str) -> None:
        """Wait for the check, while the process lives."""

        def checked() -> bool:
            assert self.processes[name].poll() is None, f"{name} ended:\n{self.said(name)[-3000:]}"
            return bool(check())

        until(checked, f"{name}: {what}")

    def start_redis(self) -> None:
        assert self.redis
        self.spawn("redis", self.redis.child(self.log("redis")).command)
        self.until("redis", self.redis.answers, "answers")

    def release(self) -> None:
        """Create the database and its owner."""
        for name, command in (
            ("release", ["manage.py", "migrate", "-v", "0"]),
            ("owner", ["-c", OWNER]),
        ):
            assert self.spawn(name, [sys.executable, *command]).wait(LIMIT) == 0, self.said(name)

    def start_web(self, name: str = "web", **settings: str) -> int:
        """Start a web process with these settings. Return its port."""
        port = free_port()
        web = [sys.executable, "-m", "certctrl.webserver"]
        self.spawn(name, web, PORT=str(port), **settings)
        self.until(name, lambda: answers(f"http://127.0.0.1:{port}/"), "answers")
        return port

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def answers(url: str) -> bool:
    return status(url) > 0


def status(url: str) -> int:
    """Return the status of a GET, or 0 when no server listens."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            return session.get(url, timeout=LIMIT, allow_redirects=False).status_code
        except requests.ConnectionError:
            return 0
