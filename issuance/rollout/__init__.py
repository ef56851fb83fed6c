"""Which version of a certificate each device should have, and what became of it."""

from issuance.rollout.advancing import RECHECK, advance, begin, reach, wake
from issuance.rollout.reports import STATES, Report, note_fetched, note_reports
from issuance.rollout.windows import complaint

__all__ = [
    "RECHECK",
    "STATES",
    "Report",
    "advance",
    "begin",
    "complaint",
    "note_fetched",
    "note_reports",
    "reach",
    "wake",
]
