"""Write TXT records to their zones and remove them, each in a turn of the record's row.

Only this module writes rows of TxtRecord. The intent is stored before the call that writes. See
`docs/architecture.md`, "The life of a TXT record".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Case, F, Q, QuerySet, Value, When

from certctrl import clock, lanes, retention
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, insert
from certctrl.turns import A_DAY, LostTurn, Trouble, Wait
from dnsproviders import registry
from dnsproviders.base import Provider, ProviderError
from dnsproviders.models import DnsCredential, TxtRecord, TxtRecordQuerySet
from dnsproviders.ratelimit import NotSent

NEEDED_REST = timedelta(minutes=10)  # how often the sweep wakes a record that is needed
# For this long, a provider may not yet show a record that was just written.
ZONE_LAG = timedelta(minutes=5)
KEPT = "ON CONFLICT (credential_id, name, value) DO UPDATE SET value = EXCLUDED.value"
# The relations that a call to the provider needs.
READS = ("credential__secret", "credential__owner", "credential__disablement")
# The columns that store the intent.
INTENT = ("zone", "intent_at", "presented_at", "cleaned_at", "unsure_until")


def note(credential: DnsCredential, name: str, value: str, zone: str = "") -> TxtRecord:
    """Make the row of the record if there is none. Nothing is in the zone yet.

    `zone` is the zone that the provider has just shown for the name, if it was asked.

    Return an object that has the primary key of the row. Its other columns may not be as stored.
    """
    # One statement. A row that exists keeps its columns, and its primary key is returned.
    return insert(TxtRecord(credential=credential, name=name, value=value, zone=zone), KEPT)


def waking(records: TxtRecordQuerySet, at: Parameter) -> tuple[QuerySet[TxtRecord], dict[str, Any]]:
    """Return the UPDATE that makes records due at `at`, if they are not due earlier.

    Records that are not in a zone stay as they are, and those that a worker holds.
    """
    wake_at = Case(When(wake_at__gt=at, then=at), default=F("wake_at"))
    return records.in_the_zone().filter(holder=""), {"wake_at": wake_at, "queued_at": None}


def keep(needed: QuerySet[TxtRecord], now: datetime) -> int:
    """Let records rest that are needed, except those that a worker holds. Return how many."""
    return needed.filter(holder="").update(wake_at=now + NEEDED_REST, queued_at=None)


def unpublish(record_ids: Sequence[int]) -> None:
    """Mark records that no name server shows, so that `publish` writes them again."""
    TxtRecord.objects.filter(pk__among=record_ids, holder="").update(presented_at=None)


def correct(now: datetime, ahead: timedelta) -> None:
    """Correct the times of records that are more than `ahead` in the future."""
    records = TxtRecord.objects.in_the_zone().filter(wake_at__isnull=False)  # which all have set
    for column in ("intent_at", "presented_at"):
        records.filter(**{f"{column}__gt": now + ahead}).update(**{column: now})
    unsure = now + timedelta(seconds=settings.LEASE)
    records.filter(unsure_until__gt=unsure + ahead).update(unsure_until=unsure)


@dataclass(frozen=True)
class Zones:
    """The zones of the records of one attempt, so that a provider is asked for each only once.

    `seen` has the names of the zones that resolvers see, by the name of the TXT record. `shown` has
    what the provider calls them, by the credential and these names.
    """

    seen: Mapping[str, str] = field(default_factory=dict)
    shown: dict[tuple[int, str], str] = field(default_factory=dict)

    def of(self, record: TxtRecord, provider: Provider) -> str:
        """Return the provider's zone of the record. Ask the provider if need be."""
        key = record.credential_id, self.seen.get(record.name, "")
        return self.shown.get(key) or provider.zone_of(record.name)

    def keep(self, record: TxtRecord, zone: str, provider: Provider) -> None:
        """Keep the provider's zone of the record for other records of the same zone.

        The provider may have a zone that resolvers do not see. That is for one record only.
        """
        seen = self.seen.get(record.name)
        if seen and provider.zone_name(zone) == seen:
            self.shown[record.credential_id, seen] = zone


def publish(record_id: int, zones: Zones | None = None) -> TxtRecord:
    """Write the record to its zone, if it is not there yet. Return it.

    `zones` has the zones of the caller's other records.

    Raise Wait while another worker holds the record, or while the provider's API limit is used up,
    or while the provider is disabled. Raise ProviderError when the provider fails or refuses.
    """
    with TxtRecord.objects.select_related(*READS).turn(record_id, due=False) as record:
        if record.is_published:
            record.give_back(clock.now() + NEEDED_REST)
        else:
            _present(record, registry.open_credential(record.credential), zones or Zones())
        return record


def _present(record: TxtRecord, provider: Provider, zones: Zones) -> None:
    first = not record.intent_at or bool(record.cleaned_at)
    # An earlier call may have written the record to the stored zone. The zone must not change until
    # the cleanup has removed the record there.
    is_known = record.zone and not record.cleaned_at
    zone = record.zone if is_known else zones.of(record, provider)
    zones.keep(record, zone, provider)
    unsure_until = clock.now() + timedelta(seconds=settings.LEASE)
    before = {name: getattr(record, name) for name in INTENT}
    # Stored before the call. If this process dies in the call, cleanup still knows of it.
    intent = {
        "zone": zone,
        "intent_at": clock.now(),
        "presented_at": None,
        "cleaned_at": None,
        "unsure_until": unsure_until,
    }
    # `reopen` may have changed the row since the claim. Then it is read again.
    while not record.write_unless_changed(before, intent):
        before = record.mine().values(*INTENT).first() or {}
    unsure_before = before["unsure_until"]
    try:
        provider.present(record)
    except NotSent:
        # Nothing was written. `reopen` may have changed the row in this turn. Its values stay.
        record.mine().filter(unsure_until=unsure_until).update(**before)
        raise
    except ProviderError as error:
        if error.permanent and first and not unsure_before:
            # The provider refused the call, so that nothing was written.
            record.give_back(None, cleaned_at=clock.now(), unsure_until=None)
        else:
            # The provider may still carry out the failed call, until one lease from now.
            reopen(record.pk)
        raise
    presented = record.ending(clock.now() + NEEDED_REST, presented_at=clock.now())
    surely = presented | {"unsure_until": unsure_before}
    try:
        # `reopen` may have changed the row since the intent. Then its `unsure_until` stays.
        if not record.write_unless_changed({"unsure_until": unsure_until}, surely):
            record.write(**presented)
    except LostTurn:
        # Another worker may have cleaned up before this call took effect.
        reopen(record.pk)
        what = _("another process has taken over %(name)s", name=record.name)
        raise Wait(2, what) from None


def reopen(record_id: int) -> None:
    """Mark the record, so that cleanup checks it again.

    A call may still write the record although another worker holds its row.
    """
    now = clock.now()
    TxtRecord.objects.filter(pk=record_id).update(
        cleaned_at=None,
        unsure_until=now + timedelta(seconds=settings.LEASE),
        wake_at=Case(When(holder="", then=Value(now)), default=F("wake_at")),
    )


def withdraw(record_id: int, is_needed: Callable[[TxtRecord], bool], *, due: bool = True) -> None:
    """Remove the record from its zone unless `is_needed(record)`. Close the row once it is gone.

    A record is also removed while its provider is disabled. With `due=False`, it is removed before
    its `wake_at`. Raise Wait while another worker holds the record, or while the provider's API
    limit is used up.
    Raise ProviderError when the provider fails or refuses.
    """
    with TxtRecord.objects.select_related(*READS).turn(record_id, due=due) as record:
        if not record.intent_at or record.cleaned_at:
            record.give_back(None)
        elif is_needed(record):
            record.give_back(clock.now() + NEEDED_REST)
        else:
            _clean(record)


def _clean(record: TxtRecord) -> None:
    try:
        credential = record.credential
        with lanes.enter(registry.lane_of_credential(credential), credential.owner_id):
            removed = registry.provider_with(credential).cleanup(record)
    except Wait:
        # Part of the records may be removed already. The next turn removes the others.
        raise
    except Trouble as error:
        record.write(left_behind=error.what)
        # After the end of the retry table: once a day, without end.
        if record.stumbles >= 8:
            error.retry_after = max(error.retry_after or 0, A_DAY.total_seconds())
        raise
    except Exception:
        record.write(
            left_behind=_(
                "Internal error while removing the record. It is retried; the server log has "
                "the details."
            )
        )
        raise
    again_at = _check_again_at(record, removed)
    gone = {} if again_at else {"cleaned_at": clock.now(), "left_behind": ""}
    columns = record.ending(again_at, unsure_until=again_at, **gone)
    if not record.write_unless_changed({"unsure_until": record.unsure_until}, columns):
        # `reopen` marked the record during this turn.
        record.give_back(again_at or clock.now())


def _check_again_at(record: TxtRecord, removed: int) -> datetime | None:
    """Return when cleanup must check once more. Return None when the record is surely gone.

    Cleanup checks again when a late call may still write the record. It also does when nothing was
    removed soon after the record was written, because the provider may show records late.
    """
    now = clock.now()
    if record.unsure_until and record.unsure_until > now:
        return record.unsure_until
    meant = max(filter(None, (record.intent_at, record.presented_at)))
    if not removed and now - meant < ZONE_LAG:
        return now + timedelta(seconds=settings.LEASE)
    return None


def mark_removed_by_hand(record: TxtRecord) -> None:
    """Close the record, because a person removed it. Raise Wait while a worker holds it."""
    now = clock.now()
    with TxtRecord.objects.turn(record.pk, due=False) as held:
        held.give_back(None, cleaned_at=now, unsure_until=None, left_behind="")


def prune() -> None:
    """Delete the rows of records that are gone, or were never written.

    A row stays while an open attempt refers to it. KEEP_TXT_RECORDS says how long others are kept.
    """
    before = retention.before(settings.KEEP_TXT_RECORDS)
    if before:
        over = TxtRecord.objects.filter(wake_at=None, created_at__lt=before)
        gone = over.filter(Q(cleaned_at__lt=before) | Q(intent_at=None))
        retention.delete(gone.exclude(authorizations__issuance__wake_at__isnull=False))
