"""A preflight before there is a certificate."""

import pytest

from issuance.models import Certificate
from tests import factories
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db


def test_a_request_is_checked_and_nothing_is_stored(api, guide):
    found = api.post("certificates/preflight", guide())
    assert found.status_code == 200
    assert set(found.data_member) == {
        *("ok", "findings", "same_names", "limit"),
        *("zones", "expected"),
    }
    assert (found.data_member["same_names"], found.data_member["limit"]) == ([], None)
    assert Certificate.objects.count() == 0


def test_the_zones_of_the_names_are_told(api, guide, world):
    found = api.post("certificates/preflight", guide(sans=["*.example.com"])).data_member
    (zone,) = found["zones"]
    assert (zone["zone"], zone["names"]) == ("example.com", ["example.com", "*.example.com"])
    assert (zone["records"], zone["proved_by"]) == (["_acme-challenge.example.com"], None)
    assert zone["is_seen"] is True
    assert found["expected"] is None
    api.post("certificates", guide())
    world.deliver()
    world.settle()
    found = api.post("certificates/preflight", guide()).data_member
    assert found["zones"][0]["proved_by"] == guide()["dns_provider_id"]
    assert found["expected"]["not_after"] > found["expected"]["renew_at"]


def test_names_that_no_record_proves_have_no_zones(api, guide, alice):
    device = factories.device(alice)
    by_agent = guide(verify_method="http-01", verify_device_id=device.pk)
    assert api.post("certificates/preflight", by_agent).data_member["zones"] == []


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
