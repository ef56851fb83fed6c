"""A whole certctrl in processes, as production runs it, at a Pebble without pauses."""

import copy
import os
import pathlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.e2e import pebble, processes
from tests.e2e.processes import Site, until

WORKERS = 2
THREADS = 8  # of each worker
CLIENTS = 16  # that create certificates at once
LIMIT = 300.0  # seconds
PRODUCTION = {"LEASE": "180", "TURN": "80", "RESEND": "120"}
NO_QUOTAS = {"QUOTAS": '{"certificates": null, "open_attempts": null}'}
# The names of the processes in a table, by the beginning of their names.
GROUPS = {
    "worker": "workers",
    "web": "web",
    "clock": "clock",
    "beat": "clock",
    "postgres": "postgres",
    "redis": "redis",
}
VERSION = "SELECT id FROM issuance_certificateversion WHERE certificate_id = %s"


@contextmanager
def lab() -> Iterator[pebble.Pebble]:
    with (
        tempfile.TemporaryDirectory() as folder,
        pebble.running(pathlib.Path(folder), nonce_reject=0) as started,
    ):
        yield started


@contextmanager
def at(ca: pebble.Pebble, **settings: str) -> Iterator[Site]:
    """Yield a site with its own PostgreSQL, so that the CPU of PostgreSQL can be read.

    `settings` change those of production.
    """
    os.environ.pop("DATABASE_URL", None)
    settings = PRODUCTION | NO_QUOTAS | settings
    with processes.running(ca, workers=WORKERS, concurrency=THREADS, **settings) as site:
        yield site


@contextmanager
def web_only(**settings: str) -> Iterator[Site]:
    """Yield a site of PostgreSQL, Redis and one web process."""
    os.environ.pop("DATABASE_URL", None)
    with processes.prepared(PRODUCTION | settings) as site:
        site.start_store()
        site.start_web()
        site.until_web_answers()
        yield site


def use_database(site: Site) -> None:
    """Let this process use the models on the site's database."""
    os.environ.update(site.environment)
    import django

    django.setup()
    # The settings have been read. A later start of PostgreSQL must not take it for a server of
    # somebody else.
    del os.environ["DATABASE_URL"]


@contextmanager
def copied(site: Site, name: str) -> Iterator[Site]:
    """Yield a site with a copy of the database, and a web process. It shares all other processes.

    Nobody may use the database of `site` meanwhile.
    """
    from django.db import connection

    connection.close()
    pool: Any = connection
    pool.close_pool()
    site.disconnect()
    with psycopg.connect(f"{site.database} dbname=template1", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE postgres")
    twin = copy.copy(site)
    twin.processes = {each: site.processes[each] for each in ("postgres", "redis")}
    twin.database = f"{site.database} dbname={name}"
    url = site.environment["DATABASE_URL"].replace("/postgres?", f"/{name}?")
    twin.environment = site.environment | {"DATABASE_URL": url}
    twin.port = pebble.free_ports("web")["web"]
    twin.start_web()
    try:
        twin.until_web_answers()
        yield twin
    finally:
        twin.kill("web")


def pids(site: Site) -> dict[str, int]:
    """Return the ids of the running processes by name."""
    return {name: process.pid for name, process in site.processes.items() if process.poll() is None}


def grouped(cpu: Mapping[str, float]) -> dict[str, float]:
    """Add up the figures of the processes of a group."""
    sums: dict[str, float] = defaultdict(float)
    for name, figure in cpu.items():
        sums[GROUPS[name.rstrip("0123456789")]] += figure
    return dict(sums)


def create(site: Site, ids: tuple[int, int], names: Sequence[str]) -> list[int]:
    """Create certificates, CLIENTS at once. Return their ids."""
    with ThreadPoolExecutor(CLIENTS) as people:
        return list(people.map(lambda name: site.request(*ids, name), names))


def until_cleaned(site: Site, issued: int) -> None:
    """Wait until `issued` attempts are issued, no other is open, and every record is removed."""
    until(lambda: site.states() == {"issued": issued}, LIMIT, "the last certificate", every=0.1)
    until(lambda: not site.uncleaned(), LIMIT, "the last cleanup", every=0.1)


def one(site: Site, ids: tuple[int, int], name: str, limit: float = LIMIT) -> float:
    """Return the seconds from the request to the stored certificate.

    Raise AssertionError when it is not stored within `limit` seconds.
    """
    from certctrl import clock

    began = clock.monotonic()
    certificate = site.request(*ids, name)
    until(lambda: site.rows(VERSION, certificate), limit, name, every=0.01)
    return clock.monotonic() - began


def stop_all_but(site: Site, *names: str) -> None:
    for name in set(pids(site)) - set(names):
        site.kill(name)
