"""What a new row refers to, held so that nobody deletes it meanwhile: locked, and looked at again under the lock.

Whoever deletes one of these rows locks it first and then looks for references. Both inside the transaction that writes.
Held in one order, so that no two wait for each other: private CA, account, credential, and the certificate last.
"""

from certctrl.errors import NotFound
from dnsproviders.models import DnsCredential
from issuance.models import AcmeAccount, PrivateCA


def no_private_ca(pk: int) -> NotFound:
    return NotFound(f"There is no private CA {pk} among yours.", field="ca_id")


def no_account(pk: int) -> NotFound:
    return NotFound(f"There is no ACME account {pk} among yours.", field="acme_account_id")


def no_credential(pk: int) -> NotFound:
    return NotFound(f"There is no DNS credential {pk} among yours.", field="dns_provider_id")


# Without the key: workers that write rows of attempts are not held up.


def hold_private_ca(private_ca: PrivateCA) -> None:
    """NotFound when it was deleted since it was read."""
    rows = PrivateCA.objects.select_for_update(no_key=True)
    if not rows.filter(pk=private_ca.pk, status=PrivateCA.Status.ACTIVE).first():
        raise no_private_ca(private_ca.pk)


def hold(credential: DnsCredential | None, *accounts: AcmeAccount | None) -> None:
    """NotFound when one of them was deleted since it was read; None is nothing to hold."""
    held = AcmeAccount.objects.select_for_update(no_key=True)
    for account in sorted(filter(None, accounts), key=lambda account: account.pk):
        if not held.filter(pk=account.pk, retired_at=None).first():
            raise no_account(account.pk)
    credentials = DnsCredential.objects.select_for_update(no_key=True)
    if credential and not credentials.filter(pk=credential.pk, retired_at=None).first():
        raise no_credential(credential.pk)
