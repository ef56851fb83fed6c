"""The memory of the agent, in one folder that only its user may read."""

import contextlib
import fcntl
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nacl.public import PrivateKey

from certctrl_agent import files
from certctrl_agent.errors import AgentError, LoginNeeded

LATEST_REPORTS = 100  # the server takes that many in one request
MACHINE_ID = Path("/etc/machine-id")


def default_folder() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/certctrl-agent")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(home) / "certctrl-agent"


class State:
    """The folder of the state. Each value in it is a JSON file of mode 0600.

    - `device.key`: the private key (X25519, 32 bytes)
    - `device.json`: server, ids, name; `tokens.json`: access and refresh token
    - `progress.json`: the cursor, and what must be fetched
    - `plan.json`, `certificates/`, `cas/`: the latest of each from the server
    - `installs.json`: what is installed; `reports.json`: what the server does not know yet
    - `problems.json`: what fails on this machine; `trust.json`: whether its store must be updated
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.folder.stat()
        if found.st_uid != os.geteuid():
            raise AgentError(
                f"The folder {self.folder} belongs to user {found.st_uid}, and this command runs "
                f"as user {os.geteuid()}. Run it as that user, or choose a --state folder."
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise AgentError(
                f"Others may enter the folder {self.folder}, and it has the key of this device. "
                f"Run: chmod 700 {self.folder}"
            )
        for name in ("certificates", "cas"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)

    @property
    def live(self) -> Path:
        """Where versions are whose targets are in more than one folder. Others may pass it."""
        return self.folder.with_name(f"{self.folder.name}-live")

    def load(self, name: str, default: Any = None) -> Any:
        path = self.folder / f"{name}.json"
        try:
            return files.read_json(path, default)
        except ValueError as error:
            raise AgentError(f"The file {path} is damaged ({error}). Remove it.") from None

    def save(self, name: str, value: Any) -> None:
        files.write_json(self.folder / f"{name}.json", value)

    def forget(self, name: str) -> None:
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def names(self, kind: str) -> list[int]:
        return sorted(int(path.stem) for path in (self.folder / kind).glob("*.json"))

    def remove_leftovers(self) -> None:
        """Remove what a killed process of this state had begun to write."""
        with self.lock("tokens"):
            for folder in (self.folder, self.folder / "certificates", self.folder / "cas"):
                for path in folder.glob(".*.new"):
                    path.unlink()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process of this state at a time do something."""
        with (self.folder / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- Who this device is ---

    def key(self) -> PrivateKey:
        """Return the key of the device. The first call makes it."""
        path = self.folder / "device.key"
        if not path.exists():
            files.replace(path, bytes(PrivateKey.generate()))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise AgentError(f"Others may read {path}. Run: chmod 600 {path}")
        raw = path.read_bytes()
        if len(raw) != PrivateKey.SIZE:
            raise AgentError(f"{path} is damaged. Remove it, and run: certctrl-agent login")
        return PrivateKey(raw)

    def public_id(self) -> str:
        """Return the id of this device: the same for this machine and this folder."""
        if known := self.load("device", {}).get("public_id"):
            return str(known)
        machine = MACHINE_ID.read_text() if MACHINE_ID.exists() else str(uuid.getnode())
        traits = f"certctrl-agent {machine.strip()} {self.folder}"
        return str(uuid.UUID(hashlib.sha256(traits.encode()).hexdigest()[:32]))

    def device(self) -> dict[str, Any]:
        device: dict[str, Any] | None = self.load("device")
        if device is None:
            raise LoginNeeded(f"No device in {self.folder}. Run: certctrl-agent login SERVER")
        return device

    # --- What the server does not know yet ---

    def report(self, event: dict[str, Any]) -> None:
        self.save("reports", [*self.load("reports", []), event][-LATEST_REPORTS:])
