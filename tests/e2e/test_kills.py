"""Kill workers while they hold rows, empty Redis, and restart beat. The result is the same."""

import os
import re
import signal
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from dnsproviders.records import ZONE_LAG
from tests.e2e import pebble, processes
from tests.e2e.processes import Site, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        bool(processes.missing()), reason=f"needs Debian's {processes.missing()} (apt-get install)"
    ),
]

# The states that a turn writes before it goes on. The ends of short steps are written together, so
# one that dies in `propagate` holds a row that is ordered, and in `download` one that is validated.
STATES = ("queued", "ordered", "propagated", "validated")
CERTIFICATES = 40
WORKERS = 3
KILLS = 20
EACH = 3  # kills in each of the four states; twelve that hold a row, at the least
FLUSH_AT = 7  # Redis is emptied before this kill
BEAT_AT = 14  # beat is killed before this kill
MOST_DEATHS = 3  # per attempt; five in a row would end it


class Reaper:
    """Requests certificates a few at a time, and kills a worker with a row in a wanted state."""

    def __init__(self, site: Site, lab: pebble.Pebble, certificates: int) -> None:
        self.site = site
        self.lab = lab
        self.certificates = certificates
        self.ids = (site.account(lab), site.credential(lab))
        self.asked = 0
        self.kills: list[list[str]] = []  # of each: the states of the rows that the victim held

    @property
    def hit(self) -> Counter[str]:
        """In how many kills each state was hit."""
        return Counter(state for states in self.kills for state in set(states))

    def ask(self) -> None:
        """Keep some attempts open, the next ones later: so each state is seen at any time."""
        room = min(self.certificates, 8 + 2 * len(self.kills)) - self.asked
        if room > 0 and self._open() < 10:
            name = f"host{self.asked}.{self.lab.zone}"
            names = [name, f"*.{name}"] if self.asked % 4 == 0 else [name]
            self.site.request(*self.ids, *names)
            self.asked += 1

    def _open(self) -> int:
        return self.asked - self.site.states().get("issued", 0)

    def kill(self, *states: str) -> None:
        """Kill a worker that holds a row in one of the states; by default in one that is hit too
        seldom.
        """
        seldom = {state for state in STATES if self.hit[state] < EACH}
        wanted = set(states) or seldom or set(STATES)
        name = until(
            lambda: self._kill(wanted),
            60,
            f"a worker that holds a row in {sorted(wanted)}",
            every=0.01,
        )
        self.site.start_worker(name.partition(".")[0] + f".{len(self.kills)}")

    def _kill(self, wanted: set[str]) -> str:
        """Return the name of the killed worker, or "" when no worker has such a row."""
        self.ask()
        for name, rows in self._held().items():
            if not fits(rows, wanted):
                continue
            group = self.site.processes[name].pid
            os.killpg(group, signal.SIGSTOP)
            rows = self._held().get(name, [])
            if fits(rows, wanted):
                self.site.kill(name)
                self.kills.append([row["state"] for row in rows])
                return name
            os.killpg(group, signal.SIGCONT)
        return ""

    def _held(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows that each living worker holds. A turn's token begins with the pid."""
        workers = {
            process.pid: name
            for name, process in self.site.processes.items()
            if name.startswith("worker")
        }
        held: dict[str, list[dict[str, Any]]] = {}
        for row in self.site.rows(
            "SELECT state, holder, deaths FROM issuance_issuance WHERE holder <> ''"
        ):
            with suppress(ProcessLookupError):  # held by the dead, until its lease ends
                group = os.getpgid(int(row["holder"].partition("-")[0]))
                if group in workers:
                    held.setdefault(workers[group], []).append(row)
        return held


def fits(rows: list[dict[str, Any]], wanted: set[str]) -> bool:
    return any(row["state"] in wanted for row in rows) and all(
        row["deaths"] < MOST_DEATHS for row in rows
    )


def orders_at(lab: pebble.Pebble) -> int:
    counts = re.findall(
        r"There are now (\d+) orders in the db", (lab.folder / "pebble.log").read_text()
    )
    return int(counts[-1])


def test_a_worker_that_is_killed_while_it_presents_changes_nothing(tmp_path):
    with (
        pebble.running(tmp_path, nonce_reject=5) as lab,
        processes.running(lab) as site,
    ):
        reaper = Reaper(site, lab, certificates=1)
        reaper.kill("ordered")
        until(lambda: site.states() == {"issued": 1}, 120, "the certificate")
        until(lambda: not site.uncleaned(), ZONE_LAG.total_seconds() + 60, "the cleanup")
        assert reaper.kills == [["ordered"]]
        assert len(site.rows("SELECT id FROM issuance_certificateversion")) == 1
        assert orders_at(lab) == 1
        assert lab.left_over() == {}


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_killing_workers_that_hold_rows_changes_nothing_at_the_end(pool, tmp_path):
    with (
        pebble.running(tmp_path, nonce_reject=5, validation_delay=True) as lab,
        processes.running(lab, workers=WORKERS, pool=pool) as site,
    ):
        reaper = Reaper(site, lab, CERTIFICATES)
        for number in range(KILLS):
            if number == FLUSH_AT:
                site.flush_redis()
            if number == BEAT_AT:
                site.kill("beat")
                site.start_beat()
            reaper.kill()
        until(lambda: reaper.ask() or reaper.asked == CERTIFICATES, 60, "the last request")
        until(lambda: site.states() == {"issued": CERTIFICATES}, 120, "the last certificate")
        # One that was removed by a worker that died before it could say so is looked for until the
        # zone cannot lag.
        until(lambda: not site.uncleaned(), ZONE_LAG.total_seconds() + 60, "the last cleanup")
        inside_order = sum(states.count("queued") for states in reaper.kills)
        print(
            f"{pool}: kills {dict(reaper.hit)}, {orders_at(lab)} orders,"
            f" {inside_order} turns died inside order"
        )

        assert {state for state in STATES if reaper.hit[state] < EACH} == set()
        assert len([states for states in reaper.kills if states]) >= 12
        stored = site.rows(
            "SELECT certificate_id, count(*) FROM issuance_certificateversion"
            " GROUP BY certificate_id"
        )
        assert [row["count"] for row in stored] == [1] * CERTIFICATES
        assert CERTIFICATES <= orders_at(lab) <= CERTIFICATES + inside_order
        assert lab.left_over() == {}
        assert [line for line in site.complaints() if '"step.failed"' in line] == []
