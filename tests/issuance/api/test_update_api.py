"""Changing a certificate: settings, policy, credential, account; never its names."""

import pytest

from issuance.models import Certificate, Issuance
from keystore.models import KeyWrap
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def put(api, issued):
    return lambda **changes: api.put(f"certificates/{issued.pk}", changes)


def test_given_settings_change_and_the_others_stay(api, put, issued):
    before = api.get(f"certificates/{issued.pk}").data_member
    changed = put(organization="Example Ltd", renew_days_before=20)
    assert changed.status_code == 200
    after = changed.data_member
    differing = {name for name in before if before[name] != after[name]}
    assert (
        {"organization", "renew_days_before", "renew_at"}
        <= differing
        <= {
            "organization",
            "renew_days_before",
            "renew_at",
            "renewal",
            "updated_at",
        }
    )
    assert after["renew_at"] <= after["not_after"] - 20 * 86400


def test_without_auto_renew_no_renewal_is_scheduled_even_after_a_failure(put, issued):
    Certificate.objects.update(failures=2)
    assert put(auto_renew=False).data_member["renew_at"] is None


@pytest.mark.parametrize("query", ["", "?detail=most"])
def test_the_response_of_a_get_may_be_sent_back_whole(api, put, issued, query):
    before = api.get(f"certificates/{issued.pk}{query}").data_member
    assert put(**before).status_code == 200
    after = api.get(f"certificates/{issued.pk}{query}").data_member
    assert {name for name in before if before[name] != after[name]} <= {
        "updated_at",
        "renew_at",
        "renewal",
    }
    assert Issuance.objects.count() == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"domain": "example.org"},
        {"domain_name": "example.org"},
        {"sans": ["*.example.com", "other.example.org"]},
        {"sans": []},
    ],
)
def test_other_names_are_another_certificate(put, changes):
    before = rows()
    assert "Create one with the other names" in refused(put(**changes), 400)
    assert rows() == before


def test_the_same_names_in_another_spelling_and_order_are_no_change(api, guide):
    pk = api.post("certificates", guide(sans=["a.example.com", "b.example.com"])).data_member["id"]
    assert (
        api.put(f"certificates/{pk}", {"sans": ["B.example.com.", "a.example.com"]}).status_code
        == 200
    )
    assert Certificate.objects.get().names == ["example.com", "a.example.com", "b.example.com"]


def test_another_key_size_is_used_from_the_next_issuance_on(world, api, put, issued):
    assert put(key_size=384).data_member["key_size"] == 384
    assert Issuance.objects.count() == 1
    api.post(f"certificates/{issued.pk}/renew")
    world.deliver()
    assert api.get(f"certificates/{issued.pk}").data_member["key_size"] == 384


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"action": "verify-domain"}, 400, "action"),
        ({"action": "create"}, 400, "action"),
        ({"action": None}, 400, "action"),
        ({"key_size": 1024}, 400, "key_size"),
        ({"key_size": 0}, 400, "key_size"),
        ({"key_type": "rsa", "key_size": 256}, 400, "key_size"),
        ({"acme_account_id": 987654}, 404, "acme_account_id"),
        ({"dns_provider_id": 987654}, 404, "dns_provider_id"),
        ({"key_dist_policy": "NOBODY"}, 400, "key_dist_policy"),
        ({"renew_days_before": 0}, 400, "renew_days_before"),
        ({"country": "SWE"}, 400, "country"),
    ],
)
def test_a_wrong_change_is_refused_by_its_member_and_changes_nothing(
    api, put, issued, changes, status, field
):
    before = rows()
    shown = api.get(f"certificates/{issued.pk}").data_member
    refused(put(**changes), status, field)
    assert rows() == before
    assert api.get(f"certificates/{issued.pk}").data_member == shown


def test_device_required_and_export_exclude_each_other(api, reference):
    pk = api.post("certificates", reference(server_decrypt_export=True)).data_member["id"]
    refused(
        api.put(f"certificates/{pk}", {"key_dist_policy": "DEVICE_REQUIRED"}),
        400,
        "server_decrypt_export",
    )


def test_an_issued_key_is_not_shut_away_from_everybody(put, issued):
    put(server_decrypt_export=False)
    assert "Assign one" in refused(put(key_dist_policy="DEVICE_REQUIRED"), 409)
    assert KeyWrap.objects.filter(envelope=issued.current.key).count() == 1


def test_the_key_that_there_is_follows_the_policy(put, issued):
    assert put(key_dist_policy="MASTER_ONLY").data_member["key_dist_policy"] == "MASTER_ONLY"
    issued.current.key.refresh_from_db()
    assert issued.current.key.policy == "MASTER_ONLY"


def test_a_credential_can_be_changed_and_is_used_next_time(world, api, put, owner, issued):
    other = world.credential(owner)
    assert put(dns_provider_id=other.pk).data_member["dns_provider_id"] == other.pk
    assert Issuance.objects.count() == 1
    api.post(f"certificates/{issued.pk}/renew")
    assert Issuance.objects.latest("pk").credential == other


# --- the create that made it, sent again ---


@pytest.mark.parametrize(
    "changes", [{"key_size": 384}, {"server_decrypt_export": True}, {"organization": "Example"}]
)
def test_a_repeated_create_returns_what_it_asks_for_and_no_changed_one(api, reference, changes):
    first = api.post("certificates", reference()).data_member
    assert api.put(f"certificates/{first['id']}", changes).status_code == 200
    second, third = (api.post("certificates", reference()).data_member for _ in range(2))
    assert second["id"] == third["id"] != first["id"]
    assert {name: second[name] for name in changes} == {name: first[name] for name in changes}


def test_a_repeated_create_after_a_move_uses_the_account_that_it_names(
    world, api, guide, owner, account
):
    world.zone.hides = True
    first = api.post("certificates", guide()).data_member
    api.put(f"certificates/{first['id']}", {"acme_account_id": world.account(owner).pk})
    second = api.post("certificates", guide()).data_member
    assert second["acme_account_id"] == account.pk
    assert Issuance.objects.get(pk=second["issue_history_id"]).account == account


def test_a_repeated_create_after_an_empty_change_makes_no_certificate(api, reference):
    made = api.post("certificates", reference()).data_member
    assert api.put(f"certificates/{made['id']}", made | {"auto_renew": True}).status_code == 200
    assert api.post("certificates", reference()).data_member["id"] == made["id"]


# --- another account ---


def test_a_change_of_account_issues_again(world, api, put, owner, issued):
    production = world.account(owner)
    answer = put(acme_account_id=production.pk)
    assert answer.data_member["acme_account_id"] == production.pk
    attempt = Issuance.objects.latest("pk")
    assert answer.data_member["issue_history_id"] == attempt.pk
    world.deliver()
    issued.refresh_from_db()
    assert issued.current.account == production


def test_the_same_account_again_issues_nothing(put, issued):
    put(acme_account_id=issued.account_id)
    assert Issuance.objects.count() == 1


def test_another_account_ends_the_attempt_that_is_open_at_the_old_one(world, api, guide, owner):
    world.zone.hides = True
    made = api.post("certificates", guide()).data_member
    world.deliver()
    production = world.account(owner)
    answer = api.put(f"certificates/{made['id']}", {"acct_id": production.pk}).data_member
    assert answer["issue_history_id"] != made["issue_history_id"]
    world.zone.hides = False
    world.deliver()
    world.settle()
    history = api.get(f"certificates/{made['id']}/issues").data_member
    assert [row["status"] for row in history] == ["SUCCESS", "CANCELLED"]
    assert Certificate.objects.get().current.account == production
    assert world.zone.txt() == []


def test_while_the_old_ca_signs_the_account_stays(world, api, guide, owner):
    world.ca.processing_reads = 5
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    answer = api.put(
        f"certificates/{pk}", {"acct_id": world.account(owner).pk, "organization": "Other"}
    )
    assert answer.error["key"] == "CERTS::TOO_LATE"
    shown = api.get(f"certificates/{pk}").data_member
    assert (shown["acct_id"], shown["organization"]) == (Issuance.objects.get().account_id, "")


def test_verify_domain_says_that_there_is_no_service_zone(put):
    assert "dns_provider_id" in refused(put(action="verify_domain"), 400, "action")
