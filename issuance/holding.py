"""What a new row refers to, held so that nobody deletes it meanwhile: locked, and looked at again under the lock.

Whoever deletes one of these rows locks it first and then looks for references. Both inside the transaction that writes.
Held in one order, so that no two wait for each other: private CA, account, credential, and the certificate last.
"""

from accounts.models import User
from certctrl.errors import NotFound
from dnsproviders.models import DnsCredential
from issuance.models import AcmeAccount, PrivateCA


def no_private_ca(pk: int) -> NotFound:
    return NotFound(f"There is no private CA {pk} among yours.", field="ca_id")


def no_account(pk: int, field: str = "acme_account_id") -> NotFound:
    return NotFound(f"There is no ACME account {pk} among yours.", field=field)


def no_credential(pk: int) -> NotFound:
    return NotFound(f"There is no DNS credential {pk} among yours.", field="dns_provider_id")


# Without the key: workers that write rows of attempts are not held up.


def hold_private_ca(private_ca: PrivateCA) -> None:
    """NotFound when it was deleted since it was read."""
    rows = PrivateCA.objects.select_for_update(no_key=True)
    if not rows.filter(pk=private_ca.pk, status=PrivateCA.Status.ACTIVE).first():
        raise no_private_ca(private_ca.pk)


def hold(
    owner: User, *, credential: DnsCredential | None, account: AcmeAccount | None, fallback_id: int | None
) -> None:
    """NotFound when one of them was deleted since it was read, or is somebody else's; None is nothing to hold."""
    wanted = {fallback_id: "fallback_account_id", account.pk if account else None: "acme_account_id"}
    held = AcmeAccount.objects.select_for_update(no_key=True).filter(owner=owner, retired_at=None)
    for pk in sorted(filter(None, wanted)):
        if not held.filter(pk=pk).first():
            raise no_account(pk, wanted[pk])
    credentials = DnsCredential.objects.select_for_update(no_key=True)
    if credential and not credentials.filter(pk=credential.pk, retired_at=None).first():
        raise no_credential(credential.pk)
