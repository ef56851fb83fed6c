"""The renewal time of a certificate, and the next read of its window, as pure functions."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuance.renewal.schedule import AN_HOUR, poll_pause, renew_at

START = datetime(2030, 1, 1, tzinfo=UTC)
LIVES = st.timedeltas(min_value=timedelta(hours=6), max_value=timedelta(days=400))
FAR = timedelta(days=4000)
MOMENTS = st.none() | st.timedeltas(min_value=-FAR, max_value=FAR).map(lambda since: START + since)


def days(number: float) -> timedelta:
    return timedelta(days=number)


def at(
    life: timedelta,
    days_before: int | None = None,
    moment: datetime | None = None,
    jitter: float = 0.0,
) -> datetime:
    return renew_at(START, START + life, days_before, jitter, moment)


@pytest.mark.parametrize(
    ("life", "left"), [(90, 30), (45, 15), (12, 4), (6, 3), (160 / 24, 80 / 24)]
)
def test_without_a_window_a_third_of_the_life_is_left_or_half_if_short(life, left):
    assert at(days(life)) == START + days(life) - days(left)


def test_the_cas_moment_goes_before_our_own_reckoning():
    assert at(days(90), moment=START + days(70)) == START + days(70)
    assert at(days(90), moment=START + days(50)) == START + days(50)


def test_the_cas_moment_has_no_jitter():
    assert at(days(90), moment=START + days(70), jitter=1.0) == START + days(70)


def test_days_before_make_it_earlier_than_the_cas_moment():
    assert at(days(90), 40, START + days(62)) == START + days(50)


def test_days_before_do_not_make_it_later_than_the_cas_moment():
    assert at(days(90), 20, START + days(62)) == START + days(62)


@pytest.mark.parametrize("moment", [None, START + days(62)])
def test_days_before_never_renew_before_half_of_the_life(moment):
    assert at(days(90), 80, moment) == START + days(45)


@pytest.mark.parametrize("since", [10, -5, -4000])
def test_a_window_before_half_of_the_life_or_in_the_past_is_taken_as_it_is(since):
    assert at(days(90), moment=START + days(since)) == START + days(since)
    assert at(days(90), 20, moment=START + days(since)) == START + days(since)


@pytest.mark.parametrize("since", [80, 90, 4000])
def test_a_late_window_is_overridden_while_a_sixth_of_the_life_is_left(since):
    assert at(days(90), moment=START + days(since)) == START + days(75)


def test_days_before_leave_a_sixth_of_the_life_too():
    assert at(days(90), 1) == START + days(75)


def test_without_a_window_the_renewal_is_spread_over_one_hour():
    assert at(days(90)) - at(days(90), jitter=1.0) == AN_HOUR
    assert at(days(90), 40) - at(days(90), 40, jitter=1.0) == AN_HOUR


@given(LIVES, st.none() | st.integers(1, 3650), MOMENTS, st.floats(0, 1))
def test_a_sixth_of_the_life_is_left_and_only_the_ca_renews_before_half(
    life, days_before, moment, jitter
):
    found = at(life, days_before, moment, jitter)
    assert found <= START + life - life / 6
    assert found >= min(START + life / 2, moment or START + life / 2)


# --- polls ---


def hours(pause: timedelta) -> float:
    return pause / AN_HOUR


def test_without_a_retry_after_the_window_is_asked_for_after_six_hours():
    assert hours(poll_pause(None, 0.0)) == 6


@pytest.mark.parametrize(
    ("asked_for", "seconds"), [(0, 60), (5, 60), (60, 60), (3600, 3600), (21600, 21600)]
)
def test_retry_after_is_kept_though_never_below_a_minute(asked_for, seconds):
    assert poll_pause(asked_for, 0.0).total_seconds() == seconds


@pytest.mark.parametrize("asked_for", [12 * 3600, 86400, 7 * 86400])
def test_a_long_retry_after_still_polls_twice_a_day(asked_for):
    assert hours(poll_pause(asked_for, 1.0)) == pytest.approx(12)
    assert hours(poll_pause(asked_for, 0.0)) > 10


def test_a_crowd_does_not_stay_in_step():
    pauses = {poll_pause(21600, jitter / 10) for jitter in range(11)}
    assert len(pauses) == 11
    assert max(pauses) - min(pauses) == timedelta(minutes=36)


@given(st.none() | st.floats(0, 7 * 86400), st.floats(0, 1))
def test_every_pause_is_between_a_minute_and_twelve_hours(asked_for, jitter):
    assert timedelta(minutes=1) <= poll_pause(asked_for, jitter) <= timedelta(hours=12)
