"""Open progress pages: their streams, while their certificates end.

    python -m benchmarks.pages [--pages 500] [--certificates 50]

PostgreSQL, Redis and one web process are real. The attempts are written directly into the tables,
and end one after the other. Each page holds its stream, which brings what the page shows.

It prints a line of JSON: the seconds from a commit until the pages show it, and the CPU time of the
web process for each page, from the first end until the last.
"""

import argparse
import asyncio
import sys
import threading
import time
from typing import Any

from benchmarks import site as sites
from benchmarks.measuring import cpu_of, rss_of, stats, tell
from tests.e2e.processes import EMAIL, Site, until

LIMIT = 120.0  # seconds
AT_ONCE = 25  # pages that open at the same time
BETWEEN = 0.3  # seconds between two ends


class Pages:
    """The open pages, on an event loop of their own thread."""

    def __init__(self, site: Site, cookie: str, attempts: list[Any], count: int) -> None:
        self.site = site
        self.cookie = cookie
        self.open = 0
        self.shown: dict[int, float] = {}
        self.of = {number: attempts[number % len(attempts)] for number in range(count)}
        threading.Thread(target=lambda: asyncio.run(self.all()), daemon=True).start()

    async def all(self) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self.page(number, gate) for number in self.of))

    async def page(self, number: int, gate: asyncio.Semaphore) -> None:
        from dashboard.attempts import mark_of

        attempt = self.of[number]
        path = f"/certificates/{attempt.certificate_id}/attempts/{attempt.pk}"
        async with gate:
            reader, writer = await self.get(f"{path}/stream?seen={mark_of(attempt, 0)}")
            await reader.readuntil(b"retry")
        self.open += 1
        await reader.readuntil(b'data-state="failed"')
        await reader.readuntil(b"event: over")
        self.shown[number] = time.perf_counter()
        writer.close()

    async def get(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.port)
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: cjj365={self.cookie}\r\n\r\n"
        writer.write(head.encode())
        status = await reader.readline()
        assert b" 200 " in status, status
        return reader, writer


def write_attempts(count: int) -> list[Any]:
    """Write certificates, each with an open attempt that no worker takes."""
    from datetime import timedelta

    from accounts.models import User
    from authorities.models import AcmeAccount
    from certctrl import clock
    from issuance.models import Certificate, Issuance
    from keystore import envelope

    owner = User.objects.get(email=EMAIL)
    now = clock.now()
    account = AcmeAccount.objects.create(
        owner=owner,
        name="lab",
        directory_url="https://ca.test",
        url="https://ca.test/1",
        status=AcmeAccount.Status.VALID,
        key=envelope.seal(owner, "account_key", b"no key"),
        terms_accepted_at=now,
    )
    certificates = Certificate.objects.bulk_create(
        Certificate(
            owner=owner,
            account=account,
            domain=f"n{number}.example.com",
            names=[f"n{number}.example.com"],
            request_digest=str(number),
        )
        for number in range(count)
    )
    return Issuance.objects.bulk_create(
        Issuance(
            certificate=each,
            account=account,
            reason=Issuance.Reason.NEW,
            state_since=now,
            deadline_at=now + timedelta(hours=1),
            wake_at=now + timedelta(hours=1),
        )
        for each in certificates
    )


def signed_in() -> str:
    """Return the session cookie of the owner."""
    from django.test import Client

    from accounts.models import User

    client = Client()
    client.force_login(User.objects.get(email=EMAIL))
    return client.cookies["cjj365"].value


def end(attempt: Any) -> float:
    """Let the attempt end. Return the moment of the commit."""
    from issuance.models import Issuance, IssuanceEvent

    failed = Issuance.State.FAILED
    Issuance.objects.filter(pk=attempt.pk).update(wake_at=None, state=failed)
    IssuanceEvent.objects.create(
        issuance=attempt, at=attempt.state_since, step="order", outcome="failed", what="The end."
    )
    return time.perf_counter()


def measure(site: Site, pages: int, certificates: int) -> None:
    pid = sites.pids(site)["web"]
    attempts = write_attempts(certificates)
    cookie = signed_in()
    before = rss_of(pid)
    crowd = Pages(site, cookie, attempts, pages)
    until(lambda: crowd.open == pages, LIMIT, "the last page", every=0.1)
    growth = rss_of(pid) - before
    quiet = used_in(pid, certificates * BETWEEN)
    ended = {}
    begun = cpu_of(pid, stats())
    for attempt in attempts:
        ended[attempt.pk] = end(attempt)
        threading.Event().wait(BETWEEN)
    until(lambda: len(crowd.shown) == pages, LIMIT, "the end on the last page", every=0.1)
    used = cpu_of(pid, stats()) - begun
    shown = sorted(moment - ended[crowd.of[number].pk] for number, moment in crowd.shown.items())
    tell(
        row="pages",
        pages=pages,
        certificates=certificates,
        kb_each=growth * 1024 / pages,
        half_shown_s=shown[pages // 2],
        last_shown_s=shown[-1],
        quiet_cpu=quiet / (certificates * BETWEEN),
        cpu_ms_of_page=used * 1000 / pages,
    )


def used_in(pid: int, seconds: float) -> float:
    """Return the CPU seconds that the process uses in the next `seconds`."""
    before = cpu_of(pid, stats())
    threading.Event().wait(seconds)
    return cpu_of(pid, stats()) - before


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=500)
    parser.add_argument("--certificates", type=int, default=50)
    given = parser.parse_args()
    with sites.web_only(MAX_STREAMS=str(2 * given.pages)) as site:
        sites.use_database(site)
        measure(site, given.pages, given.certificates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
