"""Records go into their zone and out of it: intent, effect, proof, each under the record's own turn."""

from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Case, F, Q, Value, When

from certctrl import clock
from certctrl.turns import LostTurn, Trouble, Wait
from dnsproviders import registry
from dnsproviders.base import Provider, ProviderError
from dnsproviders.models import TxtRecord

REST = timedelta(minutes=10)  # a record that is needed is looked at this often
ZONE_LAG = timedelta(minutes=5)  # a zone may deny for so long what was just written to it
ONCE_A_DAY = 24 * 3600.0


def publish(record_id: int) -> None:
    """Put the record into its zone, unless it is there.

    Raises Wait while another turn has the record in hand or the provider's API takes no more calls, ProviderError when
    the provider fails or refuses.
    """
    with TxtRecord.objects.select_related("credential__secret").turn(
        record_id, due=False
    ) as record:
        if record.is_published:
            record.release(clock.now() + REST)
        else:
            _present(record, registry.open_credential(record.credential))


def _present(record: TxtRecord, provider: Provider) -> None:
    first = not record.intent_at or bool(record.cleaned_at)
    # Where an earlier call may have written, a later one must clean: the zone stays until the record is gone.
    zone = provider.zone_of(record.name) if first else record.zone
    unsure_before, unsure_until = (
        record.unsure_until,
        clock.now() + timedelta(seconds=settings.LEASE),
    )
    # Written first: if we die in the call below, cleanup still knows of the record.
    record.write(
        zone=zone,
        intent_at=clock.now(),
        presented_at=None,
        cleaned_at=None,
        unsure_until=unsure_until,
    )
    try:
        provider.present(record)
    except ProviderError as error:
        if error.permanent and first and not unsure_before:
            record.release(
                None, cleaned_at=clock.now(), unsure_until=None
            )  # refused: nothing was written
        else:
            reopen(
                record.pk
            )  # it failed for us and may yet be carried out: a lease from now, however late it was sent
        raise
    still_ours = When(unsure_until=unsure_until, then=Value(unsure_before))
    try:
        record.release(
            clock.now() + REST,
            presented_at=clock.now(),
            unsure_until=Case(still_ours, default=F("unsure_until")),
        )
    except LostTurn:
        reopen(record.pk)  # someone may have cleaned up before our call took effect
        raise Wait(2, f"{record.name} went to other hands") from None


def reopen(record_id: int) -> None:
    """A call for this record may have taken effect behind the back of whoever has it: have it looked at again."""
    now = clock.now()
    TxtRecord.objects.filter(pk=record_id).update(
        cleaned_at=None,
        unsure_until=now + timedelta(seconds=settings.LEASE),
        wake_at=Case(When(holder="", then=Value(now)), default=F("wake_at")),
    )


def withdraw(record_id: int, is_needed: Callable[[TxtRecord], bool]) -> None:
    """Take the record out of its zone, unless somebody needs it, and close it once it is surely gone.

    Raises Wait while another turn has the record in hand or the provider's API takes no more calls, ProviderError when
    the provider fails or refuses.
    """
    with TxtRecord.objects.turn(record_id) as record:
        if not record.intent_at or record.cleaned_at:
            record.release(None)
        elif is_needed(record):
            record.release(clock.now() + REST)
        else:
            _clean(record)


def _clean(record: TxtRecord) -> None:
    try:
        removed = registry.open_credential(record.credential).cleanup(record)
    except Wait:  # what it removed until then is gone; the rest goes on
        raise
    except Trouble as error:
        record.write(left_behind=error.what)
        if record.stumbles >= 8:  # past the retry table: once a day, for ever
            error.retry_after = max(error.retry_after or 0, ONCE_A_DAY)
        raise
    except Exception:
        record.write(
            left_behind="An error of this server; its log has the details. It is tried again."
        )
        raise
    again_at = _look_again_at(record, removed)
    if again_at:
        reopened = When(unsure_until__gt=again_at, then=F("unsure_until"))  # meanwhile
        record.release(again_at, unsure_until=Case(reopened, default=Value(again_at)))
    else:
        _close(record)


def _look_again_at(record: TxtRecord, removed: int) -> datetime | None:
    """When cleanup must look once more, if it must: a late call may still write, or the zone may lag behind."""
    now = clock.now()
    if record.unsure_until and record.unsure_until > now:
        return record.unsure_until
    meant = max(filter(None, (record.intent_at, record.presented_at)))
    if not removed and now - meant < ZONE_LAG:
        return now + timedelta(seconds=settings.LEASE)
    return None


def _close(record: TxtRecord) -> None:
    as_read = Q(unsure_until=record.unsure_until) if record.unsure_until else Q(unsure_until=None)
    closed = (
        record.mine()
        .filter(as_read)
        .update(
            cleaned_at=clock.now(),
            unsure_until=None,
            left_behind="",
            holder="",
            wake_at=None,
            queued_at=None,
            stumbles=0,
            deaths=0,
        )
    )
    if not closed:
        record.release(clock.now())  # reopened meanwhile


def mark_removed_by_hand(record: TxtRecord) -> None:
    """A person says that the record is gone. Raises Wait while a worker has it in hand."""
    now = clock.now()
    with TxtRecord.objects.turn(record.pk, due=False) as held:
        held.release(None, cleaned_at=now, unsure_until=None, left_behind="")
