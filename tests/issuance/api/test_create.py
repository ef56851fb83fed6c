"""Create a certificate: both spellings, normalized values, and the response."""

import pytest

from dnsproviders.models import DnsCredential
from issuance.models import Certificate, Issuance
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db


def test_the_guides_spelling_issues_at_once(world, api, guide):
    answer = api.post("certificates", guide(sans=["*.example.com"]))
    assert answer.status_code == 201
    made = answer.data_member
    assert (made["domain"], made["sans"], made["status"]) == (
        "example.com",
        ["*.example.com"],
        "pending",
    )
    assert made["issuance"]["issue_history_id"] == made["issue_history_id"]
    world.deliver()
    shown = api.get(f"certificates/{made['id']}").data_member
    assert (shown["status"], shown["issuance"]) == ("active", None)
    world.settle()
    assert world.zone.txt() == []


def test_the_references_spelling_makes_a_record_and_issues_starts_it(world, api, reference):
    made = api.post("certificates", reference()).data_member
    assert (made["status"], made["issuance"]) == ("pending", None)
    assert "issue_history_id" not in made
    assert Issuance.objects.count() == 0
    started = api.post(f"certificates/{made['id']}/issues")
    assert started.status_code == 200
    assert started.data_member == {
        "issue_history_id": Issuance.objects.get().pk,
        "status": "PENDING",
    }
    world.deliver()
    assert api.get(f"certificates/{made['id']}").data_member["status"] == "active"


@pytest.mark.parametrize("spelling", ["guide", "reference"])
def test_both_prefixes_behave_alike(client_of, alice, spelling, request):
    body = request.getfixturevalue(spelling)
    mine = Caller(client_of(alice), f"/apiv1/users/{alice.pk}")
    made = mine.post("certificates", body()).data_member
    assert (
        Caller(client_of(alice)).get(f"certificates/{made['id']}").data_member["id"] == made["id"]
    )
    assert (
        mine.get("certificates").data_member
        == Caller(client_of(alice)).get("certificates").data_member
    )


def test_an_empty_action_counts_as_left_out(api, reference):
    made = api.post("certificates", reference(action=""))
    assert made.status_code == 201
    changed = api.put(
        f"certificates/{made.data_member['id']}", {"action": "", "organization": "Example Ltd"}
    )
    assert changed.data_member["organization"] == "Example Ltd"


@pytest.mark.parametrize("action", ["verify_domain", "delete", ["create"]])
def test_another_action_than_create_is_refused_with_the_one_there_is(api, reference, action):
    assert "Give one of create." in refused(
        api.post("certificates", reference(action=action)), 400, "action"
    )
    assert Certificate.objects.count() == 0


def test_the_answer_has_what_clients_rely_on(api, guide, account, credential):
    made = api.post("certificates", guide()).data_member
    assert made["serial_number"] == ""
    assert made["verified"] is False
    assert made["self_signed"] is False
    assert isinstance(made["id"], int)
    assert isinstance(made["sans"], list)
    assert made["acct_id"] == made["acme_account_id"] == account.pk
    assert made["dns_provider_id"] == credential.pk
    assert made["domain"] == made["domain_name"] == "example.com"
    assert (made["key_type"], made["key_size"], made["key_dist_policy"]) == ("ecdsa", 256, "HYBRID")
    assert (made["auto_renew"], made["renew_days_before"], made["server_decrypt_export"]) == (
        True,
        None,
        False,
    )
    assert len(made["public_id"]) >= 16
    assert 1_000_000_000 < made["created_at"] < 10_000_000_000, "epoch seconds"


def test_an_issued_certificate_shows_a_text_serial_and_dates_in_seconds(api, issued):
    shown = api.get(f"certificates/{issued.pk}").data_member
    assert shown["serial_number"] == issued.current.serial
    assert shown["not_after"] - shown["not_before"] == 90 * 86400
    assert len(shown["fingerprint_sha256"]) == 64


def test_names_become_lower_case_a_labels_each_once_in_the_order_given(api, guide):
    sans = [
        "WWW.Example.COM.",
        "bücher.example.com",
        "www.example.com",
        "xn--bcher-kva.example.com",
        "example.com",
    ]
    made = api.post("certificates", guide(domain=" Example.com. ", sans=sans)).data_member
    assert made["domain"] == "example.com"
    assert made["sans"] == ["www.example.com", "xn--bcher-kva.example.com"]


def test_a_hundred_names_are_taken_and_duplicates_do_not_count(api, guide):
    sans = [f"n{number}.example.com" for number in range(99)]
    assert len(api.post("certificates", guide(sans=sans + sans[:50])).data_member["sans"]) == 99


@pytest.mark.parametrize(
    ("key_type", "key_size", "stored"),
    [
        ("ecdsa", 256, ("ecdsa", 256)),
        ("ECDSA", 384, ("ecdsa", 384)),
        ("rsa", 2048, ("rsa", 2048)),
        ("RSA", 3072, ("rsa", 3072)),
        ("rsa", 4096, ("rsa", 4096)),
        ("rsa", None, ("rsa", 2048)),
        (None, 384, ("ecdsa", 384)),
        (None, None, ("ecdsa", 256)),
    ],
)
def test_the_key_is_what_was_asked_for(api, reference, key_type, key_size, stored):
    made = api.post("certificates", reference(key_type=key_type, key_size=key_size)).data_member
    assert (made["key_type"], made["key_size"]) == stored


def test_the_accounts_key_is_the_default(api, reference, account):
    account.defaults = {"key_type": "rsa", "key_size": 3072}
    account.save()
    made = api.post("certificates", reference()).data_member
    assert (made["key_type"], made["key_size"]) == ("rsa", 3072)


def test_subject_and_renewal_are_kept_and_the_country_is_upper_case(api, reference):
    given = {
        "organization": "Example Ltd",
        "organizational_unit": "IT",
        "country": "se",
        "state": "Skåne",
        "locality": "Lund",
        "auto_renew": False,
        "renew_days_before": 20,
        "key_dist_policy": "MASTER_ONLY",
        "server_decrypt_export": True,
    }
    made = api.post("certificates", reference(**given)).data_member
    assert {name: made[name] for name in given} == given | {"country": "SE"}


def test_the_provider_names_the_credential_when_there_is_only_one(api, reference, credential):
    made = api.post("certificates", reference(dns_provider_id=credential.provider)).data_member
    assert made["dns_provider_id"] == credential.pk


def test_the_credentials_id_may_come_as_text(api, reference, credential):
    made = api.post("certificates", reference(dns_provider_id=str(credential.pk))).data_member
    assert made["dns_provider_id"] == credential.pk


def test_of_several_credentials_of_a_provider_the_id_is_asked_for(
    world, api, reference, owner, credential
):
    world.credential(owner)
    what = refused(
        api.post("certificates", reference(dns_provider_id="httpreq")), 400, "dns_provider_id"
    )
    assert "Give the id" in what


def test_a_record_may_wait_for_its_credential(world, api, reference, credential):
    made = api.post("certificates", reference(dns_provider_id=None)).data_member
    assert made["dns_provider_id"] is None
    assert "dns_provider_id" in refused(api.post(f"certificates/{made['id']}/issues"), 409)
    assert (
        api.put(f"certificates/{made['id']}", {"dns_provider_id": credential.pk}).status_code == 200
    )
    assert api.post(f"certificates/{made['id']}/issues").data_member["status"] == "PENDING"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "Assign a device, or set server_decrypt_export"),
        ({"key_dist_policy": "MASTER_ONLY"}, "Set server_decrypt_export"),
        ({"key_dist_policy": "DEVICE_REQUIRED"}, "Nothing is issued until a device is assigned"),
        ({"server_decrypt_export": True}, ""),
    ],
)
def test_the_answer_says_in_a_sentence_what_will_surprise(api, guide, given, words):
    note = api.post("certificates", guide(**given)).data_member["note"]
    assert words in note
    assert bool(words) == bool(note)


def test_device_required_without_a_device_is_created_and_issues_nothing(world, api, guide):
    answer = api.post("certificates", guide(key_dist_policy="DEVICE_REQUIRED"))
    assert answer.status_code == 201
    assert answer.data_member["issuance"] is None
    assert Issuance.objects.count() == 0
    assert "device" in refused(api.post(f"certificates/{answer.data_member['id']}/issues"), 409)


def test_the_same_create_sent_twice_makes_one_certificate_and_one_attempt(api, guide):
    first, second = (
        api.post("certificates", guide(sans=["www.example.com"])).data_member for _ in range(2)
    )
    assert (first["id"], first["issue_history_id"]) == (second["id"], second["issue_history_id"])
    assert Certificate.objects.count() == Issuance.objects.count() == 1


def test_a_create_repeated_after_a_timeout_returns_the_issued_one(world, api, guide):
    first = api.post("certificates", guide()).data_member
    world.deliver()
    world.advance(9 * 60)
    again = api.post("certificates", guide()).data_member
    assert (again["id"], again["issue_history_id"], again["status"]) == (
        first["id"],
        first["issue_history_id"],
        "active",
    )
    assert Certificate.objects.count() == Issuance.objects.count() == 1


@pytest.mark.parametrize("verb", ["revoke", "delete", "change"])
def test_a_create_never_returns_a_revoked_deleted_or_changed_one(world, api, guide, verb):
    first = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    done = {
        "revoke": lambda: api.post(f"certificates/{first}/revoke"),
        "delete": lambda: api.delete(f"certificates/{first}"),
        "change": lambda: api.put(f"certificates/{first}", {"key_size": 384}),
    }[verb]()
    assert done.status_code < 300
    assert api.post("certificates", guide()).data_member["id"] != first


def test_the_order_of_the_other_names_makes_no_other_certificate(api, guide):
    for sans in (["a.example.com", "b.example.com"], ["b.example.com", "a.example.com"]):
        api.post("certificates", guide(sans=sans))
    assert Certificate.objects.count() == 1


def test_a_create_that_differs_makes_another_certificate(api, guide):
    api.post("certificates", guide())
    api.post("certificates", guide(key_size=384))
    assert Certificate.objects.count() == 2


def test_an_account_with_a_failing_registration_waits_and_says_so(world, api, guide, account):
    account.url = ""
    account.status = "pending"
    account.error_what = "The CA is away."
    account.save()
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    assert "The CA is away." in api.get(f"certificates/{pk}").data_member["issuance"]["waits_for"]


def test_both_spellings_at_once_are_fine_while_they_agree(
    api, guide, reference, account, credential
):
    made = api.post("certificates", reference() | guide()).data_member
    assert made["domain"] == "example.com"
    assert DnsCredential.objects.get().pk == made["dns_provider_id"]
