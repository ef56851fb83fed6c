"""The third step: ask every authoritative server for the records."""

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta

from certctrl import clock
from certctrl.turns import Wait
from dnsproviders import propagation
from dnsproviders.models import TxtRecord
from issuance.challenges import resolvercache
from issuance.models import Issuance
from issuance.workflow.outcome import Done

State = Issuance.State
# Seconds after which a record that no server shows is published again, plus or minus a third.
REPUBLISH_AFTER = (90, 600, 900)
# Seconds until the next look, at most. Another resolver behind the same address may show the
# record sooner.
LONGEST_DENIED = 300
AFTER_SETTLING = timedelta(minutes=5)  # extra time for the last look


def propagate(issuance: Issuance) -> Done:
    """Ask every authoritative server once whether it shows the records.

    Raise Wait while they do not show.
    """
    wanted = list(issuance.pending_records().select_related("credential"))
    return judge(issuance, wanted, propagation.look(wanted))


def judge(
    issuance: Issuance, wanted: Sequence[TxtRecord], looks: Mapping[int, propagation.Look]
) -> Done:
    """Decide what one look means for an attempt.

    Return Done to go on, or to publish records again. Raise Wait for another look later. `wanted`
    are the records of the attempt; `looks` has a look for each, by its primary key.
    """
    now = clock.now()
    verdicts = [
        (
            record,
            propagation.verdict(
                record, looks[record.pk], now - (record.intent_at or now), issuance.deaf
            ),
        )
        for record in wanted
    ]
    hidden = [(record, verdict) for record, verdict in verdicts if not verdict.visible]
    if not hidden:
        _settle(issuance, wanted, looks)
        return Done(
            "; ".join(dict.fromkeys(verdict.what for _, verdict in verdicts))
            or "no record is needed"
        )
    nowhere = [
        record for record, verdict in hidden if verdict.nowhere and _publish_again(issuance, record)
    ]
    if nowhere:
        what, again = (
            f"no name server shows {nowhere[0].name}: it is published again",
            [each.pk for each in nowhere],
        )
        return Done(what, write=lambda: _unpublish(issuance, again), to=State.ORDERED, again=again)
    what = hidden[0][1].what + (f" (and {len(hidden) - 1} more)" if len(hidden) > 1 else "")
    denied = max(verdict.denied for _, verdict in hidden)
    # Resolvers deny the record for `denied` seconds. `imposed` moves the deadline by the wait, so
    # that the record loses none of its time.
    if denied > issuance.patience():
        raise Wait(min(denied + 1, LONGEST_DENIED), what, imposed=True)
    raise Wait(issuance.patience(), what)


def _settle(
    issuance: Issuance, wanted: Sequence[TxtRecord], looks: Mapping[int, propagation.Look]
) -> None:
    """Raise Wait until the records have settled, once every server shows them.

    They settle after the credential's `settle` seconds. They settle later when the CA's resolver
    may keep an older answer for longer.
    """
    pause = issuance.credential.settle if issuance.credential else 0
    now, what = clock.now(), issuance.waits_for
    if not issuance.settles_at:
        until = now + timedelta(seconds=pause)
        what = f"Every server shows the records; {pause} s more, as the DNS credential asks."
        old = resolvercache.kept(issuance, wanted, looks)
        if old and old.until > until:
            until, what = old.until, old.what
        if until > now:
            issuance.write(
                settles_at=until, deadline_at=max(issuance.deadline_at, until + AFTER_SETTLING)
            )
    if issuance.settles_at and issuance.settles_at > now:
        raise Wait((issuance.settles_at - now).total_seconds(), what)


def _publish_again(issuance: Issuance, record: TxtRecord) -> bool:
    if not record.intent_at or issuance.presents >= len(REPUBLISH_AFTER):
        return record.intent_at is None or record.cleaned_at is not None
    # Spread, so that a thousand attempts that began together are not published together.
    spread = random.Random(f"{issuance.pk} {issuance.presents}").uniform(2 / 3, 4 / 3)  # noqa: S311
    return clock.now() - record.intent_at >= timedelta(
        seconds=REPUBLISH_AFTER[issuance.presents] * spread
    )


def _unpublish(issuance: Issuance, record_ids: Sequence[int]) -> None:
    issuance.write(presents=issuance.presents + 1, settles_at=None)
    TxtRecord.objects.filter(pk__in=record_ids, holder="").update(presented_at=None)
