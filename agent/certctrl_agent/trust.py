"""The machine's store of CAs that it trusts."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from certctrl_agent import commands, files
from certctrl_agent.errors import CheckError, InstallError
from certctrl_agent.plan import COMMAND_SECONDS, Command

MODE = 0o644


@dataclass(frozen=True)
class TrustStore:
    """`folder` has the CAs of this machine's administrator. `update` reads them."""

    folder: Path
    update: tuple[str, ...]

    def add(self, ca_id: int, pem: bytes) -> bool:
        """Trust a CA. Return whether that is new."""
        path = self.path(ca_id)
        if path.exists() and path.read_bytes() == pem:
            return False
        files.replace(path, pem, MODE)
        self.run()
        return True

    def remove(self, ca_id: int) -> bool:
        """Trust a CA no longer. Return whether it was trusted."""
        path = self.path(ca_id)
        if not path.exists():
            return False
        path.unlink()
        self.run()
        return True

    def path(self, ca_id: int) -> Path:
        return self.folder / f"certctrl-ca-{ca_id}.crt"

    def run(self) -> None:
        try:
            commands.run(Command(self.update, COMMAND_SECONDS, "", ()))
        except CheckError as error:
            raise InstallError(f"{error} The trust store of this machine is not updated.") from None


KNOWN = (
    TrustStore(Path("/usr/local/share/ca-certificates"), ("update-ca-certificates",)),
    TrustStore(Path("/etc/pki/ca-trust/source/anchors"), ("update-ca-trust", "extract")),
)


def of_this_machine() -> TrustStore:
    """Return the store of Debian's or of Red Hat's family."""
    for store in KNOWN:
        if store.folder.is_dir() and shutil.which(store.update[0], path=commands.PATH):
            if not os.access(store.folder, os.W_OK):
                raise InstallError(f"The user of the agent may not write to {store.folder}.")
            return store
    raise InstallError("This machine has no trust store that the agent knows.")
