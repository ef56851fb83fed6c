"""Create, change and delete ACME accounts. A worker registers an account at its CA in a turn."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction
from django.db.models import QuerySet
from django.views.decorators.debug import sensitive_variables

from accounts import audit, quotas
from accounts.models import User
from authorities import acme, catalog, tasks
from authorities.models import AcmeAccount, PrivateCA
from certctrl import clock, dispatch, outgoing
from certctrl.errors import Conflict, Invalid, MissingField, NotFound
from certctrl.sentences import sentence as _
from keystore import envelope

MAX_NAME = 64
STAGING = " (staging)"
LEAST_HMAC_KEY = 16  # characters


@sensitive_variables()
def create_account(owner: User, given: Mapping[str, Any]) -> AcmeAccount:
    """Create an account with a key of its own, and start a worker that registers it at its CA.

    `given` may have: ca_provider, email, name, terms_accepted, directory_url, eab_kid,
    eab_hmac_key, zerossl_api_key, ca_id, defaults, log_level, save_requests, staging_first. Return
    the account.

    Raise Invalid or MissingField with the `field`. Raise NotFound when `ca_id` is not an active
    private CA of the owner. Raise QuotaExceeded when the owner may have no more.
    """
    private_ca = _private_ca(owner, given.get("ca_id"))
    info = catalog.info(catalog.SELF_CA if private_ca else given["ca_provider"])
    _refuse(info, given, private_ca)
    with transaction.atomic():
        if private_ca:
            hold_private_ca(private_ca)
        account = _make(owner, info, given, private_ca)
        if given.get("staging_first"):
            _prove_at_staging(account)
    _start_registering(account, account.staging_account)
    return account


@sensitive_variables()
def _make(
    owner: User, info: catalog.CAInfo, given: Mapping[str, Any], private_ca: PrivateCA | None = None
) -> AcmeAccount:
    quotas.refuse_more(owner, "acme_accounts")
    key = acme.new_account_key()
    account = AcmeAccount.objects.create(
        owner=owner,
        name=given.get("name") or (private_ca.name if private_ca else str(info.label)),
        ca_provider=info.name,
        directory_url="" if private_ca else given.get("directory_url") or info.directory_url,
        email=given.get("email", ""),
        terms_accepted_at=clock.now(),
        key=envelope.seal(owner, "acme_account_key", key),
        thumbprint=acme.thumbprint(key),
        defaults=given.get("defaults", {}),
        log_level=given.get("log_level", ""),
        save_requests=given.get("save_requests", False),
        **(_registered(private_ca) if private_ca else _to_register(owner, given)),
    )
    audit.note_row(
        account,
        "acme_account.created",
        name=account.name,
        ca_provider=account.ca_provider,
        host=urlsplit(account.directory_url).hostname,
    )
    if account.log_level:
        _audit_debugging(account)
    return account


def _audit_debugging(account: AcmeAccount) -> None:
    facts = {"log_level": account.log_level, "save_requests": account.save_requests}
    audit.note_row(account, "acme_account.debugging_switched", name=account.name, **facts)


def _prove_at_staging(account: AcmeAccount) -> None:
    """Set `staging_first`, and make sure that there is an account at the CA's staging.

    The staging account has the same e-mail address and a key of its own. It is registered and
    listed like any other account.
    """
    # Locked like in `retire_account`, so that nobody deletes the account at the same time.
    rows = AcmeAccount.objects.select_for_update(no_key=True).filter(retired_at=None)
    known = account.staging_account_id
    account.staging_account = rows.filter(pk=known).first() if known else None
    if not account.staging_account:
        info = catalog.info(catalog.info(account.ca_provider).staging)
        name = f"{account.name[: MAX_NAME - len(STAGING)]}{STAGING}"
        account.staging_account = _make(account.owner, info, {"name": name, "email": account.email})
    account.staging_first = True
    account.save(update_fields=["staging_first", "staging_account"])


def _start_registering(*accounts: AcmeAccount | None) -> None:
    for account in accounts:
        if account and account.queued_at:
            dispatch.nudge(tasks.register, account.pk)


def _private_ca(owner: User, ca_id: int | None) -> PrivateCA | None:
    if not ca_id:
        return None
    found = PrivateCA.objects.filter(owner=owner, pk=ca_id, status=PrivateCA.Status.ACTIVE).first()
    if not found:
        raise no_private_ca(ca_id)
    return found


def _registered(private_ca: PrivateCA) -> dict[str, Any]:
    return {
        "private_ca": private_ca,
        "url": f"privateca:{private_ca.pk}",
        "status": AcmeAccount.Status.VALID,
    }


def _to_register(owner: User, given: Mapping[str, Any]) -> dict[str, Any]:
    now = clock.now()
    return {"wake_at": now, "queued_at": now} | _sealed_eab(owner, given)


def _refuse(info: catalog.CAInfo, given: Mapping[str, Any], private_ca: PrivateCA | None) -> None:
    if given.get("terms_accepted") is False:
        raise Invalid(
            _("Read the terms of %(label)s and set terms_accepted to true.", label=info.label),
            field="terms_accepted",
        )
    if info.name == catalog.SELF_CA and not private_ca:
        raise MissingField(
            _("No private CA is given. Create one under /cas and give its ca_id."), field="ca_id"
        )
    _refuse_staging(info.name, given)
    if private_ca:
        _refuse_acme_members(given)
    else:
        _refuse_directory(info, given.get("directory_url", ""))
        _refuse_eab(info, given)


def _refuse_acme_members(given: Mapping[str, Any]) -> None:
    for field in ("directory_url", "eab_kid", "eab_hmac_key", "zerossl_api_key"):
        if given.get(field):
            raise Invalid(
                _("A private CA has no %(field)s. Leave it out, or leave ca_id out.", field=field),
                field=field,
            )


def _refuse_staging(ca_provider: str, given: Mapping[str, Any]) -> None:
    if given.get("staging_first") and not (info := catalog.info(ca_provider)).staging:
        have = ", ".join(each.name for each in catalog.known().values() if each.staging)
        what = _(
            "%(label)s has no staging CA for a test order. staging_first is possible "
            "with %(have)s.",
            label=info.label,
            have=have,
        )
        raise Invalid(what, field="staging_first")


def _refuse_directory(info: catalog.CAInfo, url: str) -> None:
    if info.name == catalog.CUSTOM and not url:
        raise MissingField(
            _("directory_url is missing. Give the directory_url of the ACME CA."),
            field="directory_url",
        )
    if info.name != catalog.CUSTOM and url and url != info.directory_url:
        what = _(
            "The directory of %(label)s is known. For another one, use ca_provider custom.",
            label=info.label,
        )
        raise Invalid(what, field="directory_url")
    if url and not _is_directory(url):
        what = _(
            "directory_url must be an https address without a user name, for example "
            "https://ca.example/directory."
        )
        raise Invalid(what, field="directory_url")


def _is_directory(url: str) -> bool:
    parts = outgoing.called(url)
    return bool(parts and parts.scheme == "https")


def _refuse_eab(info: catalog.CAInfo, given: Mapping[str, Any]) -> None:
    pair = [bool(given.get("eab_kid")), bool(given.get("eab_hmac_key"))]
    if any(pair) and not all(pair):
        raise MissingField(
            _("An external account binding has two parts. Give both eab_kid and eab_hmac_key."),
            field="eab_hmac_key",
        )
    if any(pair) and info.eab == "none":
        raise Invalid(
            _(
                "%(label)s does not use an external account binding. Leave eab_kid out.",
                label=info.label,
            ),
            field="eab_kid",
        )
    if any(pair):
        _hmac_key(given)
    if given.get("zerossl_api_key") and not info.eab_source:
        raise Invalid(
            _("zerossl_api_key is only for ca_provider zerossl. Leave it out."),
            field="zerossl_api_key",
        )
    fetchable = info.eab_source and (given.get("email") or given.get("zerossl_api_key"))
    if info.eab == "required" and not any(pair) and not fetchable:
        what = _(
            "%(label)s requires an external account binding. Give eab_kid and eab_hmac_key.",
            label=info.label,
        )
        if info.eab_source:
            what = _(
                "%(label)s requires an external account binding. Give eab_kid and "
                "eab_hmac_key, or an email to fetch one.",
                label=info.label,
            )
        raise MissingField(what, field="eab_kid")


def _hmac_key(given: Mapping[str, Any]) -> str:
    """Return the HMAC key as base64url without padding; empty when none is given."""
    if not given.get("eab_hmac_key"):
        return ""
    try:
        key = acme.hmac_key_of(given["eab_hmac_key"])
    except ValueError:
        key = ""
    if len(key) < LEAST_HMAC_KEY:
        what = _(
            "eab_hmac_key must be base64 or base64url of at least 16 characters. Copy it "
            "from the CA."
        )
        raise Invalid(what, field="eab_hmac_key")
    return key


def _sealed_eab(owner: User, given: Mapping[str, Any]) -> dict[str, Any]:
    """Seal the EAB, or the API key that fetches one.

    With an API key, `eab_kid` stays empty until the EAB is fetched.
    """
    secret = _hmac_key(given) or given.get("zerossl_api_key")
    if not secret:
        return {}
    return {
        "eab_kid": given.get("eab_kid", ""),
        "eab": envelope.seal(owner, "eab", secret.encode()),
    }


def update_account(account: AcmeAccount, given: Mapping[str, Any]) -> AcmeAccount:
    """Change the name, the e-mail address, the key defaults, debugging or `staging_first`.

    An account stays at its CA. The CA is not informed of a new e-mail address. The body of a GET
    response is accepted unchanged.

    Raise Invalid for another CA, directory or EAB. Raise NotFound when the account is deleted and
    `staging_first` is given.
    """
    _refuse_other_ca(account, given)
    _refuse_staging(account.ca_provider, given)
    debugging = account.log_level, account.save_requests
    account.name = given.get("name") or account.name
    account.email = given.get("email", account.email)
    account.defaults = _kept_defaults(account.defaults, given) | given.get("defaults", {})
    account.log_level = given.get("log_level", account.log_level)
    account.save_requests = given.get("save_requests", account.save_requests)
    with transaction.atomic():
        account.save(
            update_fields=["name", "email", "defaults", "log_level", "save_requests", "updated_at"]
        )
        audit.note_row(account, "acme_account.changed", name=account.name, members=sorted(given))
        if debugging != (account.log_level, account.save_requests):
            _audit_debugging(account)
    if "staging_first" in given:
        _switch_staging(account, given["staging_first"])
    return account


def _kept_defaults(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key defaults, without those that `given` sets to empty or null."""
    size = {"rsa": "leaf_rsa_bits", "ecdsa": "leaf_ec_curve"}.get(defaults.get("key_type", ""), "")
    members = {
        "key_type": ("leaf_key_algorithm",),
        "key_size": ("leaf_key_algorithm", size),
        "validity_seconds": ("cert_valid_seconds",),
    }
    taken_back = {name for name, value in given.items() if value in ("", None)}
    return {name: value for name, value in defaults.items() if not taken_back & set(members[name])}


def _switch_staging(account: AcmeAccount, on: bool) -> None:
    """Switch `staging_first`.

    After it is switched off, the staging account stays until somebody deletes it.
    """
    with transaction.atomic():
        # Locked, so that two concurrent requests make only one staging account.
        account.refresh_from_db(from_queryset=AcmeAccount.objects.select_for_update())
        if account.retired_at:
            raise no_account(account.pk)
        known = account.staging_account_id
        if on:
            _prove_at_staging(account)
        else:
            account.staging_first = False
            account.save(update_fields=["staging_first"])
    if account.staging_account_id != known:
        _start_registering(account.staging_account)


def _refuse_other_ca(account: AcmeAccount, given: Mapping[str, Any]) -> None:
    if "ca_provider" in given and catalog.info(given["ca_provider"]).name != account.ca_provider:
        raise Invalid(
            _("An account cannot change its CA. Create another account."),
            field="ca_provider",
        )
    fixed = {
        "directory_url": account.directory_url,
        "eab_kid": account.eab_kid,
        "ca_id": account.private_ca_id,
    }
    for field, value in fixed.items():
        if (given.get(field) or "") not in ("", value):
            raise Invalid(
                _(
                    "The %(field)s of an account cannot be changed. Create another account.",
                    field=field,
                ),
                field=field,
            )
    for field in ("eab_hmac_key", "zerossl_api_key"):
        if given.get(field):
            raise Invalid(
                _(
                    "The %(field)s of an account cannot be changed. Create another account.",
                    field=field,
                ),
                field=field,
            )


def retry_registration(account: AcmeAccount) -> AcmeAccount:
    """Register again now, for example after a wrong EAB was fixed at the CA."""
    now = clock.now()
    refused = AcmeAccount.objects.filter(pk=account.pk, url="", holder="")
    if refused.update(wake_at=now, queued_at=now, status=AcmeAccount.Status.PENDING):
        audit.note_row(account, "acme_account.registration_retried", name=account.name)
        dispatch.nudge(tasks.register, account.pk)
    account.refresh_from_db()
    return account


def retire_account(account: AcmeAccount) -> None:
    """Delete the account. The row stays, because the history of its certificates needs it.

    Its staging account is deleted too, unless something else uses that account. Raise Conflict
    while something uses the account itself.
    """
    with transaction.atomic():
        both = AcmeAccount.objects.filter(pk__in=[account.pk, account.staging_account_id])
        # See issuance.services.locks for the order of locks.
        list(both.order_by("pk").select_for_update(no_key=True))
        if use := _use_of(account):
            raise Conflict(use)
        staging = account.staging_account
        AcmeAccount.objects.filter(pk=account.pk).update(retired_at=clock.now(), wake_at=None)
        audit.note_row(account, "acme_account.deleted", name=account.name)
        if staging and not _use_of(staging):
            AcmeAccount.objects.filter(pk=staging.pk).update(retired_at=clock.now(), wake_at=None)
            audit.note_row(staging, "acme_account.deleted", name=staging.name)


def _use_of(account: AcmeAccount) -> str:
    """Return what uses the account, and how to change that; empty when nothing uses it."""
    if names := _first(account.certificates.filter(retired_at=None), "domain"):
        return _(
            "%(account)s is used by certificates (%(names)s). Delete them or give them another "
            "account.",
            account=account.name,
            names=names,
        )
    if names := _first(account.fallback_certificates.filter(retired_at=None), "domain"):
        return _(
            "%(account)s is the fallback account of certificates (%(names)s). Give them another "
            "one, or none.",
            account=account.name,
            names=names,
        )
    proving = AcmeAccount.objects.filter(
        staging_account=account, staging_first=True, retired_at=None
    )
    if names := _first(proving, "name"):
        return _(
            "%(account)s is the staging account of %(names)s. Set the staging_first of that "
            "account to false.",
            account=account.name,
            names=names,
        )
    return ""


def _first(rows: QuerySet[Any], column: str) -> str:
    return ", ".join(rows.order_by("pk").values_list(column, flat=True)[:3])


def account_of_private_ca(private_ca: PrivateCA, pk: int | None = None) -> AcmeAccount:
    """Return the account under which the private CA issues directly.

    With `pk`, return that account of the CA. Without `pk`, return the oldest one, or create one.
    Call this function inside a transaction. It locks the CA, so that concurrent calls create only
    one account.

    Raise NotFound when the CA was deleted since the caller read it. Raise NotFound too when `pk` is
    an account of another CA.
    """
    hold_private_ca(private_ca)
    rows = private_ca.accounts.filter(owner=private_ca.owner, retired_at=None)
    account = (rows.filter(pk=pk) if pk else rows).order_by("pk").first()
    if pk and not account:
        raise NotFound(
            _(
                "The CA %(name)s has no account %(pk)s of yours. Check the id.",
                name=private_ca.name,
                pk=pk,
            ),
            field="acme_account_id",
        )
    return account or create_account(
        private_ca.owner, {"ca_id": private_ca.pk, "terms_accepted": True}
    )


def retire_private_ca(private_ca: PrivateCA) -> None:
    """Delete the private CA. Raise Conflict while accounts use it."""
    with transaction.atomic():
        # See issuance.services.locks for the order of locks.
        PrivateCA.objects.select_for_update(no_key=True).get(pk=private_ca.pk)
        names = ", ".join(
            private_ca.accounts.filter(retired_at=None).values_list("name", flat=True)[:3]
        )
        if names:
            raise Conflict(
                _(
                    "The CA %(name)s is used by accounts (%(names)s). Delete them first.",
                    name=private_ca.name,
                    names=names,
                )
            )
        PrivateCA.objects.filter(pk=private_ca.pk).update(status=PrivateCA.Status.RETIRED)
        audit.note_row(private_ca, "private_ca.deleted", name=private_ca.name)


def no_private_ca(pk: int) -> NotFound:
    return NotFound(_("You have no private CA %(pk)s. Check the id.", pk=pk), field="ca_id")


def no_account(pk: int, field: str = "acme_account_id") -> NotFound:
    return NotFound(_("You have no ACME account %(pk)s. Check the id.", pk=pk), field=field)


# `no_key`, so that workers that write rows of attempts do not wait for this lock.


def hold_private_ca(private_ca: PrivateCA) -> None:
    """Lock the private CA. Raise NotFound when it was deleted after the caller read it."""
    rows = PrivateCA.objects.select_for_update(no_key=True)
    if not rows.filter(pk=private_ca.pk, status=PrivateCA.Status.ACTIVE).first():
        raise no_private_ca(private_ca.pk)
