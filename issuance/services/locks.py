"""Lock the rows that a new row refers to, so that they are not deleted meanwhile.

Each row is locked and read again, inside the transaction that writes the new row. Code that
deletes such a row also locks it first, and then looks for references.

Rows are locked in one order: private CA, account, credential, and the certificate last. So no two
transactions wait for each other.
"""

from accounts.models import User
from authorities.accounts import no_account
from authorities.models import AcmeAccount
from certctrl.errors import NotFound
from dnsproviders.models import DnsCredential


def no_credential(pk: int) -> NotFound:
    return NotFound(f"You have no DNS credential {pk}. Check the id.", field="dns_provider_id")


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
    held = AcmeAccount.objects.select_for_update(no_key=True).filter(owner=owner, retired_at=None)
    for pk in sorted(filter(None, wanted)):
        if not held.filter(pk=pk).first():
            raise no_account(pk, wanted[pk])
    credentials = DnsCredential.objects.select_for_update(no_key=True)
    if credential and not credentials.filter(pk=credential.pk, retired_at=None).first():
        raise no_credential(credential.pk)
