"""Deliberate bugs in the important places of the engine. Each is a patch for one run."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings

from certctrl import clock
from certctrl.turns import Turns, TurnsQuerySet, late_at, new_token
from dnsproviders import records
from dnsproviders.base import Provider
from dnsproviders.models import TxtRecord
from issuance.beat import following
from issuance.challenges import txtrecords
from issuance.rollout import advancing, windows
from tests.simulation import simulation

Break = Callable[[pytest.MonkeyPatch], None]


def the_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes are not conditional on the holder."""

    def mine(row: Turns) -> Any:
        return type(row)._base_manager.filter(pk=row.pk)

    def update(row: Turns, before: dict[str, Any], columns: dict[str, Any]) -> int:
        return int(mine(row).filter(**before).update(**columns))

    monkeypatch.setattr(Turns, "mine", mine)
    monkeypatch.setattr(Turns, "_update", update)
    monkeypatch.setattr(Turns, "_is_mine", lambda row: True)


def the_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The intent is written after the record was presented."""

    def present(record: TxtRecord, provider: Provider) -> None:
        zone = provider.zone_of(record.name)
        provider.present(record)
        now = clock.now()
        record.write(zone=zone, intent_at=now, cleaned_at=None, unsure_until=None)
        record.give_back(now + records.NEEDED_REST, presented_at=now)

    monkeypatch.setattr(records, "_present", present)


def the_due_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim ignores `wake_at`."""

    def claim(rows: TurnsQuerySet[Any], pk: int, *, due: bool = True, **needs: Any) -> Any:
        token = new_token()
        ready = rows.filter(pk=pk, **needs)
        ready = ready.filter(wake_at__isnull=False) if due else ready
        at = clock.now()
        ends = at + timedelta(seconds=settings.LEASE)
        if not ready.update(holder=token, **rows.claim_fields(at, ends, late_at(at))):
            return None
        row = rows.filter(pk=pk, holder=token).first()
        return row.begin() if row else None

    monkeypatch.setattr(TurnsQuerySet, "claim", claim)


def the_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleanup does not ask who needs the record."""
    monkeypatch.setattr(txtrecords, "is_needed", lambda record: False)
    monkeypatch.setattr(txtrecords, "needed_records", lambda rows: rows.none())


def the_reopening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie that presented does not reopen the record."""
    monkeypatch.setattr(records, "reopen", lambda record_id: None)


def the_resending(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost message is sent again after hours only. Everything is still issued in the end."""
    monkeypatch.setattr(settings, "RESEND", 10_000)
    monkeypatch.setattr(simulation, "RESEND", timedelta(seconds=10_000))


def the_following(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for devices whose change was not followed."""
    monkeypatch.setattr(following, "left_behind", set)


def the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """All devices get a new version at once."""
    monkeypatch.setattr(advancing, "_canaries", lambda certificate, now: None)


def the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """An install window is always open."""
    monkeypatch.setattr(windows, "opens_at", lambda window, now: now)


def the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is held back until its version has ended."""
    monkeypatch.setattr(advancing, "SAFE_PART", 1_000_000)


MUTANTS: dict[str, Break] = {
    "the fence": the_fence,
    "the intent": the_intent,
    "the due test": the_due_test,
    "the need": the_need,
    "the reopening": the_reopening,
    "the resending": the_resending,
    "the following": the_following,
    "the canary": the_canary,
    "the window": the_window,
    "the end": the_end,
}
