"""Nothing new refers to what is deleted meanwhile, and nothing is deleted that something new refers
to.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from authorities import accounts, privateca
from authorities.models import AcmeAccount, PrivateCA
from certctrl import clock
from certctrl.errors import Conflict, NotFound
from dnsproviders.credentials import retire_credential
from issuance import services
from issuance.api.requests import CertificateChange
from issuance.models import Certificate
from tests.issuance.services.test_races import at_once


@pytest.fixture
def private_ca(owner):
    return privateca.create_private_ca(owner, {"name": "office"})


@pytest.fixture
def certificate(world, owner):
    spec = world.spec(world.account(owner), world.credential(owner), "held.example.com")
    return services.create_certificate(owner, spec, issue=False)[0]


def create(world, account, credential):
    spec = world.spec(account, credential, "example.com")
    return services.create_certificate(account.owner, spec, issue=False)[0]


# --- It was deleted between being read and being referred to ---


@pytest.fixture
def deleted_meanwhile(account, credential, private_ca):
    AcmeAccount.objects.filter(pk=account.pk).update(retired_at=clock.now())
    type(credential).objects.filter(pk=credential.pk).update(retired_at=clock.now())
    PrivateCA.objects.filter(pk=private_ca.pk).update(status=PrivateCA.Status.RETIRED)


def test_no_certificate_is_made_with_a_deleted_account(world, account, deleted_meanwhile):
    with pytest.raises(NotFound, match=f"no ACME account {account.pk}"):
        create(world, account, None)
    assert not Certificate.objects.exists()


def test_no_certificate_is_made_with_a_deleted_credential(
    world, owner, credential, deleted_meanwhile
):
    with pytest.raises(NotFound, match=f"no DNS credential {credential.pk}"):
        create(world, world.account(owner), credential)
    assert not Certificate.objects.exists()


def test_no_certificate_is_given_a_deleted_account_or_credential(
    certificate, account, credential, deleted_meanwhile
):
    for changes in ({"account": account}, {"credential": credential}):
        with pytest.raises(NotFound):
            services.update_certificate(Certificate.objects.get(), changes)
    assert Certificate.objects.get().account_id == certificate.account_id


def test_no_certificate_falls_back_to_a_deleted_account(
    world, certificate, account, deleted_meanwhile
):
    fallback = {"fallback_account_id": account.pk}
    with pytest.raises(NotFound) as created:
        services.create_certificate(
            account.owner,
            world.spec(certificate.account, None, "example.com", **fallback),
            issue=False,
        )
    with pytest.raises(NotFound) as updated:
        services.update_certificate(Certificate.objects.get(), fallback)
    assert created.value.params == updated.value.params == {"field": "fallback_account_id"}


def test_every_column_that_is_read_by_its_name_is_one_of_a_certificate():
    columns = {field.attname for field in Certificate._meta.concrete_fields}
    assert {*services.COLUMNS, *CertificateChange.COLUMNS} <= columns


def test_no_account_is_made_at_a_deleted_ca(owner, private_ca, deleted_meanwhile, monkeypatch):
    monkeypatch.setattr(accounts, "_private_ca", lambda owner, ca_id: private_ca)  # as it was read
    before = AcmeAccount.objects.count()
    with pytest.raises(NotFound, match=f"no private CA {private_ca.pk}"):
        accounts.create_account(owner, {"ca_id": private_ca.pk})
    with pytest.raises(NotFound), transaction.atomic():
        accounts.account_of_private_ca(private_ca)
    assert AcmeAccount.objects.count() == before


# --- Both at once ---

both_at_once = [
    pytest.mark.postgres,
    pytest.mark.postgres_only,
    pytest.mark.django_db(transaction=True),
]


def somebody_waits() -> bool:
    """Does another connection of this database wait for a lock?"""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_clear_snapshot()"
        )  # else a transaction sees what it saw first
        cursor.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1"
        )
        return cursor.fetchone() is not None


def overlapping(first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """`second` begins after `first` acted and before it commits; answers what both answered or
    raised.
    """
    acted, over = threading.Event(), threading.Event()

    def hold_up() -> Any:
        with transaction.atomic():
            try:
                answer = first()
            finally:
                acted.set()
            while not over.wait(0.01) and not somebody_waits():
                pass
        return answer

    def follow() -> Any:
        acted.wait()
        try:
            return second()
        finally:
            over.set()

    return at_once(hold_up, follow)


@pytest.fixture
def acts(world, account, credential, private_ca, certificate, monkeypatch):
    """What is done at once, by name, with rows as they were read before."""
    monkeypatch.setattr(accounts, "_private_ca", lambda owner, ca_id: private_ca)
    return {
        "create with the account": lambda: create(world, account, None),
        "create with the credential": lambda: create(world, certificate.account, credential),
        "move to the account": lambda: services.update_certificate(
            certificate, {"account": account}
        ),
        "take the credential": lambda: services.update_certificate(
            certificate, {"credential": credential}
        ),
        "create with it as fallback": lambda: services.create_certificate(
            account.owner,
            world.spec(certificate.account, None, "example.com", fallback_account_id=account.pk),
            issue=False,
        )[0],
        "fall back to the account": lambda: services.update_certificate(
            certificate, {"fallback_account_id": account.pk}
        ),
        "open an account at the CA": lambda: accounts.create_account(
            certificate.owner, {"ca_id": private_ca.pk}
        ),
        "delete the account": lambda: accounts.retire_account(account),
        "delete the credential": lambda: retire_credential(credential),
        "delete the CA": lambda: accounts.retire_private_ca(private_ca),
    }


PAIRS = [
    ("create with the account", "delete the account"),
    ("create with the credential", "delete the credential"),
    ("move to the account", "delete the account"),
    ("take the credential", "delete the credential"),
    ("create with it as fallback", "delete the account"),
    ("fall back to the account", "delete the account"),
    ("open an account at the CA", "delete the CA"),
]


@pytest.mark.parametrize(("refer", "delete"), PAIRS)
class TestBothAtOnce:
    pytestmark = both_at_once

    def test_what_is_referred_to_first_is_not_deleted(self, acts, refer, delete):
        referred, deleted = overlapping(acts[refer], acts[delete])
        assert not isinstance(referred, Exception), referred
        assert isinstance(deleted, Conflict), deleted

    def test_what_is_deleted_first_is_not_referred_to(self, acts, refer, delete):
        deleted, referred = overlapping(acts[delete], acts[refer])
        assert deleted is None
        assert isinstance(referred, NotFound), referred


class TestAStagingAccountThatGoesWithItsAccount:
    pytestmark = both_at_once

    @pytest.fixture
    def staging(self, world, owner, account):
        account.staging_account = world.account(owner)
        account.save()
        return account.staging_account

    def test_stays_when_a_certificate_takes_it_into_use_first(self, world, account, staging):
        created, deleted = overlapping(
            lambda: create(world, staging, None), lambda: accounts.retire_account(account)
        )
        assert (created.account, deleted) == (staging, None)
        assert list(AcmeAccount.objects.filter(retired_at=None)) == [staging]

    def test_is_taken_into_use_no_more_once_it_went(self, world, account, staging):
        _, created = overlapping(
            lambda: accounts.retire_account(account), lambda: create(world, staging, None)
        )
        assert isinstance(created, NotFound), created
        assert not AcmeAccount.objects.filter(retired_at=None).exists()

    @pytest.fixture
    def switch_on(self, account, staging):
        AcmeAccount.objects.filter(pk=account.pk).update(ca_provider="letsencrypt")
        return lambda: (
            accounts.update_account(
                AcmeAccount.objects.get(pk=account.pk), {"staging_first": True}
            ).staging_account
        )

    def test_stays_when_it_is_switched_on_first(self, switch_on, staging):
        proves, deleted = overlapping(switch_on, lambda: accounts.retire_account(staging))
        assert proves == staging
        assert isinstance(deleted, Conflict), deleted

    def test_is_made_anew_when_it_was_deleted_first(self, switch_on, staging):
        _, proves = overlapping(lambda: accounts.retire_account(staging), switch_on)
        assert proves not in (None, staging)
        assert proves.retired_at is None


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_many_requests_at_once_to_a_new_ca_open_one_account(world, private_ca):
    def ask_for_it() -> int:
        with transaction.atomic():
            return accounts.account_of_private_ca(private_ca).pk

    assert len(set(at_once(*[ask_for_it] * 8))) == 1
    assert AcmeAccount.objects.count() == 1
