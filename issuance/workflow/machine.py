"""The state machine: the order of the steps, and what the end of a step writes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.db import transaction

from authorities import catalog, exchanges
from authorities.base import NotYet
from authorities.errors import Refused, Unexplained
from authorities.models import AcmeAccount
from certctrl import clock, lanes, log
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from certctrl.turns import MAX_DEATHS, SKEW, LostTurn, Trouble, Wait, retry_pause, stopping
from dnsproviders.models import DisabledProvider
from dnsproviders.registry import Disabled
from issuance import notify, ratelimits
from issuance.challenges import base, registry
from issuance.models import TOO_LONG, Issuance
from issuance.renewal import retry
from issuance.workflow import oldorders
from issuance.workflow.outcome import Done, Outcome, event
from issuance.workflow.steps import download, finalize, order, present, propagate, validate

State = Issuance.State
logger = structlog.get_logger()
# Pauses in seconds after the nth NotYet in a row. After all of them, nine minutes, it is an error.
NOT_YET = (2, 4, 8, 15, 30, 60, 120, 300)
# An attempt leaves its thread to others after a step that took this many seconds.
LONG = 3.0
# Until an account is this old, some nodes of its CA may not know it yet.
LATELY = timedelta(minutes=10)
UNWRITABLE = Trouble(
    "internal",
    _("The attempt was given up after repeated internal errors. The server log has the details."),
)


@dataclass(frozen=True)
class Step:
    """One of the six steps. It takes an attempt from `state` to `to`.

    `limit` is the time after which it gives up. `reads` names the relations that are read with
    the row, in one query. When `ends_later`, its end may be written together with that of the next
    step, because taking the step again after the death of a worker changes nothing.
    """

    name: str
    state: str
    to: str
    act: Callable[[Issuance], Done]
    limit: timedelta
    reads: tuple[str, ...] = ("certificate__owner", "account", "credential", "key")
    asks_ca: bool = True
    ends_later: bool = True


STEPS = (
    Step(
        "order",
        State.QUEUED,
        State.ORDERED,
        order.order,
        order.LIMIT,
        (
            "certificate__owner",
            "certificate__current__account",
            "certificate__current__renewal_info",
            "account",
            "credential__secret",
            "credential__owner",
            "credential__disablement",
            "reservation",
        ),
        ends_later=False,  # the next step reads the records that are noted at the end
    ),
    Step(
        "present",
        State.ORDERED,
        State.PRESENTED,
        present.present,
        timedelta(hours=1),
        ("account", "credential__disablement"),
        asks_ca=False,
    ),
    Step(
        "propagate",
        State.PRESENTED,
        State.PROPAGATED,
        propagate.propagate,
        timedelta(minutes=30),
        asks_ca=False,
    ),
    Step("validate", State.PROPAGATED, State.VALIDATED, validate.validate, timedelta(minutes=30)),
    Step("finalize", State.VALIDATED, State.FINALIZED, finalize.finalize, timedelta(minutes=30)),
    Step("download", State.FINALIZED, State.ISSUED, download.download, timedelta(minutes=30)),
)
STEP_AT = {step.state: step for step in STEPS}


def deadline(issuance: Issuance, state: str) -> datetime:
    """Return when an attempt that enters `state` now gives up."""
    now = clock.now()
    if state == State.PRESENTED and issuance.credential:
        return now + timedelta(seconds=issuance.credential.propagation_timeout)
    if state == State.FINALIZED:  # the deadline that finalize set stays, if it is later
        return max(issuance.deadline_at, now + STEP_AT[state].limit)
    return now + STEP_AT[state].limit


def take(step: Step, issuance_id: int) -> bool:
    """Take the step if it is due. Return True when it is done, and the usual one may follow."""
    issuance = _claim(step, issuance_id)
    return issuance is not None and run(step, issuance)


def walk(
    step: Step, issuance_id: int, at_end: Callable[[Issuance], None] | None = None
) -> Step | None:
    """Take this step if it is due, and then those after it, until one must wait.

    The turns follow each other without another claim. Short steps whose end is written later share
    a turn. After a step that took long, others get this thread first. Then return the step for
    which a message is due. So it is when this worker stops. Otherwise `at_end` gets the attempt,
    and removes what it presented.
    """
    issuance = _claim(step, issuance_id)
    end = partial(_settle_and_go_on, removes=at_end is not None)
    while issuance and run(step, issuance, end=end) and issuance.is_open:
        step = STEP_AT[issuance.state]
        if not issuance.holder:
            return step
        if not issuance.carries:
            issuance.begin()
    if issuance and at_end:
        at_end(issuance)
    return None


def _claim(step: Step, issuance_id: int) -> Issuance | None:
    return Issuance.objects.select_related(*step.reads).claim(issuance_id, state=step.state)


def run(
    step: Step,
    issuance: Issuance,
    act: Callable[[Issuance], Done] | None = None,
    end: Callable[["Step", Issuance, Done, float], bool] | None = None,
) -> bool:
    """Run one turn of a claimed attempt, and write its end. Return True if the next may follow.

    A batch passes its own functions. `act` takes the step, and `end` writes its end.
    """
    began = clock.monotonic()
    try:
        with (
            log.bind(issuance=issuance.pk, step=step.name),
            _calls_of(step, issuance),
            clock.limit(issuance.turn_left()),
        ):
            if issuance.deaths >= MAX_DEATHS:
                raise Refused(
                    "internal",
                    _("The attempt was given up, because five workers in a row died on it."),
                )
            done = (act or step.act)(issuance)
        return (end or settle)(step, issuance, done, clock.monotonic() - began)
    except Wait as wait:
        _unless_lost(put_back, step, issuance, wait)
        if isinstance(wait, Disabled):
            _unless_lost(_wake_if_enabled, step, issuance, wait)
    except LostTurn:
        after_losing(issuance)
    except Trouble as trouble:
        _unless_lost(stumble, step, issuance, trouble)
    except Exception:
        logger.exception("step.failed", issuance=issuance.pk, step=step.name)
        what = _(
            "Internal error in the step %(name)s. It is retried; the server log has the details.",
            name=step.name,
        )
        _unless_lost(stumble, step, issuance, Trouble("internal", what))
    return False


@contextmanager
def _calls_of(step: Step, issuance: Issuance) -> Iterator[None]:
    """Hold the CA's lane, and store the exchanges with the CA under this step.

    For a step that asks no CA, do nothing. Such a step may not have read the account, and reading
    it here would cost a batch one query for each row.
    """
    if not step.asks_ca:
        yield
        return
    account = issuance.account
    with (
        lanes.enter(catalog.lane_of_account(account), account.owner_id),
        exchanges.about(account, step.name, issuance.pk),
    ):
        yield


End = Callable[[Step, Issuance, Any], None]


def _unless_lost(end: End, step: Step, issuance: Issuance, why: Exception) -> None:
    try:
        end(step, issuance, why)
    except LostTurn:
        after_losing(issuance)
    except Exception:  # the database failed, and nothing was written
        logger.exception("step.failed", issuance=issuance.pk, step=step.name)
        if issuance.carries:  # perhaps that is what cannot be written
            return _unless_lost(_without_carried(end), step, issuance, why)
        if clock.now() >= issuance.deadline_at and why is not UNWRITABLE:
            return _unless_lost(fail, step, issuance, UNWRITABLE)
        issuance.stumble(Trouble("internal", "Internal error."))  # the text is not stored


def _without_carried(end: End) -> End:
    """Return the end of a turn that leaves out the ends of the steps before it."""

    def act(step: Step, issuance: Issuance, why: Any) -> None:
        issuance.forget_carried()
        end(step, issuance, why)

    return act


def after_losing(issuance: Issuance) -> None:
    """Log the lost turn. Release the challenges of an attempt that has ended.

    This turn may have presented something that no attempt needs.
    """
    logger.info("turn.lost", issuance=issuance.pk)
    if not Issuance.objects.open().filter(pk=issuance.pk).exists():
        registry.release(issuance)


def settle(
    step: Step,
    issuance: Issuance,
    done: Done,
    took: float,
    *,
    keeps: bool = False,
    removes: bool = False,
) -> bool:
    """Write the end of a step that is done. Return True when the next step may follow.

    State, event and `done.write` are one transaction, and its first statement ends the turn.
    `took` is in seconds. With `keeps` the next turn of the attempt begins there, if a step follows.
    Or this turn goes on, and its next write writes the end of the step too. `removes` says that
    this worker then removes what the attempt presented. When the turn was lost, write nothing and
    return False.
    """
    to = done.to or step.to
    ends = to == State.ISSUED
    columns = _last_columns(to) if ends else _next_columns(issuance, to, goes_on=not done.to)
    columns |= done.fields
    at = clock.now()
    goes_on = keeps and not ends and not done.to

    def act() -> None:
        if done.write:
            done.write()
        event(issuance, step.name, Outcome.DONE, done.what, took, at)
        if ends:
            ratelimits.end_reservation(issuance)
        if to == State.VALIDATED:  # from here on, the attempt needs no challenge
            is_left = goes_on and removes
            registry.release(issuance, clock.now() + base.LEFT_TO_WORKER if is_left else None)

    try:
        if goes_on and step.ends_later:
            del columns["holder"], columns["wake_at"]
            issuance.carry(act, **columns)
        else:
            with issuance.fence(**columns | (issuance.beginning() if goes_on else {})):
                act()
    except LostTurn:
        after_losing(issuance)
        return False
    logger.info(
        "step.done", issuance=issuance.pk, step=step.name, to=to, took_ms=round(took * 1000)
    )
    return not done.to


def _settle_and_go_on(
    step: Step, issuance: Issuance, done: Done, took: float, *, removes: bool
) -> bool:
    keeps = took < LONG and not stopping.is_set()
    return settle(step, issuance, done, took, keeps=keeps, removes=removes)


def _next_columns(issuance: Issuance, to: str, *, goes_on: bool) -> dict[str, Any]:
    """Return the columns that end a turn and move the attempt to the state `to`."""
    now = clock.now()
    # An attempt that publishes again still waits for the same records, until the same time.
    publishes_again = not goes_on and to in (State.ORDERED, State.PRESENTED)
    return issuance.ending(
        now - SKEW if goes_on else now,
        state=to,
        state_since=now,
        deadline_at=issuance.deadline_at if publishes_again else deadline(issuance, to),
        queued_at=now if goes_on else None,
        waits_for=issuance.waits_for if publishes_again else "",
    )


def put_back(step: Step, issuance: Issuance, wait: Wait) -> None:
    """Write the end of a turn that must wait, or end the attempt.

    The attempt ends when the wait is over six hours, or when its deadline has passed. Raise
    LostTurn.
    """
    now = clock.now()
    until = now + timedelta(seconds=wait.seconds)
    if wait.seconds > TOO_LONG.total_seconds():
        return fail(step, issuance, Trouble("wait_too_long", wait.what), asked_for=until)
    beyond = wait.seconds - wait.own if wait.imposed else 0
    gives_up_at = moved_deadline(step, issuance, beyond)
    if now >= gives_up_at:
        return fail(
            step, issuance, Trouble(f"{step.name}_timed_out", _gave_up(step, issuance, wait.what))
        )
    what = wait.what or issuance.waits_for
    if what == issuance.waits_for:
        return issuance.give_back(until, deadline_at=gives_up_at, **wait.fields)
    fields = {"waits_for": what, "deadline_at": gives_up_at} | wait.fields
    with issuance.fence(**issuance.ending(until, **fields)):
        event(issuance, step.name, Outcome.WAIT, what)
    return None


def _wake_if_enabled(step: Step, issuance: Issuance, wait: Exception) -> None:
    """Wake the attempt if its DNS provider was enabled during the turn that has just ended.

    To enable it wakes only attempts that no worker holds.
    """
    if not issuance.credential:
        return
    with transaction.atomic():
        row = DisabledProvider.objects.filter(provider=issuance.credential.provider)
        # The lock waits for someone who is enabling it, and has not seen the end of the turn.
        if row.select_for_update().first():
            return
        now = clock.now()
        rests = Issuance.objects.filter(pk=issuance.pk, holder="", wake_at__gt=now)
        rests.update(wake_at=now, queued_at=None)


def moved_deadline(step: Step, issuance: Issuance, seconds: float) -> datetime:
    """Return the deadline, moved by `seconds` that the other side asked for beyond our own pause.

    It moves to six hours past the limit of the step at most. Otherwise the other side could ask for
    ever.
    """
    latest = max(issuance.deadline_at, issuance.state_since + step.limit + TOO_LONG)
    return min(issuance.deadline_at + timedelta(seconds=seconds), latest)


def _gave_up(step: Step, issuance: Issuance, what: str) -> str:
    minutes = round(issuance.age().total_seconds() / 60)
    gave_up = _(
        "%(step)s of %(domain)s was given up after %(minutes)s minutes.",
        step=step.name,
        domain=issuance.certificate.domain,
        minutes=minutes,
    )
    return joined(" ", [gave_up, what]) if what else gave_up


def stumble(step: Step, issuance: Issuance, trouble: Trouble) -> None:
    """Write the end of a turn that failed. Retry by the table, or end the attempt.

    Raise LostTurn.
    """
    _forget_unknown_account(issuance, trouble)
    now, stumbles = clock.now(), issuance.stumbles + 1
    pause, own = retry_pause(stumbles, trouble.retry_after), retry_pause(stumbles)
    if _may_be_there_later(issuance, trouble):
        stumbles = (
            stumbles if isinstance(trouble, Unexplained) or _is_again(issuance, trouble) else 1
        )
        pause = NOT_YET[min(stumbles, len(NOT_YET)) - 1]
        if stumbles > len(NOT_YET) and not issuance.csr_sent_at:
            return fail(step, issuance, trouble)
    elif trouble.permanent or isinstance(trouble, Refused):
        return fail(step, issuance, trouble)
    if pause > TOO_LONG.total_seconds():
        return fail(step, issuance, trouble, asked_for=now + timedelta(seconds=pause))
    if pause > own:
        pause = issuance.spread(pause)
    gives_up_at = moved_deadline(step, issuance, max(0.0, pause - own))
    if now >= gives_up_at:
        return fail(step, issuance, trouble)
    columns = issuance.ending(
        now + timedelta(seconds=pause),
        stumbles=stumbles,
        waits_for=trouble.what,
        deadline_at=gives_up_at,
    )
    with issuance.fence(**columns):
        event(issuance, step.name, Outcome.RETRY, trouble.what)
    return None


def _may_be_there_later(issuance: Issuance, trouble: Trouble) -> bool:
    """Return whether the same request may succeed soon.

    Nodes of a CA may lag (NotYet). Once the CSR is sent, an Unexplained answer is retried too. It
    may not come from the CA, and the order is too valuable to lose.
    """
    return isinstance(trouble, NotYet) or (
        isinstance(trouble, Unexplained) and issuance.csr_sent_at is not None
    )


def _is_again(issuance: Issuance, trouble: Trouble) -> bool:
    """Return whether the previous turn also ended because the CA did not show the same thing."""
    return isinstance(trouble, NotYet) and issuance.waits_for.startswith(trouble.about)


def _forget_unknown_account(issuance: Issuance, trouble: Trouble) -> None:
    """Register the account again when its CA does not know it; note when it is deactivated.

    A young account is left alone. So is one that another attempt is already registering again.
    """
    if trouble.code == "ca_account_unknown":
        if clock.now() - issuance.account.created_at < LATELY:
            return
        used = AcmeAccount.objects.filter(pk=issuance.account_id, url=issuance.account.url).exclude(
            url=""
        )
        used.update(url="", status=AcmeAccount.Status.PENDING, wake_at=clock.now(), queued_at=None)
    elif trouble.code == "ca_account_deactivated":
        AcmeAccount.objects.filter(pk=issuance.account_id).update(
            status=AcmeAccount.Status.DEACTIVATED
        )


def fail(
    step: Step, issuance: Issuance, trouble: Trouble, asked_for: datetime | None = None
) -> None:
    """End the attempt as failed. The certificate is tried again by its own, slower table.

    `asked_for` is the time at which the other side asked to be tried again. Raise LostTurn.
    """
    if asked_for is None and trouble.retry_after:
        asked_for = clock.now() + timedelta(seconds=trouble.retry_after)
    # After a failure of the DNS the order is still good, and the next attempt can use it.
    # After five deaths nothing is sent, because the call may be what kills the workers.
    if step.state not in (State.ORDERED, State.PRESENTED) and issuance.deaths < MAX_DEATHS:
        oldorders.give_up(issuance)
    with issuance.fence():
        event(issuance, step.name, Outcome.FAILED, trouble.what)
        failure, counts = retry.count_failure(issuance, trouble, asked_for)
        columns = _last_columns(State.FAILED, error_code=trouble.code, error_what=trouble.what)
        issuance.write(**columns, failure=failure)
        ratelimits.end_reservation(issuance)
        registry.release(issuance)
        notify.failed(issuance, trouble, counts=counts)
    logger.warning(
        "issuance.failed", issuance=issuance.pk, step=step.name, code=trouble.code, failure=failure
    )


def _last_columns(state: str, **fields: Any) -> dict[str, Any]:
    """Return the columns that end the attempt in `state`. Nothing wakes it again."""
    now = clock.now()
    last = {"state": state, "state_since": now, "ended_at": now, "waits_for": "", "slot_at": None}
    return Issuance.ending(None, **last, **fields)
