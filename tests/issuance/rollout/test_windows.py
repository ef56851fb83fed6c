"""An install window says when devices may get a new version."""

from datetime import UTC, datetime, timedelta

import pytest

from issuance.rollout import windows

NIGHT = {"start": "22:00", "end": "05:00", "timezone": "Europe/Berlin"}
LUNCH = {"start": "12:00", "end": "13:00", "timezone": "UTC"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "now", "opens"),
    [
        (None, "2030-01-01T11:00", "2030-01-01T11:00"),
        (LUNCH, "2030-01-01T11:00", "2030-01-01T12:00"),
        (LUNCH, "2030-01-01T12:30", "2030-01-01T12:30"),
        (LUNCH, "2030-01-01T13:00", "2030-01-02T12:00"),
        # In winter, Berlin is an hour ahead, in summer two.
        (NIGHT, "2030-01-01T12:00", "2030-01-01T21:00"),
        (NIGHT, "2030-07-01T12:00", "2030-07-01T20:00"),
        (NIGHT, "2030-01-02T03:59", "2030-01-02T03:59"),
        (NIGHT, "2030-01-02T04:00", "2030-01-02T21:00"),
        # 2030-01-05 is a Saturday. A night belongs to the day on which it begins.
        (NIGHT | {"days": ["sat"]}, "2030-01-04T22:00", "2030-01-05T21:00"),
        (NIGHT | {"days": ["sat"]}, "2030-01-06T03:00", "2030-01-06T03:00"),
        (NIGHT | {"days": ["sat"]}, "2030-01-06T04:00", "2030-01-12T21:00"),
        (LUNCH | {"days": ["tue"]}, "2030-01-01T13:00", "2030-01-08T12:00"),
    ],
)
def test_the_window_opens_at_the_next_such_hour(window, now, opens):
    assert windows.opens_at(window, at(now)) == at(opens)


def test_a_window_in_the_hour_that_a_day_lacks_still_opens():
    # On 2030-03-31 the clocks of Berlin go from 02:00 to 03:00.
    window = {"start": "02:15", "end": "02:45", "timezone": "Europe/Berlin"}
    now = at("2030-03-30T12:00")
    opens = windows.opens_at(window, now)
    assert now < opens < now + timedelta(days=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": "24:00"},
        {"start": "7:00"},
        {"start": None},
        {"start": 7},
        {"end": "22:00:00"},
        {"end": "22:00"},
        {"timezone": "Berlin"},
        {"timezone": "/etc/passwd"},
        {"timezone": "../../etc/passwd"},
        {"timezone": ""},
        {"timezone": None},
        {"timezone": "Europe"},
        {"timezone": "x" * 5000},
        {"days": []},
        {"days": "mon"},
        {"days": ["monday"]},
        {"days": [["mon"]]},
        {"until": "05:00"},
    ],
    ids=str,
)
def test_a_wrong_window_is_described(wrong):
    assert windows.complaint(NIGHT | wrong).endswith(".")


@pytest.mark.parametrize("window", [NIGHT, LUNCH, LUNCH | {"days": ["mon", "sun"]}])
def test_a_right_window_has_no_complaint(window):
    assert windows.complaint(window) == ""
