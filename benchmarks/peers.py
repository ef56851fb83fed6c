"""The same certificates with lego and certbot, from the same kind of CA and name server.

    python -m benchmarks.peers [--rows idle,speed] [--quick]

CPU is that of one command for each certificate. Accounts are created before, and no client looks
at propagation. A peer that is not installed is reported. LEGO and CERTBOT name their programs.
"""

import os
import pathlib
import queue
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks import site as sites
from benchmarks.measuring import Meter, tell
from benchmarks.sizes import Sizes, asked
from tests.e2e import pebble

ROWS = ("idle", "speed")
# How many commands of each peer run at once. One after the other is measured in the first.
CROWDS = (("lego", 10), ("certbot", 2))

Run = Callable[[str], None]  # gets a certificate of this name
Get = Callable[[list[str]], None]  # gets certificates of these names, some at once


def lego(lab: pebble.Pebble, folder: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and its environment. The command has {name} for the name."""
    server = f"127.0.0.1:{lab.ports['dns']}"
    where = ["--path", str(folder), "--server", lab.directory_url]
    account = ["-a", "-m", "lab@lab.test", "--key-type", "ec256"]
    dns = ["--dns", "rfc2136", "--dns.resolvers", server, "--dns.disable-cp"]
    env = {
        "LEGO_CA_CERTIFICATES": lab.ca_bundle,
        "RFC2136_NAMESERVER": server,
        "RFC2136_TSIG_KEY": f"{lab.key_name}.",
        "RFC2136_TSIG_SECRET": lab.secret,
        "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
        "RFC2136_POLLING_INTERVAL": "1",
        "RFC2136_PROPAGATION_TIMEOUT": "30",
    }
    return [program("lego"), *where, *account, *dns, "-d", "{name}", "run"], env


def certbot(lab: pebble.Pebble, folder: pathlib.Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and its environment. The command has {name} for the name."""
    fields = {
        "server": "127.0.0.1",
        "port": lab.ports["dns"],
        "name": f"{lab.key_name}.",
        "secret": lab.secret,
        "algorithm": "HMAC-SHA256",
    }
    credentials = folder / "rfc2136.ini"
    credentials.write_text(
        "".join(f"dns_rfc2136_{name} = {value}\n" for name, value in fields.items())
    )
    credentials.chmod(0o600)
    account = ["-n", "--agree-tos", "--register-unsafely-without-email"]
    where = ["--server", lab.directory_url, "--config-dir", f"{folder}/c"]
    rest = ["--work-dir", f"{folder}/w", "--logs-dir", f"{folder}/l"]
    dns = ["-a", "dns-rfc2136", "--dns-rfc2136-credentials", str(credentials)]
    at_once = ["--dns-rfc2136-propagation-seconds", "0"]
    command = [program("certbot"), "certonly", *account, *where, *rest, *dns, *at_once]
    return [*command, "-d", "{name}"], {"REQUESTS_CA_BUNDLE": lab.ca_bundle}


COMMANDS = {"lego": lego, "certbot": certbot}


def program(name: str) -> str:
    return os.environ.get(name.upper(), name)


def runner(command: list[str], env: dict[str, str]) -> Run:
    def run(name: str) -> None:
        filled = [part.replace("{name}", name) for part in command]
        done = subprocess.run(
            filled, env=os.environ | env, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            said = f"{done.stdout[-800:]} {done.stderr[-800:]}"
            raise RuntimeError(f"{filled[0]} ended with {done.returncode}: {said}")

    return run


@contextmanager
def crowd(who: str, clients: int) -> Iterator[tuple[pebble.Pebble, Get]]:
    """Yield a new lab, and a function that gets certificates with `clients` commands at once.

    Each client has its own account at the CA.
    """
    with sites.lab() as lab, tempfile.TemporaryDirectory() as folder:
        free: queue.Queue[Run] = queue.Queue()
        for number in range(clients):
            (own := pathlib.Path(folder, str(number))).mkdir()
            free.put(runner(*COMMANDS[who](lab, own)))

        def one(name: str) -> None:
            run = free.get()
            try:
                run(name)
            finally:
                free.put(run)

        def get(names: list[str]) -> None:
            with ThreadPoolExecutor(clients) as people:
                list(people.map(one, names))

        get([f"warm{number}.{lab.zone}" for number in range(clients)])
        yield lab, get


def speed(who: str, clients: int, number: int, lab: pebble.Pebble, get: Get) -> None:
    names = [f"speed{at}.{lab.zone}" for at in range(number)]
    meter = Meter({name: process.pid for name, process in lab.processes.items()})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    get(names)
    wall = meter.seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_lab, foreign = meter.read()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    tell(
        row="speed",
        who=who,
        clients=clients,
        n=number,
        wall_s=wall,
        per_s=number / wall,
        cpu_ms=cpu * 1000 / number,
        ca_and_dns_ms=sum(of_lab.values()) * 1000 / number,
        foreign_cores=foreign,
    )


def idle(who: str, number: int, lab: pebble.Pebble, get: Get) -> None:
    meter = Meter({})
    took = []
    for at in range(number):
        began = time.perf_counter()
        get([f"idle{at}.{lab.zone}"])
        took.append(time.perf_counter() - began)
    tell(
        row="idle",
        who=who,
        n=number,
        p50_s=statistics.median(took),
        fastest_s=min(took),
        slowest_s=max(took),
        foreign_cores=meter.read()[1],
    )


def number_for(who: str, sizes: Sizes) -> int:
    return sizes.certbot_names if who == "certbot" else sizes.names


def main(arguments: list[str] | None = None) -> int:
    rows, sizes = asked(ROWS, arguments)
    for who in COMMANDS:
        if not shutil.which(program(who)):
            for row in rows:
                tell(row=row, who=who, left_out="not installed")
            continue
        number = number_for(who, sizes)
        crowds = [clients for name, clients in CROWDS if name == who]
        for clients in crowds if "speed" in rows else crowds[:1]:
            with crowd(who, clients) as (lab, get):
                if "idle" in rows and clients == crowds[0]:
                    idle(who, min(sizes.idle, number) // 2, lab, get)
                if "speed" in rows:
                    speed(who, clients, number, lab, get)
    return 0


if __name__ == "__main__":
    sys.exit(main())
