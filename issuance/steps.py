"""The steps of an attempt, after the first, which is `issuance.ordering`: nothing else acts. Each asks what is already
true and does what is missing.

A step gets the claimed Issuance and returns Done; it raises Wait or Trouble when it must go on later.
"""

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta

from certctrl import clock
from certctrl.turns import Trouble, Wait
from dnsproviders import propagation, records
from dnsproviders.models import TxtRecord
from issuance import (
    backoff,
    ca,
    chains,
    delegation,
    keys,
    lifetime,
    limits,
    oldorders,
    ordering,
    pki,
    renewalinfo,
    resolvercache,
    telling,
)
from issuance.done import Done
from issuance.models import Authorization, Certificate, CertificateVersion, Issuance
from issuance.ordering import refused
from issuance.resources import CA, AuthorizationResource, NotYet, OrderResource, Refused

State = Issuance.State

FINALIZE_LIMIT = timedelta(hours=24)  # once the CSR is sent, unless the order expires sooner
REPUBLISH_AFTER = (90, 600, 900)  # seconds without any server that shows the record, give or take a third
AUTHORIZATIONS_A_TURN = 5
HEARD_WITHIN = timedelta(minutes=1)
LONGEST_DENIED = 300  # seconds until the next look: another resolver behind the same address may know better
AFTER_SETTLING = timedelta(minutes=5)  # until the last look


# --- present ---


def present(issuance: Issuance) -> Done:
    """Publish the TXT record of each pending authorization."""
    pending = issuance.authorizations.filter(status=Authorization.Status.PENDING, record__isnull=False)
    wanted = sorted(set(pending.values_list("record_id", flat=True)))
    for record_id in wanted:
        issuance.breathe()
        try:
            records.publish(record_id)
        except Trouble as trouble:
            raise delegation.for_owner(issuance.certificate, issuance.credential, trouble) from None
    # What no server showed before will not be there at once: the next look is one of a batch.
    return Done(f"{len(wanted)} TXT records are in the zone", to=State.PRESENTED if issuance.presents else "")


# --- propagate ---


def propagate(issuance: Issuance) -> Done:
    """Ask every authoritative server once whether it shows the records."""
    wanted = list(issuance.pending_records().select_related("credential"))
    return judge(issuance, wanted, propagation.look(wanted))


def judge(issuance: Issuance, wanted: Sequence[TxtRecord], looks: Mapping[int, propagation.Look]) -> Done:
    """What one look means for an attempt: on, back to publishing, or another look later."""
    now = clock.now()
    verdicts = [
        (record, propagation.verdict(record, looks[record.pk], now - (record.intent_at or now), issuance.deaf))
        for record in wanted
    ]
    hidden = [(record, verdict) for record, verdict in verdicts if not verdict.visible]
    if not hidden:
        _settle(issuance, wanted, looks)
        return Done("; ".join(dict.fromkeys(verdict.what for _, verdict in verdicts)) or "no record is needed")
    nowhere = [record for record, verdict in hidden if verdict.nowhere and _publish_again(issuance, record)]
    if nowhere:
        what, again = f"no name server shows {nowhere[0].name}: it is published again", [each.pk for each in nowhere]
        return Done(what, write=lambda: _unpublish(issuance, again), to=State.ORDERED, again=again)
    what = hidden[0][1].what + (f" (and {len(hidden) - 1} more)" if len(hidden) > 1 else "")
    denied = max(verdict.denied for _, verdict in hidden)
    if denied > issuance.patience():  # nobody can know before that: it takes nothing of the time that the record has
        raise Wait(min(denied + 1, LONGEST_DENIED), what, asked=True)
    raise Wait(issuance.patience(), what)


def _settle(issuance: Issuance, wanted: Sequence[TxtRecord], looks: Mapping[int, propagation.Look]) -> None:
    """The credential's extra wait after the last server shows the records, and the time for which the CA's resolver may
    have an older answer."""
    pause = issuance.credential.settle if issuance.credential else 0
    now, what = clock.now(), issuance.waits_for
    if not issuance.settles_at:
        until = now + timedelta(seconds=pause)
        what = f"Every server shows the records; {pause} s more, as the DNS credential asks."
        old = resolvercache.kept(issuance, wanted, looks)
        if old and old.until > until:
            until, what = old.until, old.what
        if until > now:
            issuance.write(settles_at=until, deadline_at=max(issuance.deadline_at, until + AFTER_SETTLING))
    if issuance.settles_at and issuance.settles_at > now:
        raise Wait((issuance.settles_at - now).total_seconds(), what)


def _publish_again(issuance: Issuance, record: TxtRecord) -> bool:
    if not record.intent_at or issuance.presents >= len(REPUBLISH_AFTER):
        return record.intent_at is None or record.cleaned_at is not None
    # Spread, so that a thousand that began together do not come back together.
    spread = random.Random(f"{issuance.pk} {issuance.presents}").uniform(2 / 3, 4 / 3)  # noqa: S311
    return clock.now() - record.intent_at >= timedelta(seconds=REPUBLISH_AFTER[issuance.presents] * spread)


def _unpublish(issuance: Issuance, record_ids: Sequence[int]) -> None:
    issuance.write(presents=issuance.presents + 1, settles_at=None)
    TxtRecord.objects.filter(pk__in=record_ids, holder="").update(presented_at=None)


# --- validate ---


def validate(issuance: Issuance) -> Done:
    """Tell the CA that the records are there, then read what became of the order."""
    client = ca.client_for(issuance.account)
    pending, unheard = issuance.authorizations.filter(status=Authorization.Status.PENDING), ""
    for authorization in pending.filter(answered_at=None):
        issuance.breathe()
        if why := client.answer(authorization.challenge_url):
            unheard = f"{why} It is given again."
            continue
        with issuance.fence():
            Authorization.objects.filter(pk=authorization.pk).update(answered_at=clock.now())
    resource = client.read_order(issuance.order_url)
    if resource.status == "pending":
        if more := ordering.unlisted(issuance, resource):
            what = f"the CA lists {len(more)} more authorizations than at first"
            return Done(what, write=lambda: ordering.note_list(issuance, more), to=State.QUEUED)
        said = _look_at_answered(issuance, client)
        raise _wait(issuance, resource, unheard or said or "The CA is looking at the TXT records.")
    if resource.status == "invalid":
        return _after_invalid(issuance, client, resource)
    return Done("the CA found every TXT record")


def _look_at_answered(issuance: Issuance, client: CA, most: int | None = AUTHORIZATIONS_A_TURN) -> str:
    """Some CAs leave the order pending when an authorization failed: read a few of them each turn, or all with None.
    Raises Refused about the first that failed, and has counted those that it read. Return what the CA says of one that
    it still looks at, empty when it says nothing. Those that it does not show tell nothing: the order decides."""
    answered = issuance.authorizations.filter(status=Authorization.Status.PENDING, answered_at__isnull=False)
    failed: list[AuthorizationResource] = []
    said = ""
    for authorization in answered.order_by("seen_at")[:most]:
        try:
            issuance.breathe()
            seen = client.read_authorization(authorization.url)
        except NotYet as not_yet:
            said = said or not_yet.what
            continue
        except (Wait, Trouble):
            if failed:  # what is known is told now: nothing remembers it until another turn
                break
            raise
        if seen.gave_up:
            if seen.status != "deactivated":  # we did, before we died
                limits.count_failed_validation(issuance, seen.identifier)
            failed.append(seen)
            continue
        status = Authorization.Status.VALID if seen.status == "valid" else Authorization.Status.PENDING
        fields = {"answered_at": None} if _has_not_heard(authorization, seen) else {}
        with issuance.fence():
            Authorization.objects.filter(pk=authorization.pk).update(seen_at=clock.now(), status=status, **fields)
        if seen.problem and seen.status == "pending":
            said = f"The CA has not found the TXT record for {seen.name} yet, and looks again. It says: {seen.problem}"
    if failed:
        raise refused(next((each for each in failed if each.problem), failed[0]))
    return said


def _has_not_heard(authorization: Authorization, seen: AuthorizationResource) -> bool:
    """The challenge still waits for its answer (RFC 8555, section 7.1.6). Some CAs say so while they look, too: for
    them an answer more changes nothing."""
    given_at = authorization.answered_at or clock.now()
    return (seen.status, seen.challenge_status) == ("pending", "pending") and clock.now() - given_at >= HEARD_WITHIN


def _after_invalid(issuance: Issuance, client: CA, resource: OrderResource) -> Done:
    """An order of an earlier attempt is ordered anew, once; else the attempt ends with the CA's words."""
    if not issuance.orders and oldorders.earlier(issuance).exists():
        return order_anew(issuance, "the CA handed out an order that had failed before")
    _look_at_answered(issuance, client, most=None)
    what = f"The CA refused the order for {issuance.certificate.domain}."
    if resource.problem:
        raise resource.problem.refused(what)
    raise Refused("ca_order_invalid", f"{what} It gives no reason.")


def order_anew(issuance: Issuance, what: str) -> Done:
    """Forget the order and go back to the first step."""
    return Done(f"{what}: ordering anew", write=lambda: oldorders.forget(issuance), to=State.QUEUED)


# --- finalize ---


def finalize(issuance: Issuance) -> Done:
    """Read the order and do what its status asks: the CA's status decides, never our memory."""
    client = ca.client_for(issuance.account)
    resource = client.read_order(issuance.order_url)
    if resource.status == "ready":
        if not resource.finalize_url:
            raise _wait(issuance, resource, "The order is ready, and the CA does not say yet where the CSR goes.")
        was_sent = bool(issuance.csr_sent_at)
        if not was_sent:
            keys.replace_compromised(issuance)
        _say_that_the_csr_is_sent(issuance, resource)
        resource = _send_csr(issuance, client, resource, again=was_sent)
    if resource.status == "invalid":
        return _after_invalid(issuance, client, resource)
    if resource.status != "valid":
        what = "The CA is signing." if issuance.csr_sent_at else "The CA does not show the order as ready any more."
        raise _wait(issuance, resource, what)
    if not issuance.csr_sent_at:
        return _order_anew_once(issuance, "the CA handed out an order that had been used")
    url = _certificate_url(issuance, resource)
    return Done("the CA signed", write=lambda: issuance.write(certificate_url=url))


def _wait(issuance: Issuance, resource: OrderResource, what: str) -> Wait:
    """As long as the CA asks for, else with growing patience; an error that the order carries is told."""
    asked = resource.retry_after or 0
    if resource.problem:
        what = f"{what} The CA says: {resource.problem}"
    return Wait(max(asked, issuance.patience()), what, asked=bool(asked))


def _certificate_url(issuance: Issuance, resource: OrderResource) -> str:
    """Some CAs call an order valid a few reads before they say where its certificate is."""
    if not resource.certificate_url:
        raise _wait(issuance, resource, "The CA signed, and does not say yet where the certificate is.")
    return resource.certificate_url


def _send_csr(issuance: Issuance, client: CA, resource: OrderResource, *, again: bool) -> OrderResource:
    """Send it. Where it was sent before, a refusal may mean that the order is further than the CA showed it."""
    try:
        return client.finalize(resource, issuance.csr_pem)
    except Refused:
        seen = client.read_order(issuance.order_url) if again else resource
        if seen.status in ("processing", "valid"):
            return seen
        raise
    except Wait as wait:  # orderNotReady, though it read ready
        raise Wait(max(wait.seconds, issuance.patience()), wait.what) from None


def _say_that_the_csr_is_sent(issuance: Issuance, resource: OrderResource) -> None:
    if issuance.csr_sent_at:
        return
    now = clock.now()
    deadline = min(now + FINALIZE_LIMIT, resource.expires_at or now + FINALIZE_LIMIT)
    expires_at = resource.expires_at or issuance.order_expires_at
    issuance.write(csr_sent_at=now, deadline_at=max(deadline, issuance.deadline_at), order_expires_at=expires_at)


def _order_anew_once(issuance: Issuance, what: str) -> Done:
    if issuance.orders:
        what = f"{issuance.certificate.domain} was ordered anew once already, and it happened again: {what}."
        raise Refused("ca_order_used", what)
    return order_anew(issuance, what)


# --- download ---


def download(issuance: Issuance) -> Done:
    """Fetch the chain, check it against CSR and names, and store the version."""
    client = ca.client_for(issuance.account)
    preferred = issuance.certificate.preferred_chain
    if not issuance.certificate_url:
        url = _certificate_url(issuance, client.read_order(issuance.order_url))
        issuance.write(certificate_url=url)
    chain_pem = client.download(
        issuance.certificate_url,
        csr_pem=issuance.csr_pem,
        validity_seconds=issuance.validity_seconds,
        preferred_chain=preferred,
    )
    try:
        chain = pki.check_chain(chain_pem, issuance.csr_pem, issuance.certificate.names)
    except pki.WrongKey:
        return _order_anew_once(issuance, "the CA's certificate is for a key of another request")
    except pki.BadChain as bad:
        raise Refused(
            "ca_bad_certificate", f"The CA's certificate for {issuance.certificate.domain} is wrong: {bad}"
        ) from None
    if issuance.proves:
        return Done(
            "staging issued it: it is thrown away, and production is next", write=lambda: backoff.note_proof(issuance)
        )
    lifetime.refuse_useless(issuance, chain.pem)
    what = f"the certificate is stored{chains.taken(chain.pem, preferred)}{chains.remarks(chain)}"
    if short := lifetime.why_short(chain.pem):
        what = f"{what}. {short}"
    return Done(what, write=lambda: _store_version(issuance, chain))


def _store_version(issuance: Issuance, chain: pki.Chain) -> None:
    facts = chain.facts
    assert issuance.key, "the key was sealed in the first step"
    version = CertificateVersion.objects.create(
        certificate=issuance.certificate,
        issuance=issuance,
        account=issuance.account,
        serial=facts.serial,
        not_before=facts.not_before,
        not_after=facts.not_after,
        fingerprint=facts.fingerprint,
        issuer=facts.issuer,
        ari_id=facts.ari_id,
        chain_pem=chain.pem,
        added_names=list(chain.added),
        key=issuance.key,
    )
    # As it is now: a person may have changed it while the CA was asked.
    certificate = Certificate.objects.select_for_update().get(pk=issuance.certificate_id)
    renewalinfo.begin(version)
    telling.renewed(certificate, version)
    renew_at = renewalinfo.renew_at(version, certificate.renew_days_before)
    Certificate.objects.filter(pk=certificate.pk).update(
        current=version,
        expires_at=facts.not_after,
        renew_at=renew_at if certificate.auto_renew and not certificate.retired_at else None,
        failures=0,
        failing_since=None,
        proved_at=None,
        verified=certificate.verified or bool(delegation.only_target(certificate, issuance.credential)),
        updated_at=clock.now(),
    )
