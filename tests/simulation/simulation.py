"""One seed: a world, the faults that the seed draws, and a run to the end. Start with `run(seed)`.

It needs an empty, migrated database and a transaction that is rolled back afterwards.
"""

import logging
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import pytest
import structlog
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.db.models import F, Min
from django.utils import timezone
from nacl.public import PrivateKey  # noqa: TID251

from accounts.models import User
from authorities import clients
from authorities.models import AcmeAccount
from certctrl import clock, dispatch
from devices.models import Device
from dnsproviders import registry
from issuance import preflight, rollout, tasks, workflow
from issuance.beat import following, pruning, renewals, sweep
from issuance.models import Certificate, Deployment, Issuance, RenewalInfo
from issuance.renewal import schedule
from issuance.workflow import machine
from tests import factories
from tests.fakes.outside import Died
from tests.fakes.world import World
from tests.simulation import ends
from tests.simulation.faults import Faults, Profile, draw
from tests.simulation.outside import SimulatedCA, SimulatedOutside, SimulatedProvider, SimulatedZone
from tests.simulation.people import People, refused_or_done
from tests.simulation.scheduler import START, Actor, Scheduler
from tests.simulation.watch import TABLES, Watch

MOST_EVENTS = 4_000
MOST_DAYS = 12  # after the faults have stopped
SCAN_EVERY = 600.0
PRUNE_EVERY = 3600.0
AN_HOUR = timedelta(hours=1)
RESEND = timedelta(seconds=settings.RESEND)


class Logger:
    """Reports exceptions of the engine, and drops all other log lines."""

    def __init__(self, met: Callable[..., None]) -> None:
        self.exception = met
        self.info = self.warning = lambda event, **keys: None


class Message(NamedTuple):
    expires_at: float
    what: str
    act: Callable[[], None]


@dataclass
class Report:
    """The result of a seed. `violations` is empty when it went well."""

    seed: int
    profile: Profile
    violations: list[str]
    trace: list[str]
    calls: int = 0
    seconds: float = 0.0  # simulated
    counts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"seed {self.seed} ({self.profile})", *self.trace, "", *self.violations]
        return "\n".join([*lines, f"Replay it with: pytest tests/simulation --seed {self.seed}"])


def run(seed: int, profile: Profile | None = None, *, watching: bool = True) -> Report:
    """Run one seed. Without `watching` only the end is judged."""
    rng = random.Random(seed)
    drawn = draw(rng)
    with pytest.MonkeyPatch.context() as monkeypatch:
        simulation = Simulation(monkeypatch, rng, profile or drawn)
        simulation.watch.is_off = not watching
        violations = simulation.run()
    scheduler = simulation.scheduler
    return Report(
        seed=seed,
        profile=simulation.profile,
        violations=violations,
        trace=scheduler.trace,
        calls=len(simulation.outside.calls),
        seconds=scheduler.passed,
        counts=ends.counts(simulation),
    )


class Simulation(World):
    outside: SimulatedOutside
    zone: SimulatedZone
    catalog: SimulatedCA

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, rng: random.Random, profile: Profile
    ) -> None:
        super().__init__(monkeypatch, START)
        self.rng = rng
        self.profile = profile
        self.scheduler = Scheduler()
        self.faults = Faults(profile, rng)
        self.watch = Watch(self.scheduler, profile, self.switch)
        self.outside = SimulatedOutside(self.scheduler, self.faults, self.watch)
        self.zone = SimulatedZone(self.outside)
        self.ca = SimulatedCA(
            self.outside,
            self.zone,
            reuses_orders=profile.reuses_orders,
            reuses_authorizations=profile.reuses_authorizations,
            hands_out_used_orders=profile.used_orders,
            processing_reads=profile.processing,
            offers_renewal_info=profile.renewal_info,
            life=timedelta(hours=profile.life),
        )
        self.queue: list[Message] = []
        self.idle: list[Actor] = []
        self.people_about = 0
        self.next_scan = 0.0
        self.next_prune = PRUNE_EVERY / 2  # half of the seeds run so long
        self.between_statements = 0  # how often a worker died or was held there
        self.depth = len(connection.savepoint_ids)
        self._patch(monkeypatch)
        cache.clear()
        preflight.forget()
        self._cast()

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clock, "now", self.scheduler.now)
        monkeypatch.setattr(clock, "monotonic", self.scheduler.monotonic)
        monkeypatch.setattr(timezone, "now", self.scheduler.now)
        monkeypatch.setattr(clients, "client_for", self.ca.client_for)
        monkeypatch.setattr(
            registry, "provider_with", lambda credential: SimulatedProvider(self.zone, credential)
        )
        monkeypatch.setattr("dnsproviders.propagation.look", self.zone.look)
        monkeypatch.setattr(schedule, "draw", self.rng.random)
        monkeypatch.setattr(machine, "logger", Logger(self._met_an_exception))
        self.watch.install(monkeypatch)

    def _met_an_exception(self, event: str, **keys: Any) -> None:
        self.watch.broken(f"{event} {keys}: {traceback.format_exc()}", always=True)

    def _cast(self) -> None:
        restart_ids()
        owner = User.objects.create_user("owner@example.com")
        fields = (
            {"url": "", "status": AcmeAccount.Status.PENDING, "wake_at": self.time}
            if self.profile.registers
            else {}
        )
        self.account_row = self.account(owner, **fields)
        self.credentials = [self.credential(owner), self.credential(owner)]
        for number in range(self.profile.devices):
            key = PrivateKey(self.rng.randbytes(32))
            factories.device(owner, key=key, public_id=f"device {number}")
        if self.profile.healthy:
            self._cast_healthy()

    def _cast_healthy(self) -> None:
        """Cast an owner with a CA and a DNS API of their own. Neither has any trouble."""
        owner = User.objects.create_user("healthy@example.com")
        directory = "https://healthy.test/dir"
        self.healthy_account = self.account(
            owner, name="healthy", directory_url=directory, url="https://healthy.test/acct/1"
        )
        self.healthy_credential = self.credential(owner)
        self.watch.healthy = {
            ("account_id", self.healthy_account.pk),
            ("credential_id", self.healthy_credential.pk),
        }

    # --- messages ---

    def _start(
        self,
        issuance_id: int,
        state: str = Issuance.State.QUEUED,
        *,
        priority: int = dispatch.FIRST,
    ) -> bool:
        step = workflow.STEP_AT[state]

        def walk() -> None:
            if later := tasks.serve(step, issuance_id):
                self._start(issuance_id, later.state)

        self._send(f"{step.name} {issuance_id}", walk)
        return True

    def _nudge(self, task: Any, *args: int) -> bool:
        self._send(
            f"{task.name.partition('.')[2]} {' '.join(map(str, args))}", partial(task.run, *args)
        )
        return True

    def _send(self, what: str, act: Callable[[], None]) -> None:
        copies = 1
        if self.faults.strikes(self.profile.lose):
            self.scheduler.note(f"the message {what} is lost")
            copies = 0
        elif self.faults.strikes(self.profile.double):
            copies = 2
        message = Message(self.scheduler.passed + settings.RESEND, what, act)
        for _ in range(copies):
            self.queue.append(message)
            if self.idle:
                worker = self.idle.pop(self.rng.randrange(len(self.idle)))
                self.scheduler.wake(worker, self.rng.uniform(0.0, 0.3))

    def _take(self) -> Message | None:
        while self.queue:
            message = self.queue.pop(0)
            if message.expires_at >= self.scheduler.passed:
                return message
        return None

    def flush(self) -> None:
        self.scheduler.note(f"Redis loses its {len(self.queue)} messages")
        self.queue.clear()

    # --- those who act ---

    def work(self, actor: Actor) -> None:
        """A worker takes one message after the other, and may die at any of them."""
        while True:
            message = self._take()
            if not message:
                self.idle.append(actor)
                self.scheduler.park()
                continue
            actor.forget()
            self.scheduler.note(f"takes {message.what}")
            self._survive(actor, message.act)
            self.wake_beats()

    def _survive(self, actor: Actor, act: Callable[[], None]) -> None:
        try:
            act()
        except Died:
            self.scheduler.note("DIES")
            actor.forget()
            self.scheduler.pause(self.rng.uniform(1.0, 60.0))
        except Exception:
            self._met_an_exception("uncaught")
        actor.forget()

    def tick(self, actor: Actor) -> None:
        """The clock runs the sweep, and sometimes the scan and the pruning."""
        while True:
            actor.forget()
            self._survive(actor, self._sweep)
            self.watch.looks_around(self.zone.is_in)
            if self.profile.rollouts:
                self._report()
                self.watch.looks_at_devices()
            self.wake_beats()
            self.scheduler.park()

    def _report(self) -> None:
        """Some devices fetch what they want, and report what became of it."""
        rows = Deployment.objects.filter(device__status=Device.Status.ACTIVE, wanted__isnull=False)
        behind = rows.exclude(served_serial=F("wanted__serial")).select_related("device", "wanted")
        with self.watch.asking():
            for row in behind:
                if not self.faults.stopped and self.rng.random() >= 0.3:
                    continue
                assert row.wanted
                is_well = self.faults.stopped or self.rng.random() < 0.6
                state = "served" if is_well else "rolled_back"
                rollout.note_fetched(row.device, row.wanted)
                report = rollout.Report(row.certificate_id, row.wanted.serial, state, "")
                rollout.note_reports(row.device, [report])

    def _sweep(self) -> None:
        sweep.sweep.run()
        if self.scheduler.passed >= self.next_scan:
            self.next_scan = self.scheduler.passed + SCAN_EVERY
            renewals.scan_renewals.run()
            if self.profile.devices:
                following.follow_devices.run()
        if self.scheduler.passed >= self.next_prune:
            self.next_prune = self.scheduler.passed + PRUNE_EVERY
            pruning.prune.run()

    def wake_beats(self) -> None:
        """Schedule the next useful sweep, when a row is due."""
        at = next_due(self.scheduler.true_now())
        if self.profile.devices and self._is_left_behind():
            scan_at = START + timedelta(seconds=self.next_scan)
            at = min(at or scan_at, scan_at)
        if self.profile.rollouts and (look_at := self._next_look()):
            at = min(at or look_at, look_at)
        if at is not None:
            for each in self.beats:
                seconds = (at - self.scheduler.true_now()).total_seconds() - each.skew
                self.scheduler.wake(each, max(0.0, seconds) + self.rng.uniform(1.0, 15.0))

    def _next_look(self) -> datetime | None:
        """Return when a deployment is looked at next."""
        with self.watch.asking():
            moment: datetime | None = Deployment.objects.aggregate(at=Min("wake_at"))["at"]
        return moment

    def _is_left_behind(self) -> bool:
        """Return whether a certificate does not fit its devices. No other actor runs meanwhile."""
        with self.watch.asking():
            return bool(following.left_behind())

    def person(self, act: Callable[[], None]) -> None:
        what = act.__name__.replace("_", " ")
        self.scheduler.note(f"somebody {what}")
        try:
            self.scheduler.note(f"somebody {what}: {refused_or_done(act)}")
        except Exception:
            self._met_an_exception(f"somebody {what}")
        self.people_about -= 1
        self.wake_beats()

    # --- switching ---

    def switch(self) -> None:
        """Before a statement without transaction, let others run, or the worker die or pause."""
        actor = self.scheduler.actor
        if not actor or self.watch.is_asking or len(connection.savepoint_ids) > self.depth:
            return
        may_stop = actor.name != "person" and not self.watch.is_healthy(actor)
        if may_stop and self.faults.strikes(self.profile.stop):
            self._stop(actor)
        elif self.faults.strikes(self.profile.switch):
            self.scheduler.pause(self.rng.uniform(0.0, 2.0))

    def _stop(self, actor: Actor) -> None:
        self.between_statements += 1
        if self.rng.random() < 0.5:
            raise Died("between two statements")
        self.scheduler.note("is held between two statements")
        actor.was_held = True
        self.scheduler.pause(self.faults.hold())
        self.scheduler.note("goes on")

    def before_statement(
        self, execute: Any, sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        if not sql.startswith(("RELEASE", "ROLLBACK")) and (
            '"issuance_' in sql or '"dnsproviders_' in sql
        ):
            self.switch()
        return execute(sql, params, many, context)

    # --- the run ---

    def run(self) -> list[str]:
        """Play the seed to its end; what went wrong."""
        self._spawn()
        with connection.execute_wrapper(self.before_statement), quiet_logs():
            try:
                self._play()
            finally:
                self.scheduler.close()
        return self.watch.violations or self._left_behind() or ends.violations(self)

    def _left_behind(self) -> list[str]:
        return [f"{len(self.queue)} messages are never taken"] if self.queue else []

    def _spawn(self) -> None:
        skewed = partial(self.rng.uniform, -self.profile.skew, self.profile.skew)
        for number in range(self.profile.workers):
            self._act(Actor(f"w{number + 1}", skewed()), self.work)
        self.beats = [Actor(f"beat{number + 1}", skewed()) for number in range(self.profile.beats)]
        for each in self.beats:
            self._act(each, self.tick, self.rng.uniform(0.0, 10.0))
        for seconds, act in People(self, self.rng).script():
            self.people_about += 1
            self._act(Actor("person", skewed()), lambda _, act=act: self.person(act), seconds)
        span = self.profile.minutes * 60
        for number in range(self.profile.healthy):
            self.people_about += 1
            seconds = self.rng.uniform(0.0, span)
            self._act(Actor("person"), partial(self._ask_healthy, number), seconds)
        for _ in range(self.profile.flush):
            self.scheduler.after(self.rng.uniform(0.0, span), self.flush)
        self.scheduler.after(span, self._stop_faults)

    def _ask_healthy(self, number: int, actor: Actor) -> None:
        def asks_without_trouble() -> None:
            name = f"healthy{number}.example.com"
            _, issuance = self.create(self.healthy_account, self.healthy_credential, name)
            self.watch.waits(issuance)

        self.person(asks_without_trouble)

    def _act(self, actor: Actor, body: Callable[[Actor], None], delay: float = 0.0) -> None:
        self.scheduler.spawn(actor, lambda: body(actor), delay)

    def _stop_faults(self) -> None:
        self.scheduler.note("the faults stop")
        self.faults.stop()
        self.wake_beats()

    def _play(self) -> None:
        latest = self.profile.minutes * 60 + MOST_DAYS * 86400
        for _ in range(MOST_EVENTS):
            if self.watch.violations or not self.scheduler.step():
                return
            assert len(connection.savepoint_ids) == self.depth, (
                "somebody paused inside a transaction"
            )
            if self.scheduler.passed > latest:
                break
        self.watch.broken(f"it has not come to rest: {ends.what_is_left()}", always=True)


def next_due(now: datetime) -> datetime | None:
    """Return when the first row is due for a message, or the first certificate for an attempt."""
    moments = [
        max(wake_at, queued_at + RESEND) if queued_at else wake_at
        for wake_at, queued_at in _rows(DUE)
    ]
    # What goes on for ever counts as long as it is near, or there would be no end.
    endless = _rows(TO_RENEW) + _rows(TO_POLL)
    moments += [at for at, troubles in endless if troubles or at < now + AN_HOUR]
    return min(moments, default=None)


DUE = " UNION ALL ".join(
    f"SELECT wake_at, queued_at FROM {table._meta.db_table} WHERE wake_at IS NOT NULL"
    for table in TABLES
    if table is not RenewalInfo
)
TO_RENEW = f"SELECT renew_at, failures FROM {Certificate._meta.db_table} WHERE renew_at IS NOT NULL"
TO_POLL = f"SELECT wake_at, stumbles FROM {RenewalInfo._meta.db_table} WHERE wake_at IS NOT NULL"


def _rows(sql: str) -> list[Any]:
    """Return the rows of plain SQL, which is ten times as fast. Times get their zone here."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql)
        return [[_moment(each) for each in row] for row in cursor.fetchall()]


def _moment(value: Any) -> Any:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and not value.tzinfo else value


def restart_ids() -> None:
    """Restart the sequences. PostgreSQL does not roll them back, and a seed needs the same ids."""
    if connection.vendor != "postgresql":
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT sequencename FROM pg_sequences WHERE schemaname = current_schema()")
        for (name,) in cursor.fetchall():
            cursor.execute(f'ALTER SEQUENCE "{name}" RESTART')


@contextmanager
def quiet_logs() -> Iterator[None]:
    """A run shows its trace and no log lines, because there are too many."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
