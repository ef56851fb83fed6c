"""Choose the account of the next attempt.

It is the certificate's own account, its CA's staging account, or the fallback account.
"""

from datetime import datetime, timedelta

from django.conf import settings

from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.sentences import sentence as _
from issuance.models import Certificate, Issuance

PROVE_AFTER = 3  # failures in a row
LAST_DAY = timedelta(days=1)  # of a certificate; staging may be down for longer
OTHER_ACCOUNT = "preflight_caa_account"
STUCK = "ca_old_order"  # the own account gets the same order again; waiting does not help
USELESS = (AcmeAccount.Status.REFUSED, AcmeAccount.Status.DEACTIVATED)
Failure = Issuance.Failure


def account_for(certificate: Certificate, reason: str) -> tuple[AcmeAccount, bool]:
    """Return the account of the next attempt, and whether the attempt only proves.

    An attempt that proves runs at the CA's staging, to show that production would succeed. An
    attempt of a person (MANUAL) always gets the certificate's own account. After the fallback
    account, the own account is next.
    """
    account = certificate.account
    if reason == Issuance.Reason.MANUAL or not certificate.failing_since or certificate.proved_at:
        return account, False
    fallback = certificate.fallback_account
    if fallback and _is_of_use(fallback) and _is_fallback_next(certificate):
        return fallback, False
    staging = account.staging_account
    if staging and account.staging_first and _is_of_use(staging) and _must_prove(certificate):
        return staging, True
    return account, False


def why(issuance: Issuance) -> str:
    """Return why the account was chosen, for the owner to read.

    Return an empty string when there is nothing to explain.
    """
    certificate = issuance.certificate
    tried = issuance.account
    if not certificate.failing_since or issuance.reason == Issuance.Reason.MANUAL:
        return ""
    own = certificate.account.name
    since = f"{certificate.failing_since:%Y-%m-%d %H:%M} UTC"
    if issuance.proves:
        row = _(
            "%(domain)s failed %(failures)s times in a row",
            domain=certificate.domain,
            failures=certificate.failures,
        )
        return _(
            "%(row)s. %(name)s, at the CA's staging, must issue it before %(own)s is asked again.",
            row=row,
            name=tried.name,
            own=own,
        )
    if tried.pk != certificate.account_id:
        return _(
            "%(own)s has failed since %(since)s, so the fallback account %(name)s is tried.",
            own=own,
            since=since,
            name=tried.name,
        )
    if certificate.proved_at:
        return _("It succeeded at the CA's staging, so %(own)s is tried again.", own=own)
    if certificate.fallback_account_id and _failed_too_long(certificate):
        return _(
            "%(own)s has failed since %(since)s, so it alternates with the fallback account.",
            own=own,
            since=since,
        )
    return ""


def patience(expires_at: datetime | None) -> timedelta:
    """Return how long the own account may fail before the fallback account is tried.

    This is FALLBACK_AFTER (seconds). It is a quarter of the certificate's time left when less than
    three times FALLBACK_AFTER is left.
    """
    longest = timedelta(seconds=settings.FALLBACK_AFTER)
    if not expires_at:
        return longest
    left = max(timedelta(0), expires_at - clock.now())
    return min(longest, left / 4) if left < 3 * longest else longest


def _failed_too_long(certificate: Certificate) -> bool:
    since = certificate.failing_since
    return bool(since and clock.now() - since >= patience(certificate.expires_at))


def _is_fallback_next(certificate: Certificate) -> bool:
    last = certificate.issuances.order_by("-pk").values_list("account_id", "error_code").first()
    account_id, code = last or (None, "")
    return account_id != certificate.fallback_account_id and (
        code == STUCK or _failed_too_long(certificate)
    )


def _is_of_use(account: AcmeAccount) -> bool:
    return not account.retired_at and account.status not in USELESS


def _must_prove(certificate: Certificate) -> bool:
    """Return whether the next attempt must prove at staging.

    This is true after three failures in a row that may pass by themselves. Failures because of a
    limit are not counted. CAA records that name the production account prevent a proof at staging.
    Production is next then.
    """
    ends = certificate.expires_at
    if certificate.failures < PROVE_AFTER or (ends and ends - clock.now() < LAST_DAY):
        return False
    failed = certificate.issuances.filter(state=Issuance.State.FAILED).exclude(
        failure=Failure.LIMITED
    )
    last = list(failed.order_by("-pk").values_list("failure", "proves", "error_code")[:PROVE_AFTER])
    if last and last[0][1] and last[0][2] == OTHER_ACCOUNT:
        return False
    return all(proves or failure != Failure.PERMANENT for failure, proves, _ in last)
