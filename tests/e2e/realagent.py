"""certctrl-agent in a process of its own, and the person who owns its device."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from certctrl.supervisor import bound_to
from lab.ca import PROJECT
from tests.patience import LIMIT

EMAIL, PASSWORD = "admin@example.com", "Correct-horse-1"


class Owner:
    """A person with a session."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = requests.Session()
        self.session.trust_env = False
        login = {"action": "login", "email": EMAIL, "password": PASSWORD}
        self.call("POST", "/auth/general", login)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.session.request(method, self.address + path, json=body, timeout=LIMIT)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()["data"] if answer.content else None

    def mine(self, method: str, path: str, body: Any = None) -> Any:
        return self.call(method, f"/apiv1/me/{path}", body)

    def enrolment_key(self) -> str:
        spec = {"name": "fleet", "tag": "edge", "uses": 4, "expires_in_seconds": 3600}
        return str(self.mine("POST", "enrolment-keys", spec)["token"])


class Agent:
    """certctrl-agent in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "agent.log"
        self.environment = os.environ | {
            "PYTHONPATH": str(PROJECT / "agent"),
            "CERTCTRL_AGENT_STATE": str(folder / "state"),
        }

    def call(self, *arguments: str, **env: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "certctrl_agent", *arguments],
            env=self.environment | env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def enrol(self, address: str, key: str) -> int:
        """Enrol with one command. Return the id of the device."""
        self.call("login", address, "--name", self.folder.name, CERTCTRL_API_KEY=key)
        return int(json.loads((self.folder / "state/device.json").read_text())["id"])

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "certctrl_agent", "run"],
                env=self.environment,
                stdout=log,
                stderr=log,
                preexec_fn=bound_to(os.getpid()),
            )
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def said(self, words: str) -> bool:
        return words in self.log.read_text()
