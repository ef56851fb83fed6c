"""What people do with ACME accounts: create, change, delete. Registering at the CA is a worker's turn."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction
from django.views.decorators.debug import sensitive_variables

from accounts.models import User
from certctrl import clock
from certctrl.errors import Conflict, Invalid, MissingField
from issuance import acme, ca, holding, registration, tasks
from issuance.models import AcmeAccount, PrivateCA
from keystore import envelope

HMAC_KEY = re.compile(r"[A-Za-z0-9_-]{16,}={0,2}")  # base64url


@sensitive_variables()
def create_account(owner: User, given: Mapping[str, Any]) -> AcmeAccount:
    """Make the account with a key of its own, and have a worker register it at its CA.

    `given`: ca_provider, email, name, terms_accepted, directory_url, eab_kid, eab_hmac_key, zerossl_api_key, ca_id,
    defaults. Raises Invalid, MissingField or NotFound (a private CA of somebody else).
    """
    private_ca = _private_ca(owner, given.get("ca_id"))
    info = ca.info(ca.SELF_CA if private_ca else given["ca_provider"])
    _refuse(info, given, private_ca)
    key = acme.new_account_key()
    with transaction.atomic():
        if private_ca:
            holding.hold_private_ca(private_ca)
        account = AcmeAccount.objects.create(
            owner=owner,
            name=given.get("name") or (private_ca.name if private_ca else info.label),
            ca_provider=info.name,
            directory_url="" if private_ca else given.get("directory_url") or info.directory_url,
            email=given.get("email", ""),
            terms_accepted_at=clock.now(),
            key=envelope.seal(owner, "acme_account_key", key),
            thumbprint=acme.thumbprint(key),
            defaults=given.get("defaults", {}),
            **(_registered(private_ca) if private_ca else _to_register(owner, given)),
        )
    if account.queued_at:
        tasks.nudge(tasks.register, account.pk)
    return account


def _private_ca(owner: User, ca_id: int | None) -> PrivateCA | None:
    if not ca_id:
        return None
    found = PrivateCA.objects.filter(owner=owner, pk=ca_id, status=PrivateCA.Status.ACTIVE).first()
    if not found:
        raise holding.no_private_ca(ca_id)
    return found


def _registered(private_ca: PrivateCA) -> dict[str, Any]:
    return {"private_ca": private_ca, "url": f"privateca:{private_ca.pk}", "status": AcmeAccount.Status.VALID}


def _to_register(owner: User, given: Mapping[str, Any]) -> dict[str, Any]:
    now = clock.now()
    queued_at = now if registration.has_room(owner) else None  # else the sweep sends it when its turn has come
    return {"wake_at": now, "queued_at": queued_at} | _sealed_eab(owner, given)


def _refuse(info: ca.CAInfo, given: Mapping[str, Any], private_ca: PrivateCA | None) -> None:
    if given.get("terms_accepted") is False:
        raise Invalid(f"Read the terms of {info.label} and set terms_accepted to true.", field="terms_accepted")
    if info.name == ca.SELF_CA and not private_ca:
        raise MissingField("Say which private CA signs: create one under /cas and give its ca_id.", field="ca_id")
    if not private_ca:
        _refuse_directory(info, given.get("directory_url", ""))
        _refuse_eab(info, given)


def _refuse_directory(info: ca.CAInfo, url: str) -> None:
    if info.name == ca.CUSTOM and not url:
        raise MissingField("Give the directory_url of the ACME CA.", field="directory_url")
    if info.name != ca.CUSTOM and url and url != info.directory_url:
        what = f"The directory of {info.label} is known; for another one use ca_provider custom."
        raise Invalid(what, field="directory_url")
    if url and not _is_directory(url):
        what = "directory_url must be an https address without a user name, such as https://ca.example/directory."
        raise Invalid(what, field="directory_url")


def _is_directory(url: str) -> bool:
    try:
        parts = urlsplit(url)
        named = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    if any(char.isspace() for char in url):
        return False
    return bool(named and parts.scheme == "https" and not (parts.username or parts.password or parts.fragment))


def _refuse_eab(info: ca.CAInfo, given: Mapping[str, Any]) -> None:
    pair = [bool(given.get("eab_kid")), bool(given.get("eab_hmac_key"))]
    if any(pair) and not all(pair):
        raise MissingField("An external account binding is two: eab_kid and eab_hmac_key.", field="eab_hmac_key")
    if any(pair) and info.eab == "none":
        raise Invalid(f"{info.label} takes no external account binding; leave eab_kid out.", field="eab_kid")
    if any(pair) and not HMAC_KEY.fullmatch(given["eab_hmac_key"]):
        raise Invalid("eab_hmac_key must be base64url, as the CA showed it.", field="eab_hmac_key")
    if given.get("zerossl_api_key") and not info.eab_source:
        raise Invalid("zerossl_api_key belongs to ca_provider zerossl.", field="zerossl_api_key")
    fetchable = info.eab_source and (given.get("email") or given.get("zerossl_api_key"))
    if info.eab == "required" and not any(pair) and not fetchable:
        what = f"{info.label} wants an external account binding: give eab_kid and eab_hmac_key"
        raise MissingField(what + (", or an email to fetch one." if info.eab_source else "."), field="eab_kid")


def _sealed_eab(owner: User, given: Mapping[str, Any]) -> dict[str, Any]:
    """The binding, or the API key that fetches one: then `eab_kid` is empty until it did."""
    secret = given.get("eab_hmac_key") or given.get("zerossl_api_key")
    if not secret:
        return {}
    return {"eab_kid": given.get("eab_kid", ""), "eab": envelope.seal(owner, "eab", secret.encode())}


def update_account(account: AcmeAccount, given: Mapping[str, Any]) -> AcmeAccount:
    """Change the name or the key defaults, and the e-mail address while the CA does not know it yet.

    A change of CA is another account. What a GET answered may be sent back whole.
    """
    _refuse_other_ca(account, given)
    email = given.get("email", account.email)
    if email != account.email and account.url and not account.is_private:
        raise Invalid("The CA knows the account by its e-mail address; create another account.", field="email")
    account.name, account.email = given.get("name") or account.name, email
    account.defaults = account.defaults | given.get("defaults", {})
    account.save(update_fields=["name", "email", "defaults", "updated_at"])
    return account


def _refuse_other_ca(account: AcmeAccount, given: Mapping[str, Any]) -> None:
    if "ca_provider" in given and ca.info(given["ca_provider"]).name != account.ca_provider:
        raise Invalid("An account stays at its CA; create another account for another one.", field="ca_provider")
    fixed = {"directory_url": account.directory_url, "eab_kid": account.eab_kid, "ca_id": account.private_ca_id}
    for field, value in fixed.items():
        if (given.get(field) or "") not in ("", value):
            raise Invalid(f"The {field} of an account does not change; create another account.", field=field)
    for field in ("eab_hmac_key", "zerossl_api_key"):
        if given.get(field):
            raise Invalid(f"The {field} of an account does not change; create another account.", field=field)


def retry_registration(account: AcmeAccount) -> AcmeAccount:
    """Register once more, now: after a wrong binding was mended at the CA, say."""
    now = clock.now()
    refused = AcmeAccount.objects.filter(pk=account.pk, url="", holder="")
    if refused.update(wake_at=now, queued_at=now, status=AcmeAccount.Status.PENDING):
        tasks.nudge(tasks.register, account.pk)
    account.refresh_from_db()
    return account


def retire_account(account: AcmeAccount) -> None:
    """Delete it: the row stays for the history of what it issued. Conflict while certificates use it."""
    with transaction.atomic():
        AcmeAccount.objects.select_for_update(no_key=True).get(pk=account.pk)  # see issuance.holding
        using = account.certificates.filter(retired_at=None)
        names = ", ".join(using.values_list("domain", flat=True)[:3])
        if names:
            raise Conflict(
                f"{account.name} is used by certificates ({names}): delete them or give them another account."
            )
        AcmeAccount.objects.filter(pk=account.pk).update(retired_at=clock.now(), wake_at=None)


def retire_private_ca(private_ca: PrivateCA) -> None:
    """Delete it. Conflict while accounts use it."""
    with transaction.atomic():
        PrivateCA.objects.select_for_update(no_key=True).get(pk=private_ca.pk)  # see issuance.holding
        names = ", ".join(private_ca.accounts.filter(retired_at=None).values_list("name", flat=True)[:3])
        if names:
            raise Conflict(f"The CA {private_ca.name} is used by accounts ({names}): delete them first.")
        PrivateCA.objects.filter(pk=private_ca.pk).update(status=PrivateCA.Status.RETIRED)
