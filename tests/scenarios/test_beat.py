"""Trouble in one part of the sweep delays no other part."""

import pytest
from django.core.cache import cache

from authorities.models import AcmeAccount
from certctrl.turns import SWEPT
from dnsproviders.models import TxtRecord
from issuance.beat import sweep
from tests.scenarios.runner import Scenario

pytestmark = pytest.mark.django_db


def test_a_section_of_the_sweep_that_raises(
    scenario: Scenario, account, credential, monkeypatch
) -> None:
    """Finding the records to remove fails. Accounts are registered, and the sweep counts.

    Each failure is logged with the number of failures in a row.
    """

    def fail(*given):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("issuance.challenges.txtrecords.needed_records", fail)
    TxtRecord.objects.create(credential=credential, name="n", value="v", wake_at=scenario.time)
    AcmeAccount.objects.update(url="", status=AcmeAccount.Status.PENDING, wake_at=scenario.time)
    logged = []
    monkeypatch.setattr(sweep.logger, "exception", lambda *said, **keys: logged.append(keys))
    scenario.run(10)
    assert {each["section"] for each in logged} == {"TxtRecord"}
    assert [each["failures"] for each in logged] == list(range(1, len(logged) + 1))
    assert AcmeAccount.objects.get().status == AcmeAccount.Status.VALID
    assert cache.get(SWEPT)
