"""The first step: order within the CA's rate limits, and prepare the challenges."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from django.db import IntegrityError
from django.db.models import QuerySet

from authorities import clients, errors
from authorities.base import CA, AuthorizationResource, NotYet, OrderResource
from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, insert_all, select, update
from certctrl.turns import LostTurn, Trouble, Wait
from issuance import preflight, ratelimits
from issuance.challenges import base, registry
from issuance.models import Authorization, Issuance
from issuance.renewal import ari, failover
from issuance.workflow import csr, oldorders
from issuance.workflow.outcome import Done, Outcome, event
from issuance.workflow.steps.authorizations import refused
from issuance.workflow.steps.plan import OrderPlan, plan_order

LIMIT = timedelta(hours=6)
KEPT = "ON CONFLICT (issuance_id, url) DO UPDATE SET url = EXCLUDED.url"
# The columns of an authorization that reading it at the CA sets.
SEEN = (
    *("status", "identifier", "wildcard", "challenge", "challenge_url", "seen_at"),
    *("record_id", "agent_challenge_id"),
)


def order(issuance: Issuance) -> Done:
    """Make the key and the CSR, order, and prepare the challenge of each authorization.

    Raise Wait for the account's registration, a disabled DNS provider, an older attempt, a slot or
    the CA. Raise Trouble or Refused when the order cannot be placed.
    """
    _say_who_is_asked(issuance)
    _be_registered(issuance, issuance.account)
    _be_usable(issuance)
    _let_older_attempts_end(issuance)
    client, known, listed = _order_once(issuance)
    issuance.zones = known.seen
    listed = _listed(issuance=issuance.pk) if listed is None else listed
    store = _read_authorizations(issuance, client, listed, known)
    if all(each.status != Authorization.Status.UNREAD for each in listed):
        issuance.listed = listed
    pending = sum(each.status == Authorization.Status.PENDING for each in listed)
    what = _(
        "the CA accepted the order; names to prove: %(pending)s of %(count)s",
        pending=pending,
        count=len(listed),
    )
    return Done(what, write=store)


@select
def _listed(issuance: Parameter) -> QuerySet[Authorization]:
    return Authorization.objects.filter(issuance=issuance).order_by("pk")


@select
def _older(names_key: Parameter, pk: Parameter) -> QuerySet[Issuance, Any]:
    older = Issuance.objects.open().filter(names_key=names_key, pk__lt=pk)
    return older.values_list("pk")[:1]


def _order_once(
    issuance: Issuance,
) -> tuple[CA, base.Known, Sequence[Authorization] | None]:
    """Place the order, or read it when it is placed.

    Return the client of the account, and what the preflight saw if it ran. Return also the
    authorizations of an order that was just placed, if the attempt had no other order.
    """
    known, listed = base.Known(), None
    if issuance.order_url:
        client = clients.client_for(issuance.account)
        if not issuance.csr_sent_at and not issuance.authorizations.exists():
            _wait_for_list(issuance, _read_order(issuance, client))
        return client, known, None
    plan = plan_order(issuance)
    ratelimits.refuse_far_slot(issuance, plan.charges.costs)
    csr.ensure_key_and_csr(issuance, plan.client)
    if not issuance.order_url:  # the key may have come with an order of an earlier attempt
        known, columns = preflight.before_order(issuance, plan.client)
        try:
            resource, listed = _place_order(issuance, plan, columns)
        except Exception:
            if columns:
                issuance.write(**columns)
            raise
        _wait_for_list(issuance, resource)
    return plan.client, known, None if issuance.orders else listed


def _say_who_is_asked(issuance: Issuance) -> None:
    """Write an event about the choice of the account, once, where there is something to explain.

    It is written first, before anything can fail.
    """
    what = failover.why(issuance)
    if what and not issuance.events.filter(step="choose").exists():
        with issuance.fence():
            event(issuance, "choose", Outcome.DONE, what)


def _be_registered(issuance: Issuance, account: AcmeAccount) -> None:
    if account.status == AcmeAccount.Status.REFUSED:
        raise Trouble(
            account.error_code or "ca_account_refused", account.error_what, permanent=True
        )
    if account.status == AcmeAccount.Status.DEACTIVATED:
        raise Trouble(
            "ca_account_deactivated",
            _(
                "The account %(name)s was deactivated at its CA. Choose another account.",
                name=account.name,
            ),
            permanent=True,
        )
    if not account.url and account.retired_at:  # a deleted account is not registered any more
        raise Trouble(
            "ca_account_refused",
            _("The account %(name)s was deleted. Choose another account.", name=account.name),
            permanent=True,
        )
    if not account.url:
        AcmeAccount.objects.filter(pk=account.pk, wake_at=None).update(wake_at=clock.now())
        what = _("The account %(name)s is being registered at its CA.", name=account.name)
        raise Wait(issuance.patience(), joined(" ", filter(None, [what, account.error_what])))


def _be_usable(issuance: Issuance) -> None:
    """Raise Wait while the validation method cannot be used. Others then go first at the CA."""
    if issuance.account.is_private:
        return
    try:
        registry.for_certificate(issuance.certificate).be_usable(issuance)
    except Wait:
        ratelimits.step_aside(issuance)
        raise


def _let_older_attempts_end(issuance: Issuance) -> None:
    """Raise Wait while an older attempt with the same names and account is open.

    A CA returns the same order for each newOrder of the same account and names.
    """
    # This attempt has ordered. An older attempt may have been committed after that. The older one
    # then waits until this one ends.
    if issuance.order_url:
        return
    if _older(names_key=issuance.names_key, pk=issuance.pk):
        issuance.write(deadline_at=clock.now() + LIMIT)
        raise Wait(
            issuance.patience(), _("An older attempt for the same names and account goes first.")
        )


def _place_order(
    issuance: Issuance, plan: OrderPlan, columns: dict[str, Any]
) -> tuple[OrderResource, Sequence[Authorization]]:
    """Send newOrder, and store the order with `columns`. Return it with its authorizations."""
    names, profile = issuance.certificate.names, plan.profile
    plan.client.prepare()
    ratelimits.reserve(issuance, plan.charges.costs)
    try:
        resource = plan.client.new_order(names, profile=profile, replaces=plan.replaces)
    except Trouble as trouble:
        counted = () if plan.replaces else plan.charges.listed
        ratelimits.record_order_result(issuance, trouble, counted)
        if not plan.replaces or not ari.is_about_replaces(trouble, issuance):
            raise
        _leave_out_replaces(issuance, trouble)
        return _place_order(issuance, plan_order(issuance), columns)
    ratelimits.record_order_result(issuance)
    _refuse_too_many(issuance, resource)
    try:
        with issuance.fence(
            order_url=resource.url,
            order_expires_at=resource.expires_at,
            finalize_url=resource.finalize_url,
            profile=profile,
            replaces=plan.replaces,
            **columns,
        ):
            if profile != issuance.certificate.profile:
                event(issuance, "order", Outcome.DONE, _without(issuance.certificate.profile))
            listed = _note_list(issuance, resource)
    except IntegrityError:
        issuance.write(deadline_at=clock.now() + LIMIT)
        raise Wait(
            issuance.patience(), _("The CA returned an order that another attempt has.")
        ) from None
    return resource, listed


def _read_order(issuance: Issuance, client: CA) -> OrderResource:
    """Read the order again, and note the authorizations that it did not list at first."""
    resource = client.read_order(issuance.order_url)
    _refuse_too_many(issuance, resource)
    with issuance.fence():
        _note_list(issuance, resource)
    return resource


def _refuse_too_many(issuance: Issuance, resource: OrderResource) -> None:
    if len(resource.authorizations) > len(issuance.certificate.names):
        raise Refused(
            "ca_bad_order",
            _(
                "The CA requires more authorizations than %(domain)s has names.",
                domain=issuance.certificate.domain,
            ),
        )


def note_list(
    issuance: Issuance, urls: Sequence[str], status: str = Authorization.Status.UNREAD
) -> list[Authorization]:
    """Store the authorizations of an order, by their URLs, with this status.

    Return an object for each. Rows that exist keep their columns, and these may differ.
    """
    listed = [
        Authorization(issuance=issuance, url=url, status=status) for url in dict.fromkeys(urls)
    ]
    insert_all(listed, KEPT)
    return listed


def unlisted(issuance: Issuance, resource: OrderResource) -> list[str]:
    """Return the URLs of authorizations that the order lists now and did not list before.

    Return an empty list when there would be more authorizations than names. Some CAs show the
    same authorization under another URL at each reading.
    """
    known = set(issuance.authorizations.values_list("url", flat=True))
    more = [url for url in dict.fromkeys(resource.authorizations) if url not in known]
    return more if len(known) + len(more) <= len(issuance.certificate.names) else []


def _note_list(issuance: Issuance, resource: OrderResource) -> list[Authorization]:
    """Store the authorizations of the order.

    When the order is ready, each of them is valid and need not be read (RFC 8555, section 7.1.6).
    """
    status = (
        Authorization.Status.VALID if resource.status == "ready" else Authorization.Status.UNREAD
    )
    return note_list(issuance, resource.authorizations, status)


def _wait_for_list(issuance: Issuance, resource: OrderResource) -> None:
    if resource.status == "pending" and not resource.authorizations:
        raise Wait(
            issuance.patience(),
            _("The CA accepted the order and does not list its authorizations yet."),
        )


def _read_authorizations(
    issuance: Issuance, client: CA, listed: Sequence[Authorization], known: base.Known
) -> Callable[[], object] | None:
    """Read the authorizations that were not read yet.

    When the CA cannot show one and the order is ready, all of them count as valid. Each is stored
    before the next one is read. Return the function that stores the last one.
    """
    challenge = registry.for_certificate(issuance.certificate)
    found = cache(lambda: challenge.look_up(issuance, known))
    store: Callable[[], object] | None = None
    unread = [each for each in listed if each.status == Authorization.Status.UNREAD]
    for authorization in unread:
        if store:
            with issuance.fence():
                store()
            store = None
        issuance.breathe()
        try:
            seen = client.read_authorization(authorization.url).choosing(challenge.type)
        except Trouble as trouble:
            if not _is_ready_without(issuance, client, trouble):
                raise
            left = issuance.authorizations.filter(status=Authorization.Status.UNREAD)
            return lambda: left.update(status=Authorization.Status.VALID)
        store = _note(issuance, authorization, seen, found)
    return store


def _is_ready_without(issuance: Issuance, client: CA, trouble: Trouble) -> bool:
    if not isinstance(trouble, NotYet | Refused) and trouble.code != errors.ERROR:
        return False  # the CA is away, or asks for a pause
    try:
        return client.read_order(issuance.order_url).status == "ready"
    except (Trouble, Wait):
        return False


def _leave_out_replaces(issuance: Issuance, trouble: Trouble) -> None:
    """Let the attempt order without `replaces` from now on (RFC 9773, section 5)."""
    what = _("The next order is sent without `replaces`. %(what)s", what=trouble.what)
    with issuance.fence(replaces_refused=True):
        event(issuance, "order", Outcome.RETRY, what)
    issuance.breathe()


def _without(profile: str) -> str:
    return _(
        "The CA does not list the profile %(profile)s. The order was sent without a profile.",
        profile=profile,
    )


def _note(
    issuance: Issuance,
    authorization: Authorization,
    seen: AuthorizationResource,
    found: Callable[[], Any],
) -> Callable[[], object]:
    """Return the function that stores what the CA says. Prepare the challenge of a pending one.

    Raise Refused when the authorization is for another name, has failed, or cannot be proved. Raise
    Wait when the order is an old one and the attempt orders again.
    """
    if seen.identifier not in {name.removeprefix("*.") for name in issuance.certificate.names}:
        what = _(
            "The CA requires an authorization for a name that is not in the certificate "
            "of %(domain)s. No TXT record was written.",
            domain=issuance.certificate.domain,
        )
        raise Refused("ca_wrong_identifier", what, permanent=True)
    if seen.status == "valid":
        return _store(authorization, seen, Authorization.Status.VALID)
    if seen.has_failed:
        oldorders.refuse(issuance, seen)
        raise refused(seen)
    challenge = registry.of(seen.chosen)
    note = challenge.prepare(issuance, seen, registry.offered(challenge, seen), found)
    return _store(authorization, seen, Authorization.Status.PENDING, note)


@update
def _save(
    pk: Parameter,
    status: Parameter,
    identifier: Parameter,
    wildcard: Parameter,
    challenge: Parameter,
    challenge_url: Parameter,
    seen_at: Parameter,
    record_id: Parameter,
    agent_challenge_id: Parameter,
) -> tuple[QuerySet[Authorization], dict[str, Any]]:
    columns = {
        "status": status,
        "identifier": identifier,
        "wildcard": wildcard,
        "challenge": challenge,
        "challenge_url": challenge_url,
        "seen_at": seen_at,
        "record": record_id,
        "agent_challenge": agent_challenge_id,
    }
    return Authorization.objects.filter(pk=pk), columns


def _store(
    authorization: Authorization,
    seen: AuthorizationResource,
    status: str,
    note: Callable[[], dict[str, Any]] = dict,
) -> Callable[[], object]:
    """Return the function that stores what was seen, with the columns that `note` returns."""
    authorization.status = status
    authorization.identifier = seen.identifier
    authorization.wildcard = seen.wildcard
    authorization.challenge = seen.chosen
    authorization.challenge_url = seen.challenge.url if seen.challenge else ""
    authorization.seen_at = clock.now()

    def store() -> None:
        for name, value in note().items():
            setattr(authorization, name, value)
        columns = {name: getattr(authorization, name) for name in SEEN}
        if not _save(pk=authorization.pk, **columns):
            raise LostTurn

    return store
