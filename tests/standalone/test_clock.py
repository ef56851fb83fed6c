"""The clock of the embedded server: beat, which runs the sweep itself."""

import pytest
from celery.beat import ScheduleEntry
from redis.exceptions import ConnectionError as RedisAway
from structlog.testing import capture_logs

from certctrl.celery import app
from standalone.clock import SWEEP, Clock

pytestmark = pytest.mark.django_db


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks for which the clock sent a message."""
    sent: list[str] = []
    monkeypatch.setattr(
        Clock, "apply_async", lambda self, entry, **options: sent.append(entry.task)
    )
    return sent


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One line for each sweep that ran."""
    swept: list[str] = []
    monkeypatch.setattr(app.tasks[SWEEP], "run", lambda seconds: swept.append("swept"))
    return swept


def run_all_jobs() -> Clock:
    clock = Clock(app)
    for entry in list(clock.schedule.values()):
        clock.apply_entry(entry)
    return clock


def test_the_sweep_runs_without_a_message(sent: list[str], swept: list[str]) -> None:
    run_all_jobs()
    assert swept == ["swept"]
    assert SWEEP not in sent


def test_every_other_job_gets_its_message(sent: list[str], swept: list[str]) -> None:
    clock = run_all_jobs()
    others = {entry.task for entry in clock.schedule.values()} - {SWEEP}
    assert set(sent) == others
    assert others


def test_a_sweep_that_fails_does_not_end_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(seconds: float) -> None:
        raise RedisAway("no server")

    monkeypatch.setattr(app.tasks[SWEEP], "run", fail)
    clock = Clock(app)
    with capture_logs() as logs:
        clock.apply_entry(ScheduleEntry(name="sweep", task=SWEEP, schedule=1.0, app=app))
    assert [(each["event"], each["error"]) for each in logs] == [
        ("sweep.not_ended", "ConnectionError")
    ]
