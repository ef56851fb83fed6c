"""ACME accounts: the CAs and what each requires, registration, and the CA's errors."""

import pytest
import responses
from django.conf import settings

from authorities import clients
from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl.turns import Trouble
from keystore import envelope
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db

GUIDE = {"ca_provider": "letsencrypt", "email": "alice@example.org", "terms_accepted": True}
HMAC_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
EAB = {"eab_kid": "kid-1", "eab_hmac_key": HMAC_KEY}
DIRECTORY = "https://ca.example.org/directory"


def test_the_guides_call_registers_with_the_ca(world, api):
    made = api.post("acme-accounts", GUIDE)
    assert made.status_code == 201
    shown = made.data_member
    assert (shown["provider"], shown["email"], shown["name"]) == (
        "letsencrypt",
        "alice@example.org",
        "Let's Encrypt",
    )
    assert (shown["kid"], shown["status"], shown["ca_id"]) == (None, "pending", None)
    world.deliver()
    shown = api.get(f"acme-accounts/{shown['id']}").data_member
    assert shown["kid"].startswith("https://ca.test/acct/")
    assert (shown["status"], shown["error_what"]) == ("valid", "")


def test_the_references_call_implies_the_terms(api, alice):
    body = {
        "provider": "LetsEncrypt",
        "name": "mine",
        "email": "a@example.org",
        "leaf_key_algorithm": "RSA",
    }
    shown = api.post(
        "acme-accounts", body | {"leaf_rsa_bits": 4096, "cert_valid_seconds": 86400, "ca_id": 0}
    ).data_member
    assert (shown["provider"], shown["name"], shown["user_id"]) == ("letsencrypt", "mine", alice.pk)
    assert (shown["leaf_key_algorithm"], shown["leaf_rsa_bits"], shown["cert_valid_seconds"]) == (
        "RSA",
        4096,
        86400,
    )


@pytest.mark.parametrize("method", ["post", "put"])
def test_two_spellings_of_the_ca_must_say_the_same(api, account, method):
    path = "acme-accounts" if method == "post" else f"acme-accounts/{account.pk}"
    before = rows()
    body = GUIDE | {"provider": "zerossl"}
    assert "two names of one member" in refused(
        getattr(api, method)(path, body), 400, "ca_provider"
    )
    assert rows() == before
    assert (
        api.post("acme-accounts", GUIDE | {"provider": "LetsEncrypt"}).data_member["provider"]
        == "letsencrypt"
    )


@pytest.mark.parametrize(
    ("body", "directory"),
    [
        ({"ca_provider": "letsencrypt"}, "https://acme-v02.api.letsencrypt.org/directory"),
        (
            {"ca_provider": "letsencrypt_staging"},
            "https://acme-staging-v02.api.letsencrypt.org/directory",
        ),
        ({"ca_provider": "zerossl", "email": "a@example.org"}, "https://acme.zerossl.com/v2/DV90"),
        ({"ca_provider": "ZeroSSL"} | EAB, "https://acme.zerossl.com/v2/DV90"),
        (
            {"ca_provider": "zerossl", "zerossl_api_key": "the-api-key"},
            "https://acme.zerossl.com/v2/DV90",
        ),
        ({"ca_provider": "custom", "directory_url": DIRECTORY}, DIRECTORY),
        ({"ca_provider": "custom", "directory_url": DIRECTORY} | EAB, DIRECTORY),
    ],
)
def test_every_ca_is_to_be_had(api, body, directory):
    answer = api.post("acme-accounts", body | {"terms_accepted": True})
    assert (answer.status_code, answer.data_member["directory_url"]) == (201, directory)


def test_settings_move_a_named_ca(api, settings):
    settings.ACME_CAS = {"letsencrypt": {"directory_url": "https://localhost:14000/dir"}}
    assert (
        api.post("acme-accounts", GUIDE).data_member["directory_url"]
        == "https://localhost:14000/dir"
    )


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"ca_provider": None}, 400, "ca_provider"),
        ({"ca_provider": "verisign"}, 400, "ca_provider"),
        ({"ca_provider": "l" * 100}, 400, "ca_provider"),
        ({"terms_accepted": None}, 400, "terms_accepted"),
        ({"terms_accepted": False}, 400, "terms_accepted"),
        ({"terms_accepted": "maybe"}, 400, "terms_accepted"),
        ({"email": "nobody"}, 400, "email"),
        ({"name": "n" * 65}, 400, "name"),
        ({"directory_url": DIRECTORY}, 400, "directory_url"),
        (EAB, 400, "eab_kid"),
        ({"zerossl_api_key": "the-api-key"}, 400, "zerossl_api_key"),
        ({"ca_provider": "custom"}, 400, "directory_url"),
        (
            {"ca_provider": "custom", "directory_url": "http://ca.example.org/directory"},
            400,
            "directory_url",
        ),
        (
            {"ca_provider": "custom", "directory_url": "https://me:secret@ca.example.org/"},
            400,
            "directory_url",
        ),
        ({"ca_provider": "custom", "directory_url": "https://[::1/"}, 400, "directory_url"),
        (
            {"ca_provider": "custom", "directory_url": "https://ca.example.org:99999/"},
            400,
            "directory_url",
        ),
        ({"ca_provider": "custom", "directory_url": "https://"}, 400, "directory_url"),
        (
            {"ca_provider": "custom", "directory_url": "https://ca example.org/"},
            400,
            "directory_url",
        ),
        ({"ca_provider": "custom", "directory_url": "ca.example.org"}, 400, "directory_url"),
        (
            {"ca_provider": "custom", "directory_url": DIRECTORY, "eab_kid": "kid-1"},
            400,
            "eab_hmac_key",
        ),
        (
            {"ca_provider": "custom", "directory_url": DIRECTORY}
            | EAB
            | {"eab_hmac_key": "no base64!"},
            400,
            "eab_hmac_key",
        ),
        ({"ca_provider": "zerossl", "email": None}, 400, "eab_kid"),
        ({"ca_provider": "SELF_CA"}, 400, "ca_id"),
        ({"ca_id": 987654}, 404, "ca_id"),
        ({"ca_id": -1}, 400, "ca_id"),
        ({"leaf_key_algorithm": "DSA"}, 400, "leaf_key_algorithm"),
        ({"leaf_rsa_bits": 1024}, 400, "leaf_rsa_bits"),
        ({"leaf_rsa_bits": 0}, 400, "leaf_rsa_bits"),
        ({"leaf_ec_curve": "secp521r1"}, 400, "leaf_ec_curve"),
        ({"cert_valid_seconds": 0}, 400, "cert_valid_seconds"),
    ],
)
def test_a_wrong_member_is_refused_by_its_name_and_leaves_nothing(api, body, status, field):
    before = rows()
    given = {name: value for name, value in (GUIDE | body).items() if value is not None}
    refused(api.post("acme-accounts", given), status, field)
    assert rows() == before


def test_an_unknown_ca_is_answered_with_those_there_are(api):
    what = refused(api.post("acme-accounts", GUIDE | {"ca_provider": "verisign"}), 400)
    assert "letsencrypt, letsencrypt_staging, zerossl, custom, SELF_CA" in what


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"leaf_key_algorithm": "ECDSA"}, {"key_type": "ecdsa", "key_size": 256}),
        (
            {"leaf_key_algorithm": "ecdsa", "leaf_ec_curve": "secp384r1"},
            {"key_type": "ecdsa", "key_size": 384},
        ),
        ({"leaf_ec_curve": "secp384r1"}, {"key_type": "ecdsa", "key_size": 384}),
        ({"leaf_rsa_bits": 3072}, {"key_type": "rsa", "key_size": 3072}),
        (
            {"leaf_key_algorithm": "RSA", "leaf_ec_curve": "prime256v1"},
            {"key_type": "rsa", "key_size": 2048},
        ),
        ({}, {}),
    ],
)
def test_key_defaults_are_stored_as_they_were_sent(api, given, stored):
    api.post("acme-accounts", GUIDE | given)
    assert AcmeAccount.objects.get().defaults == stored


# --- what the CA says ---


def test_a_refused_binding_is_shown_in_the_cas_words_and_can_be_retried(world, api):
    world.ca.problems["register"] = [
        Refused("ca_bad_eab", "The CA refuses the binding: unknown kid.", permanent=True)
    ]
    made = api.post(
        "acme-accounts", GUIDE | {"ca_provider": "custom", "directory_url": DIRECTORY} | EAB
    ).data_member
    world.deliver()
    shown = api.get(f"acme-accounts/{made['id']}").data_member
    assert (shown["status"], shown["error_code"]) == ("refused", "ca_bad_eab")
    assert "unknown kid" in shown["error_what"]
    assert api.post(f"acme-accounts/{made['id']}/register").data_member["status"] == "pending"
    world.deliver()
    shown = api.get(f"acme-accounts/{made['id']}").data_member
    assert (shown["status"], shown["error_code"], shown["error_what"]) == ("valid", "", "")


def test_an_unreachable_ca_is_reported_and_retried(world, api):
    world.ca.problems["register"] = [Trouble("ca_unreachable", "The CA could not be reached.")]
    pk = api.post("acme-accounts", GUIDE).data_member["id"]
    world.deliver()
    shown = api.get(f"acme-accounts/{pk}").data_member
    assert (shown["status"], shown["error_what"]) == ("pending", "The CA could not be reached.")
    world.advance(3600)
    world.sweep()
    assert api.get(f"acme-accounts/{pk}").data_member["status"] == "valid"


def test_registering_a_registered_account_changes_nothing(world, api, account):
    shown = api.post(f"acme-accounts/{account.pk}/register").data_member
    assert (shown["status"], shown["kid"]) == ("valid", account.url)
    assert world.sent == []


# --- external account binding ---


def test_a_binding_that_was_given_is_sealed_and_only_its_kid_is_shown(api):
    made = api.post(
        "acme-accounts", GUIDE | {"ca_provider": "custom", "directory_url": DIRECTORY} | EAB
    )
    assert made.data_member["eab_kid"] == "kid-1"
    assert HMAC_KEY.encode() not in made.content
    assert HMAC_KEY.encode() not in api.get(f"acme-accounts/{made.data_member['id']}").content
    assert envelope.unseal(AcmeAccount.objects.get().eab).decode() == HMAC_KEY


@pytest.mark.parametrize(
    "written",
    [
        "c2Vj+/+/cmV0LWtleS0x",
        "c2Vj-_-_cmV0LWtleS0x",
        " c2Vj+/+/\r\ncmV0LWtleS0x \n",
        "c2Vj+/+/cmV0LWtleS0x==",
    ],
)
def test_the_key_of_a_binding_is_taken_in_standard_base64_too(api, written):
    body = (
        GUIDE
        | {"ca_provider": "custom", "directory_url": f" {DIRECTORY} "}
        | EAB
        | {"eab_hmac_key": written}
    )
    assert api.post("acme-accounts", body).status_code == 201
    account = AcmeAccount.objects.get()
    assert envelope.unseal(account.eab).decode() == "c2Vj-_-_cmV0LWtleS0x"
    assert account.directory_url == DIRECTORY


@pytest.mark.parametrize("written", ["short", "no base64 at all!", "c2VjcmV0LWtleS0xx", "=" * 20])
def test_a_key_that_is_no_base64_is_refused_without_repeating_it(api, written):
    refused = api.post(
        "acme-accounts",
        GUIDE
        | {"ca_provider": "custom", "directory_url": DIRECTORY}
        | EAB
        | {"eab_hmac_key": written},
    )
    assert refused.status_code == 400
    assert "eab_hmac_key must be base64 or base64url" in refused.json()["error"]["what"]
    assert written not in refused.json()["error"]["what"]


@pytest.mark.parametrize(
    "email", ["mailto:alice@example.org", "MAILTO:alice@example.org", " alice@example.org "]
)
def test_an_address_may_be_written_as_a_contact(api, email):
    assert (
        api.post("acme-accounts", GUIDE | {"email": email}).data_member["email"]
        == "alice@example.org"
    )


@pytest.mark.parametrize(
    ("given", "path", "asked"),
    [
        ({"zerossl_api_key": "the-api-key"}, "/acme/eab-credentials", "access_key=the-api-key"),
        ({"email": "a@example.org"}, "/acme/eab-credentials-email", "email=a%40example.org"),
    ],
)
@responses.activate
def test_zerossls_binding_is_fetched_by_what_was_given_and_replaces_it(
    world, api, given, path, asked
):
    fetched = {"success": True, "eab_kid": "kid-9", "eab_hmac_key": HMAC_KEY}
    call = responses.post(f"{settings.ZEROSSL_API_URL}{path}", json=fetched)
    pk = api.post(
        "acme-accounts", {"ca_provider": "zerossl", "terms_accepted": True} | given
    ).data_member["id"]
    assert AcmeAccount.objects.get().eab_kid == ""
    world.deliver()
    request = call.calls[0].request
    assert asked in f"{request.url} {request.body}"
    shown = api.get(f"acme-accounts/{pk}").data_member
    assert (shown["status"], shown["eab_kid"]) == ("valid", "kid-9")
    assert envelope.unseal(AcmeAccount.objects.get().eab).decode() == HMAC_KEY


@responses.activate
def test_an_api_key_that_zerossl_refuses_is_reported_without_the_key(world, api):
    error = {"success": False, "error": {"code": 101, "type": "invalid_access_key"}}
    responses.post(f"{settings.ZEROSSL_API_URL}/acme/eab-credentials", json=error)
    body = {"ca_provider": "zerossl", "zerossl_api_key": "the-api-key", "terms_accepted": True}
    pk = api.post("acme-accounts", body).data_member["id"]
    world.deliver()
    shown = api.get(f"acme-accounts/{pk}")
    assert shown.data_member["status"] == "refused"
    assert "invalid_access_key" in shown.data_member["error_what"]
    assert b"the-api-key" not in shown.content


def test_while_the_binding_is_still_to_be_fetched_none_is_sent(owner, world):
    account = world.account(
        owner, ca_provider="zerossl", eab=envelope.seal(owner, "eab", b"the-api-key")
    )
    assert clients._external(account) is None
    account.eab_kid = "kid-9"
    assert clients._external(account).kid == "kid-9"


# --- change and delete ---


def test_name_and_key_defaults_change(api, account):
    path = f"acme-accounts/{account.pk}"
    assert (
        api.put(path, {"name": "other", "leaf_key_algorithm": "RSA"}).data_member["name"] == "other"
    )
    assert api.put(path, {"name": "third"}).data_member["leaf_key_algorithm"] == "RSA"


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"leaf_key_algorithm": ""}, {"validity_seconds": 86400}),
        (
            {"leaf_key_algorithm": "", "leaf_rsa_bits": None, "leaf_ec_curve": ""},
            {"validity_seconds": 86400},
        ),
        ({"leaf_rsa_bits": None}, {"key_type": "rsa", "validity_seconds": 86400}),
        ({"leaf_ec_curve": ""}, {"key_type": "rsa", "key_size": 4096, "validity_seconds": 86400}),
        ({"cert_valid_seconds": None}, {"key_type": "rsa", "key_size": 4096}),
        (
            {"leaf_key_algorithm": "", "leaf_ec_curve": "secp384r1", "cert_valid_seconds": 3600},
            {"key_type": "ecdsa", "key_size": 384, "validity_seconds": 3600},
        ),
    ],
)
def test_a_key_default_that_is_given_empty_is_taken_back(api, account, reference, changes, left):
    path = f"acme-accounts/{account.pk}"
    api.put(path, {"leaf_key_algorithm": "RSA", "leaf_rsa_bits": 4096, "cert_valid_seconds": 86400})
    assert api.put(path, changes).status_code == 200
    account.refresh_from_db()
    assert account.defaults == left
    assert api.post("certificates", reference()).data_member["key_type"] == left.get(
        "key_type", "ecdsa"
    )


def test_the_response_of_a_get_may_be_sent_back_whole(api):
    pk = api.post(
        "acme-accounts", GUIDE | {"leaf_key_algorithm": "RSA", "leaf_rsa_bits": 3072}
    ).data_member["id"]
    before = api.get(f"acme-accounts/{pk}").data_member
    after = api.put(f"acme-accounts/{pk}", before).data_member
    assert {name for name in before if before[name] != after[name]} <= {"updated_at"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ca_provider": "letsencrypt"}, "ca_provider"),
        ({"provider": "verisign"}, "ca_provider"),
        ({"directory_url": DIRECTORY}, "directory_url"),
        ({"eab_kid": "kid-2"}, "eab_kid"),
        ({"eab_hmac_key": HMAC_KEY}, "eab_hmac_key"),
        ({"ca_id": 7}, "ca_id"),
        ({"leaf_rsa_bits": 1}, "leaf_rsa_bits"),
    ],
)
def test_fields_that_the_ca_has_of_an_account_do_not_change(api, account, changes, field):
    path = f"acme-accounts/{account.pk}"
    before = api.get(path).data_member
    refused(api.put(path, changes | {"name": "other"}), 400, field)
    assert api.get(path).data_member == before


def test_the_address_may_change_before_and_after_the_ca_knows_the_account(world, api):
    pk = api.post("acme-accounts", GUIDE).data_member["id"]
    assert (
        api.put(f"acme-accounts/{pk}", {"email": "b@example.org"}).data_member["email"]
        == "b@example.org"
    )
    world.deliver()
    assert api.put(f"acme-accounts/{pk}", {"email": "c@example.org"}).status_code == 200
    shown = api.get(f"acme-accounts/{pk}").data_member
    assert (shown["email"], shown["status"]) == ("c@example.org", "valid")


def test_an_account_in_use_is_not_deleted_and_says_by_which_certificates(api, issued):
    path = f"acme-accounts/{issued.account_id}"
    assert "example.com" in refused(api.delete(path), 409)
    api.delete(f"certificates/{issued.pk}")
    assert api.delete(path).status_code == 204
    refused(api.get(path), 404)
    assert api.get("acme-accounts").data_member == []


def test_a_deleted_account_orders_nothing(api, guide, account):
    api.delete(f"acme-accounts/{account.pk}")
    refused(api.post("certificates", guide()), 404, "acme_account_id")


def test_an_account_that_its_ca_deactivated_orders_nothing_and_says_so(api, guide, account):
    AcmeAccount.objects.update(status="deactivated")
    before = rows()
    assert "deactivated" in refused(api.post("certificates", guide()), 409)
    assert rows() == before
