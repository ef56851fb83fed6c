"""A scenario: worker threads, the clock process, outside parties, and a clock that jumps.

A thread is occupied for as long as an outside call takes in simulated time. The engine's own work
takes no time. The sweep runs once a second. While nothing happens it runs less often, by a
twentieth of the idle time at most.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import Min
from django.utils import timezone

from accounts.models import User
from authorities.models import AcmeAccount
from certctrl import board, clock, dispatch, lanes
from certctrl.turns import Turns
from dnsproviders import registry
from dnsproviders.models import DnsCredential
from issuance import models, workflow
from issuance.beat import pruning, renewals, sweep
from issuance.models import Certificate, Issuance
from keystore.models import Envelope
from tests.fakes.world import World
from tests.scenarios.outside import (
    IssuanceLimiter,
    Manner,
    TimedCA,
    TimedOutside,
    TimedProvider,
    TimedZone,
    host,
)
from tests.simulation.scheduler import START, Actor, Scheduler

THREADS = 8  # WORKER_CONCURRENCY as shipped
SCAN_EVERY = 600.0
PRUNE_EVERY = 3600.0
LONGEST_IDLE = 300.0
NOT_YET = math.inf
LETSENCRYPT = {
    "account": [300, 36],
    "domain": [50, 12096],
    "set": [5, 120960],
    "failures": [5, 720],
}


class Message(NamedTuple):
    expires_at: float
    act: Callable[[], Any]


class Scenario(World):
    outside: TimedOutside
    zone: TimedZone
    ca: TimedCA

    def __init__(self, monkeypatch: pytest.MonkeyPatch, threads: int = THREADS) -> None:
        super().__init__(monkeypatch, START)
        self.scheduler = Scheduler()
        self.outside = TimedOutside(self.scheduler)
        self.zone = TimedZone(self.outside)
        self.cas = {}
        self.ca = self.another_ca("ca")
        self.skew = 0.0  # seconds by which the clocks of the workers are ahead
        self.threads = [Actor(f"w{number + 1}") for number in range(threads)]
        self.idle: list[Actor] = []
        # By priority. A queue is taken from when those before it are empty.
        self.queues: dict[int, deque[Message]] = {
            each: deque() for each in (dispatch.BEGUN, dispatch.FIRST, dispatch.LATER)
        }
        self.errors: list[Exception] = []  # that the engine let through; Celery would log them
        self.sweep_every = 1.0
        self.last_act = 0.0
        self.next_scan = self.next_prune = 0.0
        self.is_cast = False
        self._patch(monkeypatch)

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(board, "board", board.Board(len(self.threads)))
        lanes.forget()
        monkeypatch.setattr(clock, "now", self.scheduler.now)
        monkeypatch.setattr(clock, "monotonic", self.scheduler.monotonic)
        monkeypatch.setattr(timezone, "now", self.scheduler.now)
        monkeypatch.setattr(
            registry, "provider_with", lambda credential: TimedProvider(self.zone, credential)
        )
        monkeypatch.setattr("dnsproviders.propagation.look", self.zone.look)
        monkeypatch.setattr("dnsclient.cnames.follow", self.zone.follow)
        monkeypatch.setattr("dnsclient.survey.survey", self.zone.survey)

    def another_ca(self, name: str) -> TimedCA:
        """Return a CA of the directory `https://<name>.test/dir`. It is a party of that name."""
        self.cas[f"{name}.test"] = made = TimedCA(self.outside, self.zone, name=name)
        return made

    def client_for(self, account: AcmeAccount) -> Any:
        return self.cas[host(account.directory_url)].client_for(account)

    def limit(self, configured: Any, **kinds: list[float]) -> None:
        """Set the rate limits that the server knows, and that every CA enforces."""
        limits = {**LETSENCRYPT, **kinds}
        configured.ACME_CAS = {"custom": {"limits": limits}}
        for each in self.cas.values():
            each.limiter = IssuanceLimiter(limits)

    # --- people, before the run or in it ---

    def someone(self, name: str = "owner") -> User:
        return User.objects.create_user(f"{name}@example.com")

    def due(
        self,
        account: AcmeAccount,
        credential: DnsCredential,
        names: Iterable[str],
        **fields: Any,
    ) -> list[str]:
        """Write one certificate for each name, due now. Return the names.

        The scan opens the attempts. So it does not matter how a scan chooses.
        """
        names = list(names)
        Certificate.objects.bulk_create(
            Certificate(
                owner=account.owner,
                domain=name,
                names=[name],
                account=account,
                credential=credential,
                request_digest=models.digest(account.pk, name),
                **{"renew_at": clock.now(), "key_policy": Envelope.Policy.MASTER_ONLY} | fields,
            )
            for name in names
        )
        self.next_scan = self.scheduler.passed
        return names

    def issue(
        self, account: AcmeAccount, credential: DnsCredential, names: Iterable[str]
    ) -> list[str]:
        """Get certificates for the names in a run of at most a minute."""
        names = self.due(account, credential, names)
        self.run_until_issued(names, self.scheduler.passed + 60)
        self.run(self.scheduler.passed + 10)
        return names

    def renew(self, names: Collection[str], **fields: Any) -> float:
        """Make the issued certificates due. Return the seconds since the start."""
        issued = Certificate.objects.filter(domain__in=names, current__isnull=False)
        issued.update(renew_at=clock.now(), **fields)
        self.next_scan = self.scheduler.passed
        return self.scheduler.passed

    # --- outside ---

    def behave(
        self, manner: Manner, *parties: str, begin: float = 0.0, end: float = NOT_YET
    ) -> None:
        """Let the parties answer in this manner from `begin` to `end`, in seconds."""

        def start() -> None:
            self.outside.manners.update(dict.fromkeys(parties, manner))

        def stop() -> None:
            for party in parties:
                self.outside.manners.pop(party, None)

        self.at(begin, start)
        if end < NOT_YET:
            self.at(end, stop)

    def at(self, seconds: float, act: Callable[[], Any]) -> None:
        """Let something happen at this time of the run."""
        if seconds <= self.scheduler.passed:
            act()
        else:
            self.scheduler.after(seconds - self.scheduler.passed, act)

    # --- messages ---

    def _start(
        self,
        issuance_id: int,
        state: str = Issuance.State.QUEUED,
        *,
        priority: int = dispatch.FIRST,
    ) -> bool:
        def walk() -> None:
            if later := workflow.walk(workflow.STEP_AT[state], issuance_id):
                self._start(issuance_id, later.state, priority=priority)

        self._send(walk, priority)
        return True

    def _nudge(self, task: Any, *args: int) -> bool:
        self._send(partial(task.run, *args), dispatch.FIRST)
        return True

    def _send(self, act: Callable[[], Any], priority: int) -> None:
        self.queues[priority].append(Message(self.scheduler.passed + settings.RESEND, act))
        if self.idle:
            self.scheduler.wake(self.idle.pop(), 0.0)

    # --- those who act ---

    def work(self, actor: Actor) -> None:
        while True:
            while queue := next(filter(None, self.queues.values()), None):
                message = queue.popleft()
                if message.expires_at >= self.scheduler.passed:
                    self._survive(message.act)
                    self.last_act = self.scheduler.passed
            self.idle.append(actor)
            self.scheduler.park()

    def _survive(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:
            self.errors.append(error)

    def tick(self, actor: Actor) -> None:
        while True:
            self._survive(sweep.sweep.run)
            if self.scheduler.passed >= self.next_scan:
                self.next_scan = self.scheduler.passed + SCAN_EVERY
                renewals.scan_renewals.run()
            if self.scheduler.passed >= self.next_prune:
                self.next_prune = self.scheduler.passed + PRUNE_EVERY
                pruning.prune.run()
            self.scheduler.pause(self._until_next_sweep())

    def _until_next_sweep(self) -> float:
        if any(self.queues.values()) or len(self.idle) < len(self.threads):
            return self.sweep_every
        nap = min(LONGEST_IDLE, (self.scheduler.passed - self.last_act) / 20)
        return max(self.sweep_every, math.floor(min(nap, self._until_due())))

    def _until_due(self) -> float:
        """Return the seconds until a row, or a certificate at the next scan, is due."""
        tables = [each for each in Turns.__subclasses__() if not each._meta.abstract]
        moments = [table._base_manager.aggregate(at=Min("wake_at"))["at"] for table in tables]
        considered = Certificate.objects.filter(lacks=None)
        moments.append(considered.aggregate(at=Min("renew_at"))["at"])
        due = [(at - self.scheduler.true_now()).total_seconds() for at in moments if at]
        return max(0.0, min(due, default=LONGEST_IDLE))

    # --- the run ---

    def run(self, most: float, until: Callable[[], bool] = lambda: False) -> float:
        """Let the time pass until `until()`, at most to `most` seconds since the start.

        Return the seconds that have passed.
        """
        if not self.is_cast:
            self.is_cast = True
            for each in self.threads:
                each.skew = self.skew
                self._spawn(each, self.work)
            self._spawn(Actor("clock"), self.tick)
        depth = len(connection.savepoint_ids)
        self.scheduler.after(max(0.0, most - self.scheduler.passed), lambda: None)
        while self.scheduler.passed < most and not until() and self.scheduler.step():
            assert len(connection.savepoint_ids) == depth, "a call is inside a transaction"
        return self.scheduler.passed

    def _spawn(self, actor: Actor, body: Callable[[Actor], None]) -> None:
        self.scheduler.spawn(actor, lambda: body(actor))

    def run_until_issued(self, names: Collection[str], most: float, ca: str = "ca") -> float:
        signed, missing = self.cas[f"{ca}.test"].signed, set(names)

        def is_done() -> bool:
            missing.difference_update(name for name in list(missing) if signed.get(name))
            return not missing

        return self.run(most, is_done)

    # --- what came of it ---

    def waits(self, names: Iterable[str], since: float = 0.0, ca: str = "ca") -> list[float]:
        """Return when the CA signed for each name, in seconds after `since`; NOT_YET if never.

        The first certificate after `since` counts.
        """
        signed = self.cas[f"{ca}.test"].signed
        return sorted(
            min((at - since for at in signed.get(name, ()) if at >= since), default=NOT_YET)
            for name in names
        )

    def longest(self, names: Iterable[str], since: float = 0.0, ca: str = "ca") -> float:
        return max(self.waits(names, since, ca))

    def median(self, names: Iterable[str], since: float = 0.0, ca: str = "ca") -> float:
        return median(self.waits(names, since, ca))

    def last(self, name: str) -> Issuance:
        found = Issuance.objects.filter(certificate__domain=name).order_by("-pk").first()
        assert found, f"no attempt at {name}"
        return found

    def next_try(self, name: str) -> float | None:
        """Return the seconds until the certificate is tried again, or None if it is not."""
        at = Certificate.objects.get(domain=name).renew_at
        return (at - self.scheduler.true_now()).total_seconds() if at else None


def numbered(count: int, domain: str = "") -> list[str]:
    """Return `count` names: of one registered domain, or each of a domain of its own."""
    if domain:
        return [f"host{number}.{domain}" for number in range(count)]
    return [f"www.domain{number}.com" for number in range(count)]


__all__ = ["LETSENCRYPT", "NOT_YET", "Scenario", "numbered"]
