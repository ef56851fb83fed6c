"""Lock the rows that a new row refers to, so that they are not deleted meanwhile.

Each row is locked and read again, inside the transaction that writes the new row. Code that
deletes such a row also locks it first, and then looks for references.

Rows are locked in one order: private CA, account, credential, open attempt, certificate, owner, and
the devices last. So no two transactions wait for each other.
"""

from typing import Any

from django.db.models import QuerySet

from accounts import quotas
from accounts.models import User
from authorities.accounts import no_account
from authorities.models import AcmeAccount
from certctrl.errors import NotFound
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, select
from dnsproviders.models import DnsCredential
from issuance.models import Certificate, Issuance


def no_credential(pk: int) -> NotFound:
    return NotFound(
        _("You have no DNS credential %(pk)s. Check the id.", pk=pk), field="dns_provider_id"
    )


def hold(
    owner: User,
    *,
    credential: DnsCredential | None,
    account: AcmeAccount | None,
    fallback_id: int | None,
) -> None:
    """Lock the credential, the account and the fallback account. None is skipped.

    Raise NotFound when one was deleted since it was read, or when an account has another owner.
    """
    wanted = {
        fallback_id: "fallback_account_id",
        account.pk if account else None: "acme_account_id",
    }
    for pk in sorted(filter(None, wanted)):
        if not _account(owner=owner.pk, pk=pk):
            raise no_account(pk, wanted[pk])
    if credential and not _credential(pk=credential.pk):
        raise no_credential(credential.pk)


@select
def _account(owner: Parameter, pk: Parameter) -> QuerySet[AcmeAccount, Any]:
    rows = AcmeAccount.objects.filter(owner=owner, retired_at=None, pk=pk)
    return rows.select_for_update(no_key=True).values_list("pk")


@select
def _credential(pk: Parameter) -> QuerySet[DnsCredential, Any]:
    rows = DnsCredential.objects.filter(pk=pk, retired_at=None)
    return rows.select_for_update(no_key=True).values_list("pk")


def lock_attempt(certificate_id: int) -> None:
    """Lock the open attempt. Call it before the certificate is locked.

    The end of a turn locks them in the same order, so that no two wait for each other.
    """
    Issuance.objects.open().filter(certificate=certificate_id).select_for_update().first()


def lock(certificate: Certificate) -> None:
    """Lock the open attempt and the certificate, and read the certificate again.

    An attempt may have ended since it was read. Raise NotFound if it was deleted since.
    """
    lock_attempt(certificate.pk)
    certificate.refresh_from_db(from_queryset=Certificate.objects.select_for_update())
    if certificate.retired_at:
        raise NotFound(_("You have no certificate %(pk)s. Check the id.", pk=certificate.pk))


def lock_with_owner(certificate: Certificate) -> None:
    """Lock its owner too. Call this when devices are locked before a new attempt is counted."""
    lock(certificate)
    quotas.lock(certificate.owner_id)
