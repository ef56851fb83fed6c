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

    def has(self, ca_id: int, pem: bytes | None) -> bool:
        """Return whether the file of a CA is this one. None is no file."""
        path = self.path(ca_id)
        return (path.read_bytes() if path.exists() else None) == pem

    def put(self, ca_id: int, pem: bytes | None) -> None:
        """Write or remove the file of a CA. The next `run` reads it."""
        if pem is None:
            self.path(ca_id).unlink(missing_ok=True)
        else:
            files.replace(self.path(ca_id), pem, MODE)

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


def of_this_machine() -> TrustStore | None:
    """Return the store of Debian's or of Red Hat's family, or None."""
    for store in KNOWN:
        if store.folder.is_dir() and shutil.which(store.update[0], path=commands.PATH):
            if not os.access(store.folder, os.W_OK):
                raise InstallError(f"The user of the agent may not write to {store.folder}.")
            return store
    return None
