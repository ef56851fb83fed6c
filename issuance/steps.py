"""The six steps of an attempt: the only place that acts. Each asks what is already true and does what is missing.

A step gets the claimed Issuance and returns Done; it raises Wait or Trouble when it must go on later.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db import IntegrityError

from certctrl import clock
from certctrl.turns import Trouble, Wait
from dnsproviders import propagation, records
from dnsproviders.models import TxtRecord
from issuance import backoff, ca, chains, choosing, delegation, keys, limits, pki, preflight, renewalinfo, telling
from issuance.events import Outcome, event
from issuance.models import AcmeAccount, Authorization, Certificate, CertificateVersion, Issuance
from issuance.resources import CA, AuthorizationResource, OrderResource, Refused

State = Issuance.State

ORDER_LIMIT = timedelta(hours=6)
FINALIZE_LIMIT = timedelta(hours=24)  # once the CSR is sent, unless the order expires sooner
REPUBLISH_AFTER = (90, 600, 900)  # seconds without any server that shows the record, give or take a third
AUTHORIZATIONS_A_TURN = 5
AFTER_SETTLING = timedelta(minutes=5)  # until the last look
GOLDEN = 0.618034  # multiples of it, without their whole part, are spread evenly
CHALLENGE = "_acme-challenge"


@dataclass(frozen=True)
class Done:
    """The step is through. `write` runs inside the transaction that moves the state; `to` leads elsewhere than on.

    `again`: the records that are to be published again, by their primary keys.
    """

    what: str
    write: Callable[[], None] | None = None
    to: str = ""
    again: Sequence[int] = ()


def patience(issuance: Issuance) -> float:
    """Seconds until the next look: a quarter of the time in this state, 1 to 30; at least 5 for records that were
    published before and shown by no server. A fifth more or less, so that a crowd does not stay in step."""
    spread = 0.8 + 0.4 * (issuance.pk * GOLDEN % 1)
    least = 5.0 if issuance.presents else 1.0
    return min(30.0, max(least, issuance.age().total_seconds() / 4 * spread))


# --- order ---


def order(issuance: Issuance) -> Done:
    """Make the key and the CSR, order, and note each authorization with the record that it asks for."""
    _say_who_is_asked(issuance)
    _be_registered(issuance, issuance.account)
    _let_older_attempts_end(issuance)
    keys.have(issuance)
    client = ca.client_for(issuance.account)
    if not issuance.order_url:
        preflight.before_order(issuance, client)
        _place_order(issuance, client)
    for authorization in issuance.authorizations.filter(status=Authorization.Status.UNREAD):
        issuance.breathe()
        _note(issuance, authorization, client.read_authorization(authorization.url))
    pending = issuance.authorizations.filter(status=Authorization.Status.PENDING).count()
    return Done(
        f"the CA accepted the order; {pending} of its {issuance.authorizations.count()} names need a TXT record"
    )


def _say_who_is_asked(issuance: Issuance) -> None:
    """Where it is not simply the certificate's own account; told once, before anything can fail."""
    what = choosing.why(issuance)
    if what and not issuance.events.filter(step="choose").exists():
        with issuance.fence():
            event(issuance, "choose", Outcome.DONE, what)


def _be_registered(issuance: Issuance, account: AcmeAccount) -> None:
    if account.status == AcmeAccount.Status.REFUSED:
        raise Trouble(account.error_code or "ca_account_refused", account.error_what, permanent=True)
    if account.status == AcmeAccount.Status.DEACTIVATED:
        raise Trouble(
            "ca_account_deactivated", f"The account {account.name} was deactivated at its CA.", permanent=True
        )
    if not account.url:
        AcmeAccount.objects.filter(pk=account.pk, wake_at=None).update(wake_at=clock.now())
        what = f"The account {account.name} is being registered at its CA. {account.error_what}"
        raise Wait(patience(issuance), what.strip())


def _let_older_attempts_end(issuance: Issuance) -> None:
    """A CA answers newOrder for the same account and names with the same order: one attempt at a time."""
    if issuance.order_url:
        return  # it was first, though an older one was committed after that: that one waits for the order
    older = Issuance.objects.open().filter(names_key=issuance.names_key, pk__lt=issuance.pk)
    if older.exists():
        issuance.write(deadline_at=clock.now() + ORDER_LIMIT)
        raise Wait(patience(issuance), "An older request for the same names and account goes first.")


def _place_order(issuance: Issuance, client: CA) -> None:
    profile, replaces = _profile(issuance, client), renewalinfo.replaces_of(issuance)
    if not replaces:
        limits.reserve(issuance)
    try:
        resource = client.new_order(issuance.certificate.names, profile=profile, replaces=replaces)
    except Trouble as trouble:
        limits.answered(issuance, trouble)
        if not replaces or not renewalinfo.is_about_replaces(trouble, issuance):
            raise
        _leave_out_replaces(issuance, trouble)
        return _place_order(issuance, client)
    limits.answered(issuance)
    if len(resource.authorizations) > len(issuance.certificate.names):
        raise Refused("ca_bad_order", f"The CA wants more authorizations than {issuance.certificate.domain} has names.")
    try:
        with issuance.fence():
            issuance.write(
                order_url=resource.url, order_expires_at=resource.expires_at, profile=profile, replaces=replaces
            )
            if profile != issuance.certificate.profile:
                event(issuance, "order", Outcome.DONE, _without(issuance.certificate.profile))
            Authorization.objects.bulk_create(
                [Authorization(issuance=issuance, url=url) for url in resource.authorizations], ignore_conflicts=True
            )
    except IntegrityError:
        issuance.write(deadline_at=clock.now() + ORDER_LIMIT)
        raise Wait(patience(issuance), "Another attempt has the order that the CA handed out.") from None
    return None


def _leave_out_replaces(issuance: Issuance, trouble: Trouble) -> None:
    """The attempt orders without it from now on: RFC 9773, section 5."""
    what = f"It is ordered without saying which certificate it replaces. {trouble.what}"
    with issuance.fence():
        issuance.write(replaces_refused=True)
        event(issuance, "order", Outcome.RETRY, what)
    issuance.breathe()


def _profile(issuance: Issuance, client: CA) -> str:
    """The certificate's profile where the CA lists it, else none: its default serves better than no certificate."""
    wanted = issuance.certificate.profile
    return wanted if wanted and wanted in client.profiles() else ""


def _without(profile: str) -> str:
    return f"The CA does not list the profile {profile}: it was ordered without one, and gets the CA's default."


def _note(issuance: Issuance, authorization: Authorization, seen: AuthorizationResource) -> None:
    """Store what the CA says of an authorization, and the record that it asks for when it is pending."""
    if seen.identifier not in {name.removeprefix("*.") for name in issuance.certificate.names}:
        what = f"The CA wants a proof for a name that {issuance.certificate.domain} does not have; nothing was written."
        raise Refused("ca_wrong_identifier", what, permanent=True)
    if seen.status == "valid":
        return _store(issuance, authorization, seen, Authorization.Status.VALID, None)
    if seen.status != "pending":
        raise _refused(seen)
    if not seen.challenge_url:
        raise Refused(
            "ca_no_dns01",
            f"The CA offers no dns-01 challenge for {seen.identifier}; choose another CA.",
            permanent=True,
        )
    if not issuance.credential:
        raise Refused(
            "no_dns_credential",
            f"The CA wants a TXT record for {seen.identifier}, and the certificate has no DNS credential: set one.",
            permanent=True,
        )
    name = propagation.final_name(f"{CHALLENGE}.{seen.identifier}")
    delegation.refuse_elsewhere(issuance, seen.identifier, name)
    return _store(issuance, authorization, seen, Authorization.Status.PENDING, name)


def _store(
    issuance: Issuance, authorization: Authorization, seen: AuthorizationResource, status: str, name: str | None
) -> None:
    with issuance.fence():
        record = None
        if name and issuance.credential:
            record, _ = TxtRecord.objects.get_or_create(credential=issuance.credential, name=name, value=seen.txt_value)
        Authorization.objects.filter(pk=authorization.pk).update(
            identifier=seen.identifier,
            wildcard=seen.wildcard,
            status=status,
            challenge_url=seen.challenge_url,
            record=record,
            seen_at=clock.now(),
        )


def _refused(seen: AuthorizationResource) -> Refused:
    """The authorization cannot be used: with the CA's own words where it gives any."""
    name = f"*.{seen.identifier}" if seen.wildcard else seen.identifier
    if seen.problem:
        return seen.problem.refused(f"The CA did not validate {name}.")
    return Refused(
        "ca_authorization_unusable", f"The CA's authorization for {name} is {seen.status}; it gives no reason."
    )


# --- present ---


def present(issuance: Issuance) -> Done:
    """Publish the TXT record of each pending authorization."""
    wanted = list(issuance.pending_records().values_list("pk", flat=True))
    for record_id in wanted:
        issuance.breathe()
        records.publish(record_id)
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
        (record, propagation.verdict(record, looks[record.pk], now - (record.intent_at or now))) for record in wanted
    ]
    hidden = [(record, verdict) for record, verdict in verdicts if not verdict.visible]
    if not hidden:
        _settle(issuance)
        return Done("; ".join(dict.fromkeys(verdict.what for _, verdict in verdicts)) or "no record is needed")
    nowhere = [record for record, verdict in hidden if verdict.nowhere and _publish_again(issuance, record)]
    if nowhere:
        what, again = f"no name server shows {nowhere[0].name}: it is published again", [each.pk for each in nowhere]
        return Done(what, write=lambda: _unpublish(issuance, again), to=State.ORDERED, again=again)
    more = f" (and {len(hidden) - 1} more)" if len(hidden) > 1 else ""
    raise Wait(patience(issuance), hidden[0][1].what + more)


def _settle(issuance: Issuance) -> None:
    """The credential's extra wait after the last server shows the records."""
    pause = issuance.credential.settle if issuance.credential else 0
    now = clock.now()
    if pause and not issuance.settles_at:
        until = now + timedelta(seconds=pause)
        issuance.write(settles_at=until, deadline_at=max(issuance.deadline_at, until + AFTER_SETTLING))
    if issuance.settles_at and issuance.settles_at > now:
        left = (issuance.settles_at - now).total_seconds()
        raise Wait(left, f"Every server shows the records; {pause} s more, as the DNS credential asks.")


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
    pending = issuance.authorizations.filter(status=Authorization.Status.PENDING)
    for authorization in pending.filter(answered_at=None):
        issuance.breathe()
        client.answer(authorization.challenge_url)
        with issuance.fence():
            Authorization.objects.filter(pk=authorization.pk).update(answered_at=clock.now())
    resource = client.read_order(issuance.order_url)
    if resource.status == "pending":
        _look_at_answered(issuance, client)
        raise _wait(issuance, resource, "The CA is looking at the TXT records.")
    if resource.status == "invalid":
        return _after_invalid(issuance, client, resource)
    return Done("the CA found every TXT record")


def _look_at_answered(issuance: Issuance, client: CA) -> None:
    """Some CAs leave the order pending when an authorization failed: read a few of them each turn."""
    answered = issuance.authorizations.filter(status=Authorization.Status.PENDING, answered_at__isnull=False)
    for authorization in answered.order_by("seen_at")[:AUTHORIZATIONS_A_TURN]:
        issuance.breathe()
        seen = client.read_authorization(authorization.url)
        if seen.status not in ("pending", "valid"):
            limits.count_failed_validation(issuance, seen.identifier)
            raise _refused(seen)
        status = Authorization.Status.VALID if seen.status == "valid" else Authorization.Status.PENDING
        with issuance.fence():
            Authorization.objects.filter(pk=authorization.pk).update(seen_at=clock.now(), status=status)


def _after_invalid(issuance: Issuance, client: CA, resource: OrderResource) -> Done:
    """An order of an earlier attempt is ordered anew, once; else the attempt ends with the CA's words."""
    earlier = Issuance.objects.filter(order_url=issuance.order_url).exclude(pk=issuance.pk)
    if not issuance.orders and earlier.exists():
        return order_anew(issuance, "the CA handed out an order that had failed before")
    _look_at_answered(issuance, client)
    what = f"The CA refused the order for {issuance.certificate.domain}."
    if resource.problem:
        raise resource.problem.refused(what)
    raise Refused("ca_order_invalid", f"{what} It gives no reason.")


def order_anew(issuance: Issuance, what: str) -> Done:
    """Forget the order and go back to the first step."""

    def forget() -> None:
        issuance.records().wake()
        issuance.authorizations.all().delete()
        issuance.write(
            order_url="",
            order_expires_at=None,
            csr_sent_at=None,
            certificate_url="",
            settles_at=None,
            presents=0,
            orders=issuance.orders + 1,
        )

    return Done(f"{what}: ordering anew", write=forget, to=State.QUEUED)


# --- finalize ---


def finalize(issuance: Issuance) -> Done:
    """Read the order and do what its status asks: the CA's status decides, never our memory."""
    client = ca.client_for(issuance.account)
    resource = client.read_order(issuance.order_url)
    if resource.status == "ready":
        if not issuance.csr_sent_at:
            keys.replace_compromised(issuance)
        _say_that_the_csr_is_sent(issuance, resource)
        resource = _send_csr(issuance, client, resource)
    if resource.status == "invalid":
        return _after_invalid(issuance, client, resource)
    if resource.status != "valid":
        raise _wait(issuance, resource, "The CA is signing.")
    if not issuance.csr_sent_at:
        return _order_anew_once(issuance, "the CA handed out an order that had been used")
    url = resource.certificate_url
    return Done("the CA signed", write=lambda: issuance.write(certificate_url=url))


def _wait(issuance: Issuance, resource: OrderResource, what: str) -> Wait:
    """As long as the CA asks for, else with growing patience."""
    asked = resource.retry_after or 0
    return Wait(max(asked, patience(issuance)), what, asked=bool(asked))


def _send_csr(issuance: Issuance, client: CA, resource: OrderResource) -> OrderResource:
    try:
        return client.finalize(resource, issuance.csr_pem)
    except Wait as wait:  # orderNotReady, though it read ready
        raise Wait(max(wait.seconds, patience(issuance)), wait.what) from None


def _say_that_the_csr_is_sent(issuance: Issuance, resource: OrderResource) -> None:
    if issuance.csr_sent_at:
        return
    now = clock.now()
    deadline = min(now + FINALIZE_LIMIT, resource.expires_at or now + FINALIZE_LIMIT)
    issuance.write(csr_sent_at=now, deadline_at=max(deadline, issuance.deadline_at))


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
    chain_pem = client.download(
        issuance.certificate_url,
        csr_pem=issuance.csr_pem,
        validity_seconds=issuance.validity_seconds,
        preferred_chain=preferred,
    )
    try:
        pki.check_chain(chain_pem, issuance.csr_pem, issuance.certificate.names)
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
    what = f"the certificate is stored{chains.taken(chain_pem, preferred)}"
    return Done(what, write=lambda: _store_version(issuance, chain_pem))


def _store_version(issuance: Issuance, chain_pem: str) -> None:
    facts = pki.facts(chain_pem)
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
        chain_pem=chain_pem,
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
        updated_at=clock.now(),
    )
