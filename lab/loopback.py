"""The lab of the embedded server: a name server and an ACME CA on loopback, as two processes.

Ports, the update key of the zone and the root of the CA stay the same at each start. Accounts and
credentials in the database refer to them.
"""

import base64
import hashlib
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.tsig
import requests

from certctrl.supervisor import Child
from lab.ca import PROJECT, PYTHON
from standalone import ports

if TYPE_CHECKING:
    from certctrl.state import StateFile

HOST = "127.0.0.1"
ZONE = "lab.test"
KEY_NAME, KEY_ALGORITHM = "lab", "hmac-sha256"
# Below the range of ports for outgoing connections.
DNS_PORTS, CA_PORTS = (
    range(15353, 15453),
    range(15454, 15554),
)
INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR")


class LabProblem(Exception):
    """The lab cannot start. The sentence says why and what to do."""


@dataclass
class Lab:
    folder: Path
    dns_port: int
    ca_port: int
    secret: str
    trusted_too: str = ""

    @classmethod
    def prepared(cls, folder: Path, state: "StateFile") -> "Lab":
        """Return the lab with its stored ports and key, or with new ones. Raise LabProblem."""
        if not PYTHON.exists():
            raise LabProblem(
                "The lab's CA needs an environment of its own: run `make lab` first, or start "
                "with LAB=0."
            )
        if os.environ.get("DNS_RESOLVERS"):
            raise LabProblem(
                "DNS_RESOLVERS is set, and the lab needs to be the resolver itself: start with "
                "LAB=0."
            )
        folder.mkdir(mode=0o700, exist_ok=True)
        lab = cls(
            folder,
            dns_port=remembered_port(state, "lab_dns_port", in_rotation(DNS_PORTS, folder), folder),
            ca_port=remembered_port(state, "lab_ca_port", in_rotation(CA_PORTS, folder), folder),
            secret=state.once(
                "lab_tsig_secret", base64.b64encode(secrets.token_bytes(32)).decode()
            ),
            trusted_too=os.environ.get("ACME_CA_BUNDLE", ""),
        )
        state.keep(lab_dns_port=lab.dns_port, lab_ca_port=lab.ca_port)
        return lab

    @property
    def directory_url(self) -> str:
        return f"https://{HOST}:{self.ca_port}/directory"

    @property
    def root(self) -> Path:
        """Return the path of the root that verifies the lab's certificates."""
        return self.folder / "ca" / "lab-root.pem"

    def settings(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the settings that the server's processes need.

        They allow the lab's two ports and no others, and name its root and its resolver.
        """
        allowed = [env["ALLOW_PRIVATE"]] if env.get("ALLOW_PRIVATE") else []
        bundle = self.folder / "trusted.pem" if self.trusted_too else self.root
        return {
            "ALLOW_PRIVATE": ",".join(
                [*allowed, f"{HOST}:{self.dns_port}", f"{HOST}:{self.ca_port}"]
            ),
            "ACME_CA_BUNDLE": str(bundle),
            "DNS_RESOLVERS": HOST,
            "DNS_PORT": str(self.dns_port),
        }

    def write_bundle(self) -> None:
        """Write the bundle of ACME_CA_BUNDLE plus the lab's root.

        The CA has created its root by now.
        """
        if self.trusted_too:
            text = Path(self.trusted_too).read_text() + self.root.read_text()
            (self.folder / "trusted.pem").write_text(text)

    def name_server(self, log: Path) -> Child:
        key = self.folder / "tsig.key"
        write_private(
            key, f'key "{KEY_NAME}" {{ algorithm {KEY_ALGORITHM}; secret "{self.secret}"; }};\n'
        )
        listen = f"{HOST}:{self.dns_port}"
        run = ["-m", "lab.nameserver", "--listen", listen, "--zone", ZONE, "--tsig-file", str(key)]
        run += ["--state", str(self.folder / "zones.json")]
        return Child("lab dns", [sys.executable, *run], inherited(), log, PROJECT, patience=3)

    def name_server_is_ours(self) -> bool:
        """Return whether the server on the DNS port knows the key of this lab.

        UDP and TCP are checked.
        """
        key = dns.tsig.Key(KEY_NAME, self.secret, KEY_ALGORITHM)
        query = dns.message.make_query(ZONE, "SOA")
        query.use_tsig(key)
        try:
            for ask in (dns.query.udp, dns.query.tcp):
                if not ask(query, HOST, timeout=1, port=self.dns_port).had_tsig:
                    return False
        except (OSError, EOFError, dns.exception.DNSException):
            return False
        return True

    def ca_is_ours(self) -> bool:
        """Return whether the server on the CA port has a certificate from this lab's root."""
        if not self.root.exists():
            return False
        with requests.Session() as session:
            session.trust_env = False  # loopback only; ignore proxies from the environment
            try:
                return session.get(self.directory_url, verify=str(self.root), timeout=5).ok
            except (requests.RequestException, OSError):
                return False

    def ca(self, log: Path) -> Child:
        run = ["-m", "lab.ca", "--data", str(self.folder / "ca")]
        run += ["--listen", f"{HOST}:{self.ca_port}", "--resolver", f"{HOST}:{self.dns_port}"]
        return Child("lab ca", [sys.executable, *run], inherited(), log, PROJECT, patience=5)


def inherited() -> dict[str, str]:
    """Return the environment for the lab's processes, without the server's secrets."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def remembered_port(state: "StateFile", name: str, numbers: Sequence[int], owner: Path) -> int:
    """Return the stored port, or else the first free one.

    Raise LabProblem when another program has the stored port.
    """
    before = state.get(name)
    if before is None:
        return free_port(numbers, owner)
    if not ports.take(HOST, int(before), owner):
        raise LabProblem(
            f"Port {before} on {HOST}, which the lab of this data folder has used, is taken by "
            "another program: stop that, or start with LAB=0."
        )
    return int(before)


def free_port(numbers: Sequence[int], owner: Path | None = None) -> int:
    """Return the first port that is free for TCP and UDP. Raise LabProblem without one."""
    for port in numbers:
        if ports.take(HOST, port, owner):
            return port
    last = max(numbers)
    raise LabProblem(f"No port from {min(numbers)} to {last} is free on {HOST}: start with LAB=0.")


def in_rotation(numbers: range, folder: Path) -> list[int]:
    """Return the numbers, starting at a different one for each data folder.

    Labs of different folders can then run at the same time. The folder of the project starts with
    the first port, which the documentation names.
    """
    first = 0
    if folder != PROJECT / ".data" / "lab":
        first = int(hashlib.sha256(os.fsencode(folder)).hexdigest(), 16) % len(numbers)
    return [*numbers[first:], *numbers[:first]]
