"""A preflight before there is a certificate."""

import pytest

from issuance.models import Certificate
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db


def test_a_request_is_checked_and_nothing_is_stored(api, guide):
    found = api.post("certificates/preflight", guide())
    assert found.status_code == 200
    assert set(found.data_member) == {"ok", "findings", "same_names", "limit"}
    assert (found.data_member["same_names"], found.data_member["limit"]) == ([], None)
    assert Certificate.objects.count() == 0


def test_the_certificates_with_the_same_names_are_named(api, guide):
    made = api.post("certificates", guide()).data_member["id"]
    found = api.post("certificates/preflight", guide()).data_member
    assert found["same_names"] == [made]
    others = guide(sans=["other.example.com"])
    assert api.post("certificates/preflight", others).data_member["same_names"] == []


def test_a_request_that_create_refuses_is_refused_here_too(api, guide):
    refused(api.post("certificates/preflight", guide(domain="bad_name.org")), 400, "domain")
    refused(api.post("certificates/preflight", guide(acme_account_id=999)), 404)


def test_a_key_needs_the_right_to_issue(keyed, guide):
    answer = keyed("certificates:*[read]").post("certificates/preflight", guide())
    assert answer.status_code == 403
