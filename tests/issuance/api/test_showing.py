"""Certificates in lists and alone: five statuses, pages, and every field except the key."""

import base64
from datetime import timedelta

import pytest
from cryptography import x509
from django.db import connection
from django.test.utils import CaptureQueriesContext

from authorities.errors import Refused
from issuance.models import Certificate, CertificateVersion
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db


def status(api, pk):
    shown = api.get(f"certificates/{pk}").data_member["status"]
    listed = next(row["status"] for row in api.get("certificates").data_member if row["id"] == pk)
    assert shown == listed
    return shown


# --- the five statuses ---


def test_never_issued_yet_is_pending(world, api, guide, reference):
    record = api.post("certificates", reference(domain_name="example.org")).data_member["id"]
    attempt = api.post("certificates", guide()).data_member["id"]
    assert (status(api, record), status(api, attempt)) == ("pending", "pending")


def test_a_failed_attempt_that_is_tried_again_is_still_pending(world, api, guide):
    world.ca.problems["new_order"] = [Refused("ca_caa", "CAA forbids it.")]
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    assert api.get(f"certificates/{pk}/issue-result").data_member["status"] == "FAILED"
    assert status(api, pk) == "pending"
    assert api.get(f"certificates/{pk}").data_member["renew_at"] > world.time.timestamp()


def test_a_failure_without_a_retry_stays_failed_until_a_person_starts_it(world, api, guide):
    world.ca.problems["new_order"] = [Refused("ca_rejected_identifier", "Never.", permanent=True)]
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    assert status(api, pk) == "failed"
    api.post(f"certificates/{pk}/issues")
    assert status(api, pk) == "pending"
    world.deliver()
    assert status(api, pk) == "active"


def test_issued_is_active_until_it_is_expired(world, api, issued):
    assert status(api, issued.pk) == "active"
    world.advance(91 * 86400)
    assert status(api, issued.pk) == "expired"


def test_active_stays_active_while_it_is_renewed(api, issued):
    api.post(f"certificates/{issued.pk}/renew")
    assert status(api, issued.pk) == "active"


def test_revoked_is_revoked_until_it_is_renewed(world, api, issued):
    api.post(f"certificates/{issued.pk}/revoke")
    assert status(api, issued.pk) == "active", "only asked for"
    world.deliver()
    assert status(api, issued.pk) == "revoked"
    api.post(f"certificates/{issued.pk}/renew")
    world.deliver()
    assert status(api, issued.pk) == "active"


# --- detail ---


def test_most_details_are_the_certificate_its_request_and_its_orders(api, issued):
    plain = api.get(f"certificates/{issued.pk}").data_member
    most = api.get(f"certificates/{issued.pk}?detail=most").data_member
    assert {name: most[name] for name in plain} == plain
    assert set(most) - set(plain) == {"cert", "csr", "dhparam", "der", "orders"}
    assert most["cert"] == issued.current.chain_pem
    assert "BEGIN CERTIFICATE REQUEST" in most["csr"]
    leaf = x509.load_der_x509_certificate(base64.b64decode(most["der"]))
    assert f"{leaf.serial_number:x}" == most["serial_number"]
    assert [order["state"] for order in most["orders"]] == ["issued"]


def test_most_details_of_a_record_are_empty(api, reference):
    pk = api.post("certificates", reference()).data_member["id"]
    most = api.get(f"certificates/{pk}?detail=most").data_member
    assert (most["cert"], most["csr"], most["der"], most["orders"]) == ("", "", "", [])


def test_no_answer_but_the_export_holds_a_private_key(api, issued):
    for path in (
        "certificates",
        f"certificates/{issued.pk}",
        f"certificates/{issued.pk}?detail=most",
        "acme-accounts",
    ):
        assert b"PRIVATE" not in api.get(path).content
    version = CertificateVersion.objects.get()
    der = api.get(f"certificates/{issued.pk}?detail=most").data_member["der"]
    assert bytes(version.key.ciphertext) not in base64.b64decode(der)


# --- lists ---


@pytest.fixture
def make_many(world, account, credential):
    def make(count, **fields):
        for number in range(Certificate.objects.count(), count):
            world.create(account, credential, f"n{number}.example.com", **fields)

    return make


def test_lists_are_bare_arrays_newest_first_in_pages(api, make_many):
    make_many(5)
    ids = [row["id"] for row in api.get("certificates").data_member]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 5
    assert [row["id"] for row in api.get("certificates?offset=1&limit=2").data_member] == ids[1:3]
    assert api.get("certificates?offset=5").data_member == []


def test_a_page_holds_a_hundred_rows_by_default(api, make_many):
    make_many(101)
    assert len(api.get("certificates").data_member) == 100


def test_the_total_is_sent_on_request(api, make_many):
    make_many(3)
    assert "X-Total-Count" not in api.get("certificates?limit=1").headers
    assert api.get("certificates?limit=1&total=1").headers["X-Total-Count"] == "3"


def test_the_list_of_an_account_holds_its_certificates_only(world, api, owner, issued, credential):
    other = world.account(owner)
    world.create(other, credential, "example.org")
    listed = api.get(f"acme-accounts/{other.pk}/certificates").data_member
    assert [row["domain"] for row in listed] == ["example.org"]
    refused(api.get("acme-accounts/987654/certificates"), 404)


def queries_of(api, path, rows):
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert len(api.get(path).data_member) == rows
    return len(captured)


def test_a_list_of_certificates_costs_the_same_queries_at_any_length(world, api, make_many):
    make_many(1)
    world.deliver()
    one = queries_of(api, "certificates", 1)
    make_many(10)
    world.deliver()
    make_many(20)
    assert queries_of(api, "certificates", 20) == one
    assert one <= 7


def test_a_list_reads_an_account_once_and_no_attempt_that_has_ended(world, api, make_many):
    make_many(3)
    world.deliver()
    with CaptureQueriesContext(connection) as captured:
        assert len(api.get("certificates").data_member) == 3
    ran = [each["sql"] for each in captured]
    assert sum('FROM "authorities_acmeaccount"' in sql for sql in ran) == 2  # and of the versions
    assert not any('JOIN "authorities_acmeaccount"' in sql for sql in ran)
    assert not any('JOIN "issuance_issuance"' in sql for sql in ran)


def test_the_other_lists_cost_the_same_queries_too(world, api, owner, issued):
    api.post("cas", {"name": "one"})
    paths = {
        "acme-accounts": 1,
        "dns-providers": 1,
        "cas": 1,
        f"certificates/{issued.pk}/issues": 1,
    }
    before = {path: queries_of(api, path, rows) for path, rows in paths.items()}
    for _ in range(4):
        world.account(owner)
        world.credential(owner)
        api.post("cas", {"name": "more"})
        api.post(f"certificates/{issued.pk}/renew")
        world.deliver()
    assert {path: queries_of(api, path, 5) for path in paths} == before


# --- deletion ---


def test_a_deleted_certificate_is_gone_and_its_attempt_is_ended(world, api, guide):
    world.zone.hides = True
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    assert api.delete(f"certificates/{pk}").status_code == 204
    refused(api.get(f"certificates/{pk}"), 404)
    refused(api.delete(f"certificates/{pk}"), 404)
    assert api.get("certificates").data_member == []
    world.settle()
    assert world.zone.txt() == []


def test_a_deleted_certificate_is_never_renewed(world, api, issued):
    api.delete(f"certificates/{issued.pk}")
    world.advance(timedelta(days=80).total_seconds())
    world.sweep()
    assert issued.issuances.count() == 1
