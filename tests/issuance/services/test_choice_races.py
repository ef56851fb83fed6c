"""Two requests at once, over a real PostgreSQL."""

import pytest

from authorities import accounts
from authorities.models import AcmeAccount
from issuance import services
from issuance.beat import renewals
from issuance.models import Certificate, Issuance
from tests.issuance.failing import fail, issued, read
from tests.issuance.services.test_races import at_once

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.postgres_only,
    pytest.mark.django_db(transaction=True),
]


def test_staging_first_set_by_many_at_once_makes_one_account(world, account):
    AcmeAccount.objects.update(ca_provider="letsencrypt")

    def switch_on() -> int | None:
        mine = AcmeAccount.objects.get(pk=account.pk)
        return accounts.update_account(mine, {"staging_first": True}).staging_account_id

    made = at_once(*[switch_on] * 8)
    assert len(set(made)) == 1
    assert AcmeAccount.objects.count() == 2


def test_a_person_and_the_scan_at_once_open_one_attempt(world, account, credential, owner):
    """It is the scan's proof or the person's attempt at production, whichever is first."""
    staging = world.account(owner, name="sandbox", ca_provider="letsencrypt_staging")
    AcmeAccount.objects.filter(pk=account.pk).update(staging_first=True, staging_account=staging)
    certificate = issued(world, account, credential)
    fail(world, 3)
    Certificate.objects.update(renew_at=world.time)
    at_once(lambda: services.issue(read(certificate)), renewals.scan_renewals.run)
    assert Issuance.objects.open().count() == 1
    assert read(certificate).renew_at is None
