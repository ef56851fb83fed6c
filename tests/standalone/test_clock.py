"""The clock of the embedded server: beat in a thread of the sweeping worker."""

import pytest
from kombu.utils.imports import symbol_by_name

from certctrl.beatclock import BeatScheduler
from standalone import clock


def test_beat_keeps_no_file_that_a_wrong_clock_could_spoil() -> None:
    assert symbol_by_name(clock.Beat().service.scheduler_cls) is BeatScheduler


def test_the_process_is_stopped_when_beat_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    monkeypatch.setattr(clock.os, "kill", lambda pid, number: stopped.append(number))
    beat = clock.Beat()
    monkeypatch.setattr(beat.service, "start", lambda: None)
    beat.run()
    assert stopped == [clock.signal.SIGTERM]
