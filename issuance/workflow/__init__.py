"""The six steps of an attempt, their order, and what the end of each step writes."""

from issuance.workflow.batch import BATCH, LEASE, TURN, look
from issuance.workflow.machine import STEP_AT, STEPS, UNWRITABLE, Step, fail, run, take, walk
from issuance.workflow.outcome import Done, Outcome, event
from issuance.workflow.revocation import revoke
from issuance.workflow.steps.order import LIMIT
from issuance.workflow.steps.propagate import judge
from issuance.workflow.steps.reorder import order_again

__all__ = [
    "BATCH",
    "LEASE",
    "LIMIT",
    "STEPS",
    "STEP_AT",
    "TURN",
    "UNWRITABLE",
    "Done",
    "Outcome",
    "Step",
    "event",
    "fail",
    "judge",
    "look",
    "order_again",
    "revoke",
    "run",
    "take",
    "walk",
]
