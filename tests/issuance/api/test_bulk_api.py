"""Filters, labels and bulk actions in the API."""

from urllib.parse import urlencode

import pytest

from issuance.models import Certificate, CertificateVersion

pytestmark = pytest.mark.django_db


@pytest.fixture
def two(api, guide, world) -> list[int]:
    made = [
        api.post("certificates", guide(domain=f"{name}.example.com")).data_member["id"]
        for name in "ab"
    ]
    world.deliver()
    world.settle()
    return made


def listed(caller, **query) -> list[int]:
    return [each["id"] for each in caller.get(f"certificates?{urlencode(query)}").data_member]


def outcomes(response) -> list[str]:
    return [each["outcome"] for each in response.data_member["results"]]


def test_labels_are_set_shown_listed_and_filtered(api, two):
    answer = api.put(f"certificates/{two[0]}/labels", {"labels": ["prod", "生产"]})
    assert answer.data_member == {"labels": ["prod", "生产"]}
    assert api.get(f"certificates/{two[0]}").data_member["labels"] == ["prod", "生产"]
    assert api.get("labels").data_member == {"labels": ["prod", "生产"]}
    assert listed(api, label="prod") == [two[0]]
    assert listed(api, label="nope") == []


def test_a_list_is_narrowed_by_its_query(api, two):
    assert listed(api, q="a.exam") == [two[0]]
    assert listed(api, condition="new") == []
    assert listed(api, ca_provider="custom", key_dist_policy="HYBRID") == two[::-1]
    assert listed(api, ends_before="2000-01-01") == []
    assert listed(api, q="", label="") == two[::-1]


@pytest.mark.parametrize(
    "query", [{"condition": "x"}, {"ends_before": "soon"}, {"acct_id": "x"}, {"q": "x" * 301}]
)
def test_a_filter_that_is_none_is_refused(api, two, query):
    assert api.get(f"certificates?{urlencode(query)}").status_code == 400


def test_a_dry_run_changes_nothing(api, two):
    body = {"action": "revoke", "ids": two, "dry_run": True, "reason": "superseded"}
    answer = api.post("certificates/bulk", body)
    assert answer.data_member["dry_run"] is True
    assert outcomes(answer) == ["done", "done"]
    assert not CertificateVersion.objects.exclude(revoke_asked_at=None).exists()


def test_an_action_takes_ids_or_a_filter(api, two):
    body = {"action": "renewal_off"}
    assert api.post("certificates/bulk", body).status_code == 400
    both = body | {"ids": two, "filter": {"q": "a."}}
    assert api.post("certificates/bulk", both).status_code == 400
    answer = api.post("certificates/bulk", body | {"filter": {"q": "a.exam"}})
    assert [each["id"] for each in answer.data_member["results"]] == [two[0]]
    assert Certificate.objects.get(auto_renew=False).pk == two[0]
    assert api.post("certificates/bulk", body | {"filter": {"q": "none"}}).status_code == 400
    assert api.post("certificates/bulk", body | {"filter": {"condition": "x"}}).status_code == 400


def test_a_filter_with_an_unknown_member_is_refused_by_its_name(api, two):
    body = {"action": "renewal_off", "filter": {"q": "a.exam", "labels_": "prod"}}
    answer = api.post("certificates/bulk", body)
    assert answer.status_code == 400
    assert "labels_" in str(answer.error)
    assert not Certificate.objects.filter(auto_renew=False).exists()


def test_the_same_idempotency_key_has_the_same_results(api, two):
    body = {"action": "renewal_off", "ids": two}
    first = api.post("certificates/bulk", body, HTTP_IDEMPOTENCY_KEY="k")
    again = api.post("certificates/bulk", body, HTTP_IDEMPOTENCY_KEY="k")
    assert outcomes(first) == outcomes(again) == ["done", "done"]
    other = api.post("certificates/bulk", body | {"ids": two[:1]}, HTTP_IDEMPOTENCY_KEY="k")
    assert other.status_code == 409


def test_certificates_of_another_owner_are_not_there(bobs, api, two):
    body = {"action": "renewal_off", "ids": two}
    assert bobs.post("certificates/bulk", body).status_code == 404
    assert bobs.put(f"certificates/{two[0]}/labels", {"labels": ["x"]}).status_code == 404
    assert bobs.get("labels").data_member == {"labels": []}
    assert not Certificate.objects.filter(auto_renew=False).exists()


def test_a_key_needs_the_permission_of_the_action(keyed, two):
    reader = keyed("certificates:*[read]")
    assert reader.post("certificates/bulk", {"action": "renew", "ids": two}).status_code == 403
    issuer = keyed("certificates:*[read,issue]")
    assert issuer.post("certificates/bulk", {"action": "renew", "ids": two}).status_code == 200
    switch = {"action": "renewal_off", "ids": two}
    assert issuer.post("certificates/bulk", switch).status_code == 403
