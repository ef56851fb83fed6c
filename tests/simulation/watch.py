"""The rules for every moment of a run.

The watch sees every outside call, and every UPDATE of a row that workers take turns on. It reads
the database before the UPDATE and ignores the engine's own conditions. So it sees the first write
through a broken fence, even if that write does no harm.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import F, QuerySet

from authorities.models import AcmeAccount
from certctrl.statements import Parameter, Select, select
from certctrl.turns import Turns, TurnsQuerySet
from devices.models import Device
from dnsproviders.models import TxtRecord
from issuance.challenges.dns01 import REPUBLISH_AFTER
from issuance.models import (
    Authorization,
    CertificateVersion,
    Deployment,
    Issuance,
    RenewalInfo,
)
from keystore.models import KeyWrap
from tests.simulation.faults import Profile
from tests.simulation.scheduler import Actor, Scheduler

State = Issuance.State
LONGEST_HOLD = timedelta(hours=2)  # of a device, after its version is not safe any more
LONGEST_WAIT = 1800.0  # seconds from the request of a healthy certificate until it is issued
TABLES: tuple[type[Turns], ...] = (
    Issuance,
    TxtRecord,
    AcmeAccount,
    CertificateVersion,
    RenewalInfo,
)

# Columns that may be written without holding the row: the marks of messages, the wake-up time, and
# decisions of a person or another row. With `idle` no worker may hold the row.
MARKS = {"queued_at"}
REOPENS = {"cleaned_at", "unsure_until", "wake_at", "queued_at"}
IDLE = {"wake_at", "queued_at", "presented_at"}
# A person who changes the key policy takes the turn of an attempt that may be making a key.
TAKES = {"holder", "wake_at", "queued_at"}
BY_OTHERS: dict[type[Turns], set[str]] = {
    Issuance: {"key"},
    TxtRecord: set(),
    AcmeAccount: {"url", "status", "wake_at", "queued_at"},
    CertificateVersion: {"key", "revoke_asked_at", "revoke_reason", "wake_at", "queued_at"},
    RenewalInfo: set(),
}


class Watch:
    def __init__(self, scheduler: Scheduler, profile: Profile, switch: Callable[[], None]) -> None:
        self.scheduler = scheduler
        self.profile = profile
        self.switch = switch
        self.violations: list[str] = []
        self.is_off = False  # only the end is judged
        self.is_asking = False  # no other actor runs while it asks and the UPDATE runs
        self.inside: list[Actor] = []
        self.owners: dict[str, list[Any]] = {}  # token -> the turns of the incarnation that drew it
        self.excused: set[tuple[str, str]] = (
            set()
        )  # (name, value) of records that a fault made unsure
        self.missing: dict[tuple[str, str], float] = {}
        self.healthy: set[tuple[str, int]] = set()  # columns with ids that have no trouble

    def broken(self, what: str, *, always: bool = False) -> None:
        if self.is_off and not always:
            return
        self.scheduler.note(f"VIOLATION {what}")
        self.violations.append(what)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = QuerySet.update
        real_begin = Turns.begin
        real_claim = TurnsQuerySet.claim
        real_update = Turns._update

        def update(queryset: "QuerySet[Any]", **columns: Any) -> int:
            if queryset.model is Deployment and self.scheduler.actor and columns.get("wanted"):
                self._gives(list(queryset.values_list("pk", flat=True)), columns["wanted"])
            if queryset.model not in TABLES or not self.scheduler.actor:
                return real(queryset, **columns)
            asked = queryset.order_by().values_list(*_judged(queryset.model))
            return self._update(queryset.model, lambda: real(queryset, **columns), asked, columns)

        # The two below do not go through QuerySet.update.
        def update_row(row: Turns, before: dict[str, Any], columns: dict[str, Any]) -> int:
            if type(row) not in TABLES or not self.scheduler.actor:
                return real_update(row, before, columns)

            def update_now() -> int:
                return real_update(row, before, columns)

            return self._update(type(row), update_now, _Row(type(row), row.pk), columns)

        def claim(queryset: Any, pk: int, **needs: Any) -> Any:
            if queryset.model not in TABLES or not self.scheduler.actor:
                return real_claim(queryset, pk, **needs)
            claimed: list[Turns] = []
            columns = {"holder": "", "deaths": 0}

            def claim_now() -> int:
                row = real_claim(queryset, pk, **needs)
                if row:
                    claimed.append(row)
                    columns["holder"] = row.holder
                return len(claimed)

            self._update(queryset.model, claim_now, _Row(queryset.model, pk), columns)
            return claimed[0] if claimed else None

        def begin(row: Turns, seconds: float | None = None) -> Turns:
            if self.scheduler.actor:
                lease = (row.wake_at - self.scheduler.now()).total_seconds() if row.wake_at else 0.0
                self.scheduler.actor.turns.append((row, self.scheduler.passed + lease))
            return real_begin(row, seconds)

        monkeypatch.setattr(QuerySet, "update", update)
        monkeypatch.setattr(TurnsQuerySet, "claim", claim)
        monkeypatch.setattr(Turns, "_update", update_row)
        monkeypatch.setattr(Turns, "begin", begin)

    # --- writes ---

    @contextmanager
    def asking(self) -> Iterator[None]:
        self.is_asking = True
        try:
            yield
        finally:
            self.is_asking = False

    def _update(
        self,
        model: type[Turns],
        real: Callable[[], int],
        asked: Iterable[Any],
        columns: dict[str, Any],
    ) -> int:
        """Ask what the rows are, call `real`, which updates them, and judge each."""
        self.switch()
        if columns.keys() <= MARKS:
            return real()
        with self.asking():
            before = list(asked)
            count = real()
        for row in before if count else ():
            self._judge(model, columns, *row)
        return count

    def _judge(
        self,
        model: type[Turns],
        columns: dict[str, Any],
        pk: int,
        holder: str,
        wake_at: datetime | None,
        state: str | None = None,
    ) -> None:
        actor = self.scheduler.actor
        assert actor
        token = columns.get("holder")
        is_own = bool(holder) and self.owners.get(holder) is actor.turns
        if token and token != holder:
            self.owners[token] = actor.turns
            if not is_own and (model is not TxtRecord or holder):
                self._claims(model, pk, holder, wake_at)
            return
        if is_own:
            return
        is_taken = model is Issuance and set(columns) == TAKES and state == State.QUEUED
        if is_taken and actor.name == "person" and not token:
            self._takes(pk, holder)
            return
        if not self._may_write(model, set(columns), holder, columns.get("state"), state):
            whose = "another has" if holder else "nobody has any more"
            self.broken(
                f"{actor.name} writes {', '.join(columns)} of {model.__name__} {pk}, which {whose}"
            )

    def _takes(self, pk: int, holder: str) -> None:
        """The worker that had the turn may go on until its next write."""
        turns = self.owners.get(holder, [])
        turns[:] = [(row, 0.0 if row.pk == pk else until) for row, until in turns]

    def _claims(self, model: type[Turns], pk: int, holder: str, wake_at: datetime | None) -> None:
        if wake_at is None or wake_at > self.scheduler.now():
            why = "while another's lease runs" if holder else "before it is due"
            self.broken(f"{model.__name__} {pk} is claimed {why}")

    def _may_write(
        self, model: type[Turns], columns: set[str], holder: str, to: Any, state: str | None
    ) -> bool:
        if model is TxtRecord and columns <= REOPENS and "cleaned_at" in columns:
            return True
        if to == State.CANCELED:
            return state in Issuance.BEFORE_VALIDATED
        return columns <= BY_OTHERS[model] or (not holder and columns <= IDLE)

    # --- rollouts ---

    def _gives(self, deployments: list[int], version: CertificateVersion) -> None:
        """A device gets a new version when it is its turn. A person may end the hold."""
        actor = self.scheduler.actor
        assert actor
        if actor.name == "person":
            return
        with self.asking():
            parts = ("certificate", "device", "wanted__renewal_info")
            rows = Deployment.objects.filter(pk__in=deployments).select_related(*parts)
            for row in rows:
                self._judge_delay(row, version)
            held = [row for row in rows if self._is_held(row)]
            for row in held:
                self._judge_window(row)
            if held and held[0].certificate.rollout == "canary":
                self._judge_canary(held, version)

    def _is_held(self, row: Deployment) -> bool:
        """Return whether the device has a version that it can open, and that is safe to keep."""
        if row.wanted is None or self.scheduler.now() >= safe_until(row.wanted):
            return False
        wraps = KeyWrap.objects.filter(envelope=row.wanted.key_id, recipient_key=row.device.key_id)
        return row.certificate.key_policy == "MASTER_ONLY" or wraps.exists()

    def _judge_delay(self, row: Deployment, version: CertificateVersion) -> None:
        if row.wanted is None or row.wanted_at is None:
            return
        times = (row.wanted_at, version.created_at, row.device.enrolled_at)
        if max(safe_until(row.wanted), *times) < self.scheduler.now() - LONGEST_HOLD:
            self.broken(f"{row} was kept at version {row.wanted_id} for too long")

    def _judge_window(self, row: Deployment) -> None:
        window = row.certificate.install_window
        if window and not is_open(window, self.scheduler.now()):
            self.broken(f"{row} gets a version outside of its install window {window}")

    def _judge_canary(self, held: list[Deployment], version: CertificateVersion) -> None:
        active = held[0].certificate.deployments.filter(device__status=Device.Status.ACTIVE)
        if active.filter(served_serial=version.serial).exists():
            return
        tried = active.filter(wanted=version)
        since = self.scheduler.now() - timedelta(seconds=settings.SERVE_WITHIN)
        is_trying = tried.filter(wanted_at__gt=since) | tried.filter(fetched_serial=version.serial)
        if len(held) > 1 or (is_trying | tried.filter(failed_serial=version.serial)).exists():
            self.broken(f"{', '.join(map(str, held))} overtake the canary")

    def looks_at_devices(self) -> None:
        """No device is kept at a version for longer than is safe."""
        behind = Deployment.objects.filter(
            device__status=Device.Status.ACTIVE,
            certificate__retired_at=None,
            wanted__isnull=False,
        ).exclude(wanted=F("certificate__current"))
        late = self.scheduler.now() - LONGEST_HOLD
        with self.asking():
            for row in behind.select_related("wanted__renewal_info"):
                assert row.wanted
                if safe_until(row.wanted) < late and (row.wanted_at or late) < late:
                    self.broken(f"{row} is kept at version {row.wanted_id} for too long")

    # --- outside calls ---

    def excuse(self, record: TxtRecord | None) -> None:
        """A fault makes the effect and the time of this call uncertain."""
        if record:
            self.excused.add((record.name, record.value))

    def enters(self, actor: Actor, name: str, record: TxtRecord | None) -> None:
        """Two may be inside calls for one row only when one of them outlived its lease."""
        actor.calling = name
        self.inside = [each for each in self.inside if each.calling and each is not actor]
        mine = {row: until for row, until in _held(actor) if not self._may_have_lost(actor, until)}
        for other in self.inside:
            for row, until in _held(other):
                if row in mine and not self._may_have_lost(other, until):
                    self.broken(
                        f"{actor.name} calls {name} for {row!r}"
                        f" while {other.name} calls {other.calling}"
                    )
        self.inside.append(actor)

    def _may_have_lost(self, actor: Actor, until: float) -> bool:
        """The lease is over, as the clock that is most ahead sees it."""
        return actor.was_held or self.scheduler.passed >= until - 2 * self.profile.skew

    def presents(self, record: TxtRecord) -> None:
        """The intent is written before the effect."""
        with self.asking():
            row = TxtRecord.objects.get(pk=record.pk)
        if row.holder == record.holder and not (
            row.intent_at and row.wake_at and not row.cleaned_at
        ):
            self.broken(f"{record} is presented before it is written down that it is meant to be")

    def removes(self, record: TxtRecord) -> None:
        """A record that an attempt needs in the zone is removed only by a late call."""
        if (record.name, record.value) in self.excused or (
            self.scheduler.actor and self.scheduler.actor.was_held
        ):
            self.excused.add((record.name, record.value))
            return
        with self.asking():
            twin = TxtRecord.objects.filter(name=record.name, value=record.value).exclude(
                pk=record.pk
            )
            if twin.exists():
                self.excused.add((record.name, record.value))
                return
            needs = self._relied_on().filter(record=record.pk).first()
        if needs:
            self.broken(f"{record} is removed while attempt {needs.issuance_id} relies on it")

    def not_found(self, url: str, name: str, value: str) -> None:
        """The CA did not find a record that certctrl said is there."""
        if (name, value) in self.excused:
            return
        with self.asking():
            relies = self._relied_on().filter(url=url, issuance__state=State.PROPAGATED).first()
        if relies:
            self.broken(
                f"the CA does not find {name}, which attempt {relies.issuance_id} said is there"
            )

    def _relied_on(self) -> "QuerySet[Authorization]":
        states = (State.PRESENTED, State.PROPAGATED)
        return Authorization.objects.filter(
            status=Authorization.Status.PENDING, issuance__state__in=states
        )

    def looks_around(self, is_in: Callable[[str, str], bool]) -> None:
        """A record that an attempt waits for is missing only until a look can see that."""
        with self.asking():
            waited_for = _waited_for()
        missing = {
            (name, value): presents
            for name, value, presents in waited_for
            if not is_in(name, value)
        }
        self.missing = {each: self.missing.get(each, self.scheduler.passed) for each in missing}
        for each, since in self.missing.items():
            presents = missing[each]
            longest = (
                REPUBLISH_AFTER[presents] * 1.5 + 600 if presents < len(REPUBLISH_AFTER) else 3000
            )
            if self.scheduler.passed - since > longest:
                self.broken(
                    f"{each[0]} was missing for {self.scheduler.passed - since:.0f} s"
                    " while it was needed"
                )

    # --- those without trouble ---

    def is_healthy(self, actor: Actor) -> bool:
        """Return whether the actor works for an account or a credential without trouble."""
        return any(
            getattr(row, column, None) == pk
            for row, _ in actor.turns
            for column, pk in self.healthy
        )

    def waits(self, issuance: Issuance) -> None:
        """Nobody healthy waits longer than LONGEST_WAIT, whatever happens to others."""
        asked_at = self.scheduler.passed

        def judge() -> None:
            with self.asking():
                state = Issuance.objects.values_list("state", flat=True).get(pk=issuance.pk)
            if state != State.ISSUED:
                seconds = self.scheduler.passed - asked_at
                self.broken(f"healthy attempt {issuance.pk} is {state} after {seconds:.0f} s")

        self.scheduler.after(LONGEST_WAIT, judge)


def safe_until(version: CertificateVersion) -> datetime:
    """Return until when a device may be kept at this version."""
    if version.revoke_asked_at:
        return version.revoke_asked_at
    life = version.not_after - version.not_before
    latest = version.not_after - life / 12
    info = getattr(version, "renewal_info", None)
    early = info.window_end if info else None
    return min(latest, early) if early and early < version.not_before + life / 2 else latest


def is_open(window: dict[str, Any], now: datetime) -> bool:
    """Return whether an install window in UTC is open."""
    moment, start, end = f"{now:%H:%M}", window["start"], window["end"]
    today, yesterday = (f"{now - timedelta(days=ago):%a}".lower() for ago in (0, 1))
    if start < end:
        return today in window["days"] and start <= moment < end
    opened = today if moment >= start else yesterday
    return opened in window["days"] and (moment >= start or moment < end)


@select
def _waited_for() -> "QuerySet[Authorization, Any]":
    """Return the records that attempts wait for, with the number of times they were published."""
    pending = Authorization.objects.filter(status=Authorization.Status.PENDING)
    columns = ("record__name", "record__value", "issuance__presents")
    return pending.filter(issuance__state=State.PRESENTED).values_list(*columns)


def _judged(model: type[Turns]) -> tuple[str, ...]:
    """Return the columns of a row that are judged."""
    return (
        ("pk", "holder", "wake_at", "state") if model is Issuance else ("pk", "holder", "wake_at")
    )


class _Row:
    """The columns of one row, read with a compiled statement when somebody iterates."""

    def __init__(self, model: type[Turns], pk: int) -> None:
        self.model = model
        self.pk = pk

    def __iter__(self) -> Iterator[Any]:
        return iter(_by_key(self.model, connection.vendor)(pk=self.pk))


@cache
def _by_key(model: type[Turns], vendor: str) -> Select[Any]:
    rows = model._base_manager.filter(pk=Parameter("pk"))
    return Select(rows.values_list(*_judged(model)))


def _held(actor: Actor) -> list[tuple[Turns, float]]:
    """Return the rows that the actor believes it holds, with the end of each lease."""
    return [(row, until) for row, until in actor.turns if row.holder]
