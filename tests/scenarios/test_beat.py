"""Trouble in one part of the sweep, or with one row, delays no other part and no other row."""

import copy

import pytest
from django.core.cache import cache
from django.db.models.base import ModelState

from authorities.models import AcmeAccount
from certctrl.turns import SWEPT, Trouble
from dnsproviders.models import TxtRecord
from issuance.models import Certificate, Issuance, RenewalInfo, digest
from tests.scenarios.outside import slow
from tests.scenarios.runner import Scenario

pytestmark = pytest.mark.django_db
WINDOWS = 400


def copies(row, count: int, **unique: str):
    """Return unsaved copies of a row. Each value of `unique` gets a number."""
    for number in range(count):
        made = copy.copy(row)
        made.pk, made._state = None, ModelState()
        for name, value in unique.items():
            setattr(made, name, f"{value}{number}")
        yield made


@pytest.fixture
def windows(scenario: Scenario, account, credential) -> list[RenewalInfo]:
    """Many issued certificates whose renewal windows are to be polled now."""
    scenario.ca.offers_renewal_info = True
    [name] = scenario.issue(account, credential, ["www.example.com"])
    row = Certificate.objects.get(domain=name)
    version, attempt = row.current, row.issuances.get()
    window = scenario.ca.windows[version.ari_id]
    certificates = Certificate.objects.bulk_create(
        copies(row, WINDOWS, public_id="public", names_key="key", ask="ask")
    )
    made, versions = [], []
    for certificate, issuance in zip(certificates, copies(attempt, WINDOWS), strict=True):
        issuance.certificate, issuance.order_url = certificate, digest(certificate.pk)
        made.append(issuance)
    Issuance.objects.bulk_create(made)
    for issuance, each in zip(made, copies(version, WINDOWS, ari_id="ari"), strict=True):
        each.certificate, each.issuance = issuance.certificate, issuance
        each.serial = each.fingerprint = digest(issuance.pk)[:40]
        versions.append(each)
    type(version).objects.bulk_create(versions)
    for certificate, each in zip(certificates, versions, strict=True):
        certificate.current = each
        scenario.ca.windows[each.ari_id] = window
    Certificate.objects.bulk_update(certificates, ["current"])
    now = scenario.scheduler.now()
    return RenewalInfo.objects.bulk_create(
        RenewalInfo(version=each, fraction=0.5, wake_at=now) for each in versions
    )


def unread(windows: list[RenewalInfo]) -> int:
    return RenewalInfo.objects.filter(pk__gte=windows[0].pk, checked_at=None).count()


def test_one_failed_poll_of_a_renewal_window(scenario: Scenario, windows) -> None:
    """One of 400 polls fails once, and the others succeed. All are read as fast as it goes."""
    scenario.outside.manners["ca.renewal_info"] = slow(1)
    scenario.ca.problems["renewal_info"] = [Trouble("ca_error", "The CA answered 500.")]
    since = scenario.scheduler.passed
    while unread(windows) and scenario.scheduler.passed < since + 600:
        scenario.run(scenario.scheduler.passed + 5)
    assert scenario.scheduler.passed - since <= 90


def test_a_section_of_the_sweep_that_raises(
    scenario: Scenario, account, credential, monkeypatch
) -> None:
    """Finding the records to remove fails. Accounts are registered, and the sweep counts."""

    def fail(*given):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("issuance.challenges.dns01.needed_records", fail)
    TxtRecord.objects.create(credential=credential, name="n", value="v", wake_at=scenario.time)
    AcmeAccount.objects.update(url="", status=AcmeAccount.Status.PENDING, wake_at=scenario.time)
    scenario.run(10)
    scenario.errors.clear()
    assert AcmeAccount.objects.get().status == AcmeAccount.Status.VALID
    assert cache.get(SWEPT)
