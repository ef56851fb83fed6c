"""A repeated request with its Idempotency-Key returns the first row. Another one is 409."""

import pytest

from issuance.models import Certificate, Issuance
from tests.issuance.api.calling import Caller, refused, rows

pytestmark = pytest.mark.django_db
KEY = {"HTTP_IDEMPOTENCY_KEY": "3fa1"}


def test_a_create_answers_with_what_it_made_even_after_that_was_issued(world, api, guide):
    first = api.post("certificates", guide(), **KEY)
    world.deliver()
    again = api.post("certificates", guide(), **KEY)
    assert again.status_code == 201
    assert (again.data_member["id"], again.data_member["issue_history_id"]) == (
        first.data_member["id"],
        first.data_member["issue_history_id"],
    )
    assert again.data_member["status"] == "active"
    assert Certificate.objects.count() == Issuance.objects.count() == 1


def test_another_body_under_the_key_is_409_and_leaves_nothing(api, guide):
    api.post("certificates", guide(), **KEY)
    before = rows()
    answer = api.post("certificates", guide(domain="example.org"), **KEY)
    assert "Choose a new one" in refused(answer, 409)
    assert answer.error["key"] == "GENERAL::IDEMPOTENCY_KEY_REUSED"
    assert rows() == before


def test_the_order_of_the_members_is_no_other_body(api, guide):
    api.post("certificates", guide(), **KEY)
    assert api.post("certificates", dict(reversed(guide().items())), **KEY).status_code == 201
    assert Certificate.objects.count() == 1


@pytest.mark.parametrize("verb", ["issues", "renew"])
def test_issues_and_renew_start_one_attempt_for_a_key(world, api, issued, verb):
    first = api.post(f"certificates/{issued.pk}/{verb}", **KEY).data_member
    world.deliver()
    again = api.post(f"certificates/{issued.pk}/{verb}", **KEY).data_member
    assert again == first | {"status": "SUCCESS"}
    assert Issuance.objects.count() == 2


def test_the_key_of_one_call_is_refused_for_another(api, issued, guide):
    api.post(f"certificates/{issued.pk}/issues", **KEY)
    refused(api.post(f"certificates/{issued.pk}/renew", **KEY), 409)
    refused(api.post("certificates", guide(domain="example.org"), **KEY), 409)


def test_both_prefixes_name_the_same_call(client_of, alice, guide):
    first = Caller(client_of(alice)).post("certificates", guide(), **KEY).data_member
    again = Caller(client_of(alice), f"/apiv1/users/{alice.pk}").post(
        "certificates", guide(), **KEY
    )
    assert again.data_member["id"] == first["id"]


def test_two_people_may_choose_the_same_key(world, api, bobs, bob, guide):
    api.post("certificates", guide(), **KEY)
    theirs = guide(acme_account_id=world.account(bob).pk, dns_provider_id=world.credential(bob).pk)
    assert bobs.post("certificates", theirs, **KEY).status_code == 201
    assert Certificate.objects.count() == 2


def test_a_request_that_was_refused_does_not_use_up_its_key(api, guide):
    before = rows()
    refused(api.post("certificates", guide(domain="exa mple"), **KEY), 400)
    refused(api.post("certificates", guide(key_type="rsa", key_size=256), **KEY), 400)
    assert rows() == before
    assert api.post("certificates", guide(), **KEY).status_code == 201


@pytest.mark.parametrize("key", ["k" * 256, "a\tb", "\x80"])
def test_a_key_that_is_none_is_refused(api, guide, key):
    before = rows()
    refused(api.post("certificates", guide(), HTTP_IDEMPOTENCY_KEY=key), 400, "Idempotency-Key")
    assert rows() == before


def test_a_key_outlives_what_it_made(api, guide):
    pk = api.post("certificates", guide(), **KEY).data_member["id"]
    api.delete(f"certificates/{pk}")
    refused(api.post("certificates", guide(), **KEY), 409)
    assert api.post("certificates", guide(), HTTP_IDEMPOTENCY_KEY="another").status_code == 201
