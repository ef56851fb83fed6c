"""The summary of the API."""

import pytest

pytestmark = pytest.mark.django_db


def test_the_summary_has_the_numbers_and_ninety_days(api, guide, world):
    api.post("certificates", guide())
    shown = api.get("summary").data_member
    assert (shown["total"], shown["in_progress"], shown["soonest_end"]) == (1, 1, None)
    assert len(shown["days"]) == 90


def test_a_key_for_some_certificates_reads_no_summary(keyed, api, guide):
    made = api.post("certificates", guide()).data_member["id"]
    assert keyed("certificates:*[read]").get("summary").status_code == 200
    assert keyed(f"certificates:{made}[read]").get("summary").status_code == 403


def test_the_summary_of_another_owner_has_other_numbers(bobs, api, guide):
    api.post("certificates", guide())
    assert bobs.get("summary").data_member["total"] == 0
