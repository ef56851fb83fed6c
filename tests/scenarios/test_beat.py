"""Trouble in one part of the sweep delays no other part."""

import pytest
from django.core.cache import cache

from authorities.models import AcmeAccount
from certctrl.turns import SWEPT
from dnsproviders.models import TxtRecord
from tests.scenarios.runner import Scenario

pytestmark = pytest.mark.django_db


def test_a_section_of_the_sweep_that_raises(
    scenario: Scenario, account, credential, monkeypatch
) -> None:
    """Finding the records to remove fails. Accounts are registered, and the sweep counts."""

    def fail(*given):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("issuance.challenges.txtrecords.needed_records", fail)
    TxtRecord.objects.create(credential=credential, name="n", value="v", wake_at=scenario.time)
    AcmeAccount.objects.update(url="", status=AcmeAccount.Status.PENDING, wake_at=scenario.time)
    scenario.run(10)
    scenario.errors.clear()
    assert AcmeAccount.objects.get().status == AcmeAccount.Status.VALID
    assert cache.get(SWEPT)
