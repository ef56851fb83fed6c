"""Prove names by TXT records: the dns-01 challenge (RFC 8555, section 8.4)."""

import base64
import hashlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import QuerySet, prefetch_related_objects

from authorities import errors, exchanges
from authorities.base import AuthorizationResource, ChallengeResource
from authorities.errors import Refused
from certctrl import clock, lanes
from certctrl.sentences import joined, stored
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select
from certctrl.turns import Trouble, Wait
from dnsclient import cnames
from dnsclient.resolver import RESOLVERS
from dnsproviders import propagation, records, registry
from dnsproviders.models import TxtRecord
from issuance.challenges import delegation, resolvercache, txtrecords
from issuance.challenges.base import Challenge, Judgement, Known
from issuance.identifiers import bases
from issuance.models import Authorization, Issuance

# Seconds after which a record that no server shows is published again, plus or minus a third.
REPUBLISH_AFTER = (90, 600, 900)
# Seconds until the next look, at most. Another resolver behind the same address may show the
# record sooner.
LONGEST_DENIED = 300
MOST_SERVERS = 20  # that an attempt names
RECORD: Any = Authorization._meta.get_field("record")
# The states of a server, and where a look has them. A later one wins.
STATES = {"shows": "showing", "skipped": "skipped", "silent": "silent", "missing": "missing"}
READ = ("credential", "name", "value", "intent_at", "cleaned_at")  # of each record, by a look
AFTER_SETTLING = timedelta(minutes=5)  # extra time for the last look
# The time that an attempt has for its step once its provider is enabled again.
AFTER_DISABLED = timedelta(hours=1)


class Seen(NamedTuple):
    """The TXT records of an attempt, and a look for each, by its primary key."""

    records: Sequence[TxtRecord]
    looks: Mapping[int, propagation.Look]


def txt_value(key_authorization: str) -> str:
    """Return the value of the TXT record: base64url(SHA-256(key authorization))."""
    digest = hashlib.sha256(key_authorization.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Dns01(Challenge):
    """TXT records, written with the certificate's DNS credential or the operator's."""

    type = "dns-01"

    def serves(self, seen: AuthorizationResource) -> bool:
        return True

    def not_offered(self, seen: AuthorizationResource) -> Refused:
        what = _(
            "The CA offers no %(type)s challenge for %(identifier)s. Choose another CA.",
            type=self.type,
            identifier=seen.identifier,
        )
        return Refused("ca_no_dns01", what, permanent=True)

    def be_usable(self, issuance: Issuance) -> None:
        """Raise Disabled while the operator has disabled the DNS provider.

        The attempt does not end.
        """
        if not issuance.credential or not (row := issuance.credential.disabled):
            return
        later = _(
            "The attempt goes on by itself when it is enabled again. If you cannot wait, cancel the"
            " attempt and give the certificate a credential of another provider."
        )
        what = joined(" ", [registry.what_is_disabled(row), later])
        issuance.write(deadline_at=max(issuance.deadline_at, clock.now() + AFTER_DISABLED))
        raise registry.Disabled(issuance.spread(registry.DISABLED_REST), what)

    def look_up(self, issuance: Issuance, known: Known) -> Known:
        """Follow the CNAMEs of all names in one batch, unless the preflight has done it."""
        names = bases(issuance.certificate.names)
        if all(name in known.paths and not known.paths[name].trouble for name in names):
            return known
        with lanes.enter(RESOLVERS, issuance.account.owner_id):
            paths = cnames.follow(names, clock.time_left())
            if not any(path.trouble for path in paths.values()):
                lanes.note(RESOLVERS.key, lanes.Standing.WELL)
        return known._replace(paths=paths)

    def prepare(
        self,
        issuance: Issuance,
        seen: AuthorizationResource,
        offered: ChallengeResource,
        found: Callable[[], Known],
    ) -> Callable[[], dict[str, Any]]:
        """Return the function that notes the TXT record where the CNAMEs lead."""
        credential = issuance.credential
        if not credential:
            what = _(
                "The CA needs a TXT record for %(identifier)s. %(lacking)s",
                identifier=seen.identifier,
                lacking=delegation.lacking(issuance.certificate),
            )
            raise Refused("no_dns_credential", what, permanent=True)
        if not offered.key_authorization:
            what = _(
                "The CA sent a %(type)s challenge without a token for %(identifier)s.",
                type=self.type,
                identifier=seen.identifier,
            )
            raise Trouble(errors.ERROR, what)
        path = found().paths[seen.identifier]
        if path.trouble:
            raise path.trouble
        delegation.refuse_elsewhere(issuance, path)
        value = txt_value(offered.key_authorization)
        zone = found().zones.get(path.final, "")
        return lambda: {"record": records.note(credential, path.final, value, zone)}

    def present(self, issuance: Issuance, pending: Sequence[Authorization]) -> str:
        """Publish the TXT records. The provider's Trouble gets a text for the owner."""
        self.be_usable(issuance)
        wanted: dict[int, list[Authorization]] = {}
        for each in pending:
            if each.record_id:
                wanted.setdefault(each.record_id, []).append(each)
        credential = issuance.credential
        lane = registry.lane_of_credential(credential) if credential else None
        zones = records.Zones(issuance.zones)
        try:
            with (
                lanes.enter(lane, issuance.account.owner_id),
                exchanges.about(issuance.account, "present", issuance.pk),
            ):
                for record_id in sorted(wanted):
                    issuance.breathe()
                    record = records.publish(record_id, zones)
                    for each in wanted[record_id]:
                        each.record = record  # the next step of the walk looks for it
        except Trouble as trouble:
            raise delegation.for_owner(issuance.certificate, credential, trouble) from None
        if len(wanted) == 1:
            return _("the TXT record is in the zone")
        return _("%(count)s TXT records are in the zone", count=len(wanted))

    def look(self, pending: Mapping[int, Sequence[Authorization]]) -> Mapping[int, Seen]:
        """Ask every authoritative server for the records. This takes at most two queries."""
        ids = {
            pk: sorted({each.record_id for each in rows if each.record_id})
            for pk, rows in pending.items()
        }
        found = _found([each for rows in pending.values() for each in rows])
        _set_credentials(found.values(), [rows[0].issuance for rows in pending.values()])
        wanted = {pk: [found[record_id] for record_id in each] for pk, each in ids.items()}
        looks = propagation.look([record for each in wanted.values() for record in each])
        return {pk: Seen(each, looks) for pk, each in wanted.items()}

    def judge(self, issuance: Issuance, seen: Seen) -> Judgement:
        now = clock.now()
        verdicts = [
            (
                record,
                propagation.verdict(
                    record, seen.looks[record.pk], now - (record.intent_at or now), issuance.deaf
                ),
            )
            for record in seen.records
        ]
        hidden = [(record, verdict) for record, verdict in verdicts if not verdict.visible]
        if not hidden:
            _settle(issuance, seen)
            texts = dict.fromkeys(verdict.what for _other, verdict in verdicts)
            return Judgement(joined("; ", texts) or _("no record is needed"))
        nowhere = [
            record
            for record, verdict in hidden
            if verdict.nowhere and _is_published_again(issuance, record)
        ]
        if nowhere:
            again = _(
                "no name server shows %(name)s, so it is published again", name=nowhere[0].name
            )
            return Judgement(again, [each.pk for each in nowhere])
        what = hidden[0][1].what
        if len(hidden) > 1:
            what = _("%(what)s (and %(more)s more)", what=what, more=len(hidden) - 1)
        denied = max(verdict.denied for _other, verdict in hidden)
        servers = servers_of(issuance, seen)
        fields = {"servers": servers} if servers != issuance.servers else {}
        patience = issuance.patience()
        # Resolvers deny the record for `denied` seconds. `imposed` moves the deadline by the wait,
        # so that the record loses none of its time.
        if denied > patience:
            raise Wait(min(denied + 1, LONGEST_DENIED), what, imposed=True, fields=fields)
        raise Wait(patience, what, fields=fields)

    def present_again(self, absent: Sequence[int]) -> None:
        records.unpublish(absent)

    def release(self, issuance: Issuance, at: datetime | None = None) -> None:
        """Wake the records. The sweep then sends a cleanup for each that no attempt needs."""
        txtrecords.wake(issuance, at or clock.now())


def servers_of(issuance: Issuance, seen: Seen) -> list[dict[str, Any]]:
    """Return each server that was asked, and whether it shows all records of the attempt.

    The state is `shows`, `missing`, `silent`, or `skipped` for one that cannot be asked. `since`
    is the time of the first look with this state, in seconds since 1970.
    """
    states: dict[str, str] = {}
    looks = [seen.looks[record.pk] for record in seen.records]
    for state, name in STATES.items():
        for label in (label for look in looks for label in getattr(look, name)):
            states[propagation.server_of(label)] = state
    before = {(each["server"], each["state"]): each["since"] for each in issuance.servers}
    now = int(clock.now().timestamp())
    shown = [(stored(label), states[label]) for label in sorted(states)[:MOST_SERVERS]]
    return [
        {"server": server, "state": state, "since": before.get((server, state), now)}
        for server, state in shown
    ]


def _found(pending: Sequence[Authorization]) -> dict[int, TxtRecord]:
    """Return the records by their ids. Those that this walk has published are not read again."""
    known = {
        each.record.pk: each.record for each in pending if RECORD.is_cached(each) and each.record
    }
    return known | _read({each.record_id for each in pending if each.record_id} - set(known))


def _read(ids: Collection[int]) -> dict[int, TxtRecord]:
    if not ids:
        return {}
    if len(ids) != 1:
        found = TxtRecord.objects.filter(pk__among=ids).only(*READ)
        return {each.pk: each for each in found}
    return {each.pk: each for each in _record(pk=next(iter(ids)))}


@select
def _record(pk: Parameter) -> QuerySet[TxtRecord]:
    return TxtRecord.objects.filter(pk=pk)


def _set_credentials(found: Collection[TxtRecord], issuances: Sequence[Issuance]) -> None:
    """Set the credential of each record. Only those of earlier credentials are read."""
    known = {each.credential_id: each.credential for each in issuances if each.credential}
    for record in found:
        if credential := known.get(record.credential_id):
            record.credential = credential
    prefetch_related_objects(list(found), "credential")


def _settle(issuance: Issuance, seen: Seen) -> None:
    """Raise Wait until the records have settled, once every server shows them.

    They settle after the credential's `settle` seconds. They settle later when the CA's resolver
    may keep an older answer for longer.
    """
    pause = issuance.credential.settle if issuance.credential else 0
    now, what = clock.now(), issuance.waits_for
    if not issuance.settles_at:
        until = now + timedelta(seconds=pause)
        what = _(
            "Every server shows the records. The DNS credential adds a pause of %(pause)s s.",
            pause=pause,
        )
        old = resolvercache.kept(issuance, seen.records, seen.looks)
        if old and old.until > until:
            until, what = old.until, old.what
        if until > now:
            issuance.write(
                settles_at=until, deadline_at=max(issuance.deadline_at, until + AFTER_SETTLING)
            )
    if issuance.settles_at and issuance.settles_at > now:
        raise Wait((issuance.settles_at - now).total_seconds(), what)


def _is_published_again(issuance: Issuance, record: TxtRecord) -> bool:
    if not record.intent_at or issuance.presents >= len(REPUBLISH_AFTER):
        return record.intent_at is None or record.cleaned_at is not None
    # Spread, so that a thousand attempts that began together are not published together.
    spread = random.Random(f"{issuance.pk} {issuance.presents}").uniform(2 / 3, 4 / 3)  # noqa: S311
    return clock.now() - record.intent_at >= timedelta(
        seconds=REPUBLISH_AFTER[issuance.presents] * spread
    )
