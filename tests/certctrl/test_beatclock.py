"""beat sends every job again after the wall clock was ahead and was corrected."""

import os
import shelve
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
import time_machine
from celery.beat import ScheduleEntry

from certctrl.beatclock import BeatScheduler
from certctrl.celery import app
from lab.ca import PROJECT
from standalone.redisserver import RedisServer
from tests.patience import LIMIT, until

START = "2030-01-01T00:00:00+00:00"
EACH_MINUTE = {"advance drills", "seal audit events"}
EACH_HOUR = {"warn of expiry", "revoke superseded", "prune"}
JOBS = {"sweep", "scan renewals", "follow devices"} | EACH_MINUTE | EACH_HOUR


class Recording(BeatScheduler):
    """Keeps the names of the tasks that it would send."""

    def __init__(self, **kwargs: object) -> None:
        self.sent: list[str] = []
        super().__init__(app, **kwargs)

    def apply_entry(self, entry: ScheduleEntry, producer: object = None) -> None:
        self.sent.append(entry.name)

    producer = None

    def run_all(self) -> set[str]:
        """Tick until nothing is due. Return the jobs that were sent."""
        self.sent.clear()
        while not self.tick():
            assert len(self.sent) < 20, "it never rests"
        return set(self.sent)


def test_every_job_is_a_task_that_workers_know() -> None:
    app.loader.import_default_modules()
    named = {each["task"] for each in app.conf.beat_schedule.values()}
    assert named | {"notices.send_audit_head"} <= set(app.tasks)


def test_every_job_runs_when_beat_starts() -> None:
    with time_machine.travel(START, tick=False):
        beat = Recording()
        assert beat.run_all() == JOBS
        assert beat.run_all() == set()


def test_each_job_runs_by_its_interval_after_that() -> None:
    with time_machine.travel(START, tick=False) as traveller:
        beat = Recording()
        beat.run_all()
        traveller.shift(1)
        assert beat.run_all() == {"sweep"}
        traveller.shift(60)
        assert beat.run_all() == {"sweep"} | EACH_MINUTE
        traveller.shift(3540)
        assert beat.run_all() == JOBS


def test_a_job_is_due_after_the_pause_that_beat_asked_for() -> None:
    with time_machine.travel(START, tick=False) as traveller:
        beat = Recording()
        beat.run_all()
        for _ in range(3):
            beat.sent.clear()
            traveller.shift(beat.tick())
            beat.tick()
            assert beat.sent == ["sweep"]


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=30)])
def test_a_clock_that_is_put_right_while_beat_runs_stops_no_job(ahead) -> None:
    with time_machine.travel(START, tick=False) as traveller:
        beat = Recording()
        beat.run_all()
        traveller.shift(ahead)
        assert beat.run_all() == JOBS
        traveller.shift(-ahead)
        assert "sweep" in beat.run_all()
        for _ in range(4):
            traveller.shift(1)
            assert "sweep" in beat.run_all()
        traveller.shift(3600)
        assert beat.run_all() == JOBS


def test_a_clock_that_is_put_back_by_some_seconds_delays_no_sweep() -> None:
    with time_machine.travel(START, tick=False) as traveller:
        beat = Recording()
        beat.run_all()
        traveller.shift(-30)
        assert "sweep" in beat.run_all()


def schedule_of_the_future(path: Path) -> None:
    """Write the file as Celery's own scheduler does while the clock is thirty days ahead."""
    ran_at = datetime.now(UTC) + timedelta(days=30)
    with shelve.open(str(path), writeback=True) as store:
        entries = {
            name: ScheduleEntry(name=name, last_run_at=ran_at, total_run_count=9, app=app, **each)
            for name, each in app.conf.beat_schedule.items()
        }
        store.update({"entries": entries, "__version__": "5.7.0", "tz": "UTC", "utc_enabled": True})


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server")
def test_a_real_beat_sends_the_sweep_whatever_its_old_file_holds(tmp_path) -> None:
    schedule_of_the_future(tmp_path / "schedule")
    server = RedisServer.found(tmp_path, "secret")
    assert server
    with (tmp_path / "log").open("wb") as log:
        started = [subprocess.Popen(server.child(tmp_path / "redis.log").command)]
        try:
            until(server.answers, "redis answers")
            environment = {
                "PATH": os.environ["PATH"],
                "DATA_DIR": str(tmp_path),
                "SECRET_KEY": "of-a-test",
                "MASTER_KEYS": "1:" + "A" * 43 + "=",
                "REDIS_URL": server.url,
            }
            run = [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "certctrl",
                "beat",
                "--max-interval",
                "1",
                "--pidfile=",
            ]
            command = [*run, "--schedule", str(tmp_path / "schedule")]
            started.append(
                subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log)
            )
            client = redis.Redis(unix_socket_path=str(server.socket), password="secret")
            # Celery has a list for each priority of a queue.
            until(
                lambda: sum(client.llen(key) for key in client.scan_iter("sweep*")) >= 2,
                "two sweeps are sent",
            )
            client.close()
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(LIMIT)


SWALLOWS = """
import os, signal
from certctrl.beatclock import BeatScheduler
from certctrl.celery import app


class Swallowing(BeatScheduler):
    def tick(self):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            pass
        return 3600.0


app.Beat(scheduler_cls=Swallowing, pidfile="", quiet=True).run()
"""


def test_beat_ends_at_sigterm_whatever_a_library_swallows(tmp_path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "DATA_DIR": str(tmp_path),
        "SECRET_KEY": "of-a-test",
        "MASTER_KEYS": "1:" + "A" * 43 + "=",
    }
    process = subprocess.run(
        [sys.executable, "-c", SWALLOWS], cwd=PROJECT, env=environment, timeout=LIMIT
    )
    assert process.returncode == 0
