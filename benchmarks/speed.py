"""Certificates per second, and CPU per certificate, compared with lego and certbot.

    python -m benchmarks.speed [PEER:CLIENTS ...]

One Pebble (without pauses, one request at a time) and one BIND serve the peers, one after the
other. The default is `certctrl:16 lego:8 certbot:2`. The number is how many clients work at once.

For certctrl the CPU of all processes counts: web, workers, clock, beat, Redis and PostgreSQL. For
the others the CPU of each command counts. A peer that is not installed is reported and left out.
CERTBOT and LEGO name their programs. The output is a line of JSON for each peer.

`--lab FILE` uses a running lab. FILE is JSON with directory, ca, dns (host:port), zone, key_name
and secret.
"""

import argparse
import json
import os
import pathlib
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.measuring import tell, use_of
from tests.e2e import pebble, processes
from tests.e2e.processes import Site, until

PRODUCTION = {"LEASE": "180", "TURN": "80", "RESEND": "120"}
PEERS = ("certctrl:16", "lego:8", "certbot:2")
LIMIT = 900.0  # seconds for one peer


@dataclass(frozen=True)
class Lab:
    """A CA, and a zone that accepts signed updates."""

    directory_url: str
    ca_bundle: str
    ports: dict[str, int]
    zone: str
    key_name: str
    secret: str

    @classmethod
    def of_file(cls, path: pathlib.Path) -> "Lab":
        told = json.loads(path.read_text())
        ports = {"dns": int(told["dns"].rpartition(":")[2])}
        return cls(
            told["directory"], told["ca"], ports, told["zone"], told["key_name"], told["secret"]
        )

    @property
    def name_server(self) -> str:
        return f"127.0.0.1:{self.ports['dns']}"


@contextmanager
def a_lab(path: pathlib.Path | None) -> Iterator[Lab]:
    """Yield the lab in the file, or start one."""
    if path:
        yield Lab.of_file(path)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        pebble.running(pathlib.Path(folder), nonce_reject=0) as own,
    ):
        yield Lab(own.directory_url, own.ca_bundle, own.ports, own.zone, own.key_name, own.secret)


# --- certctrl ---


def measure_certctrl(lab: Lab, names: Sequence[str], clients: int, workers: int, pool: str) -> None:
    with processes.running(lab, workers=workers, pool=pool, concurrency=8, **PRODUCTION) as site:
        ids = (site.account(lab), site.credential(lab))
        issue(site, ids, [f"warm-{name}" for name in names[:clients]], clients)
        before = {
            name: use_of(process.pid)
            for name, process in site.processes.items()
            if process.poll() is None
        }
        wall = issue(site, ids, names, clients)
        cpu = {
            name: (use_of(site.processes[name].pid).cpu - use.cpu) * 1000 / len(names)
            for name, use in before.items()
        }
        report(
            f"certctrl ({workers} workers, {pool})",
            clients,
            len(names),
            wall,
            sum(cpu.values()),
            **cpu,
        )


def issue(site: Site, ids: tuple[int, int], names: Sequence[str], clients: int) -> float:
    """Return the seconds until all names are issued and every record is removed."""
    began = time.perf_counter()
    had = site.states().get("issued", 0)
    with ThreadPoolExecutor(clients) as people:
        list(people.map(lambda name: site.request(*ids, name), names))
    until(
        lambda: site.states() == {"issued": had + len(names)},
        LIMIT,
        "the last certificate",
        every=0.1,
    )
    until(lambda: not site.uncleaned(), LIMIT, "the last cleanup", every=0.1)
    return time.perf_counter() - began


# --- The other clients ---


def lego(lab: Lab, folder: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and its environment. The command has {name} for the name."""
    where = [
        "--path",
        str(folder),
        "--server",
        lab.directory_url,
        "-a",
        "-m",
        "lab@lab.test",
        "--key-type",
        "ec256",
    ]
    dns = ["--dns", "rfc2136", "--dns.resolvers", lab.name_server, "--dns.disable-cp"]
    env = {
        "LEGO_CA_CERTIFICATES": lab.ca_bundle,
        "RFC2136_NAMESERVER": lab.name_server,
        "RFC2136_TSIG_KEY": f"{lab.key_name}.",
        "RFC2136_TSIG_SECRET": lab.secret,
        "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
        "RFC2136_POLLING_INTERVAL": "1",
        "RFC2136_PROPAGATION_TIMEOUT": "30",
    }
    return [program("lego"), *where, *dns, "-d", "{name}", "run"], env


def certbot(lab: Lab, folder: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    credentials = folder / "rfc2136.ini"
    fields = {
        "server": "127.0.0.1",
        "port": lab.ports["dns"],
        "name": f"{lab.key_name}.",
        "secret": lab.secret,
    }
    lines = [
        f"dns_rfc2136_{name} = {value}"
        for name, value in (fields | {"algorithm": "HMAC-SHA256"}).items()
    ]
    credentials.write_text("\n".join(lines) + "\n")
    credentials.chmod(0o600)
    where = [
        "--config-dir",
        f"{folder}/c",
        "--work-dir",
        f"{folder}/w",
        "--logs-dir",
        f"{folder}/l",
    ]
    account = [
        "-n",
        "--agree-tos",
        "--register-unsafely-without-email",
        "--server",
        lab.directory_url,
    ]
    dns = [
        "-a",
        "dns-rfc2136",
        "--dns-rfc2136-credentials",
        str(credentials),
        "--dns-rfc2136-propagation-seconds",
        "0",
    ]
    command = [program("certbot"), "certonly", *account, *where, *dns, "-d", "{name}"]
    return command, {"REQUESTS_CA_BUNDLE": lab.ca_bundle}


COMMANDS = {"lego": lego, "certbot": certbot}


def program(name: str) -> str:
    return os.environ.get(name.upper(), name)


def measure_command(peer: str, lab: Lab, names: Sequence[str], clients: int) -> None:
    """Run the command for each name, on `clients` threads.

    Each client has its own account, which is created before the measurement.
    """
    with tempfile.TemporaryDirectory() as folder:
        free: queue.Queue[Callable[[str], None]] = queue.Queue()
        for number in range(clients):
            (own := pathlib.Path(folder, str(number))).mkdir()
            free.put(runner(*COMMANDS[peer](lab, own)))

        def one(name: str) -> None:
            run = free.get()
            run(name)
            free.put(run)

        with ThreadPoolExecutor(clients) as people:
            list(people.map(one, [f"warm-{name}" for name in names[:clients]]))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            list(people.map(one, names))
            wall = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report(peer, clients, len(names), wall, cpu * 1000 / len(names))


def runner(command: list[str], env: dict[str, str]) -> Callable[[str], None]:
    def run(name: str) -> None:
        filled = [part.replace("{name}", name) for part in command]
        done = subprocess.run(
            filled, env=os.environ | env, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise RuntimeError(
                f"{filled[0]} ended with {done.returncode}: {done.stdout[-800:]} "
                f"{done.stderr[-800:]}"
            )

    return run


# --- All peers ---


def report(peer: str, clients: int, number: int, wall: float, cpu: float, **parts: float) -> None:
    figures = {"certificates_per_s": number / wall, "cpu_ms_per_certificate": cpu}
    tell(peer=peer, clients=clients, n=number, wall_s=wall, **figures, **parts)


def measure(peer: str, clients: int, lab: Lab, given: argparse.Namespace) -> None:
    names = [f"{peer}{time.time_ns() // 10**6 % 10**9}-{at}.{lab.zone}" for at in range(given.n)]
    if peer == "certctrl":
        measure_certctrl(lab, names, clients, given.workers, given.pool)
    elif shutil.which(program(peer)):
        measure_command(peer, lab, names, clients)
    else:
        tell(peer=peer, left_out=f"{program(peer)} is not installed")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=100, help="certificates for each peer")
    parser.add_argument("--lab", type=pathlib.Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pool", choices=["threads", "prefork"], default="threads")
    parser.add_argument("peers", nargs="*", default=PEERS)
    given = parser.parse_args(arguments)
    with a_lab(given.lab) as lab:
        for each in given.peers:
            peer, _, clients = each.partition(":")
            measure(peer, int(clients or 1), lab, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
