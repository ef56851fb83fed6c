"""Find out which TXT records are needed."""

from datetime import datetime
from functools import cache
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from authorities import exchanges
from certctrl import clock, watching
from certctrl.statements import Parameter, select, update
from dnsproviders import records
from dnsproviders.models import TxtRecord
from issuance.challenges.base import LEFT_TO_WORKER
from issuance.models import Authorization, Issuance

# Records that the worker of an attempt removes, without a message. Others remove the rest.
MOST_AT_ONCE = 4
# Records that are kept at once. A statement about all of a hundred thousand would stop the sweep.
MOST_KEPT = 2000


def wake(issuance: Issuance, at: datetime) -> None:
    """Make the records of all attempts with the names and account of `issuance` due at `at`.

    The records may belong to any credential. Those that are due earlier stay so.
    """
    _wake(names_key=issuance.names_key, at=at)


@update
def _wake(names_key: Parameter, at: Parameter) -> tuple[QuerySet[TxtRecord], dict[str, Any]]:
    authorized = Authorization.objects.filter(issuance__names_key=names_key)
    return records.waking(TxtRecord.objects.filter(pk__in=authorized.values("record")), at)


def needed_records(records: QuerySet[TxtRecord]) -> QuerySet[TxtRecord]:
    """Return the records that an open attempt before `validated` needs.

    Records are matched by name and value, with any credential. An attempt that waits for an older
    one with the same names also needs them. The CA will give it the same authorizations.
    """
    # Go from record to authorization to attempt. The reverse would compare each due record with
    # each open attempt.
    wanting = Issuance.objects.open().filter(
        state__in=Issuance.BEFORE_VALIDATED, names_key=OuterRef("issuance__names_key")
    )
    asked = Authorization.objects.filter(
        Exists(wanting), record__name=OuterRef("name"), record__value=OuterRef("value")
    )
    return records.filter(Exists(asked))


def is_needed(record: TxtRecord) -> bool:
    return bool(_needed(pk=record.pk))


@select
def _needed(pk: Parameter) -> QuerySet[TxtRecord, Any]:
    return needed_records(TxtRecord.objects.filter(pk=pk)).values_list("pk")


def keep_needed(due: QuerySet[TxtRecord], now: datetime) -> int:
    """Move `wake_at` of those due records that an attempt needs, in one UPDATE.

    Only the MOST_KEPT that are due longest are looked at. Return how many were moved.
    """
    oldest = list(due.order_by("wake_at").values_list("pk", flat=True)[:MOST_KEPT])
    return records.keep(needed_records(TxtRecord.objects.filter(pk__among=oldest)), now)


def left_by(issuance: Issuance) -> list[int]:
    """Return the ids of the records that the attempt leaves to its worker, at most MOST_AT_ONCE.

    Those that are read are due, or will be within LEFT_TO_WORKER. A walk that knows its
    authorizations returns all of theirs, and `withdraw` decides.
    """
    if issuance.listed is not None:
        is_over = issuance.state not in Issuance.BEFORE_VALIDATED
        ids = {each.record_id for each in issuance.listed if each.record_id}
        return sorted(ids)[:MOST_AT_ONCE] if is_over else []
    return [pk for (pk,) in _left(issuance=issuance.pk, at=clock.now() + LEFT_TO_WORKER)]


@select
def _left(issuance: Parameter, at: Parameter) -> QuerySet[TxtRecord, Any]:
    due = TxtRecord.objects.in_the_zone().due(at).filter(holder="")
    return due.filter(authorizations__issuance=issuance).values_list("pk")[:MOST_AT_ONCE]


def withdraw(record_id: int, *, by: Issuance | None = None) -> None:
    """Remove a record from its zone unless an attempt needs it. Raise Wait and Trouble.

    `by` is the attempt whose worker removes it, also before its `wake_at`.
    """
    newest = cache(lambda: by or _newest(record_id))
    with watching.by(lambda call: _note(call, newest())):
        records.withdraw(record_id, is_needed, due=by is None)


def _newest(record_id: int) -> Issuance | None:
    return next(iter(_newest_of(record=record_id)), None)


@select
def _newest_of(record: Parameter) -> QuerySet[Issuance]:
    of_record = Issuance.objects.filter(authorizations__record=record)
    return of_record.select_related("account").order_by("-pk")[:1]


def _note(call: watching.ApiCall, attempt: Issuance | None) -> None:
    """Store a call of a cleanup with the newest attempt of the record, while debugging is on."""
    if attempt:
        exchanges.record_call(call, attempt.account, "cleanup", attempt.pk)
