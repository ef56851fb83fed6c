"""What a new row refers to, held so that nobody deletes it meanwhile: locked, and looked at again under the lock.

Whoever deletes one of these rows locks it first and then looks for references. Both inside the transaction that writes.
Held in one order, so that no two wait for each other: private CA, account, credential, and the certificate last.
"""

from accounts.models import User
from authorities.accounts import no_account
from authorities.models import AcmeAccount
from certctrl.errors import NotFound
from dnsproviders.models import DnsCredential


def no_credential(pk: int) -> NotFound:
    return NotFound(f"There is no DNS credential {pk} among yours.", field="dns_provider_id")


def hold(
    owner: User,
    *,
    credential: DnsCredential | None,
    account: AcmeAccount | None,
    fallback_id: int | None,
) -> None:
    """NotFound when one of them was deleted since it was read, or is somebody else's; None is nothing to hold."""
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
