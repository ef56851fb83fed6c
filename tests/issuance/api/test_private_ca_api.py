"""Private CAs over HTTP are made at once and issue during the request."""

import io
import json
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from authorities.models import AcmeAccount
from issuance.beat import renewals
from issuance.models import Certificate, CertificateVersion, Issuance
from tests import factories
from tests.devices.machine import Machine
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db

ROOT = {
    "name": "Office",
    "algorithm": "ECDSA",
    "key_size": 256,
    "curve_name": "prime256v1",
    "country": "se",
    "organization": "Example Ltd",
    "organizational_unit": "",
    "common_name": "Office Root",
    "state": "",
    "locality": "Lund",
    "valid_days": 365,
    "max_path_length": 0,
    "key_usage": "keyCertSign,cRLSign",
}


@pytest.fixture(autouse=True)
def _real_authority(monkeypatch, request):
    """The fake CA replaces ACME CAs only, and a private CA signs for itself."""
    from authorities import clients

    real = clients.client_for
    if "world" in request.fixturenames:
        world = request.getfixturevalue("world")
        monkeypatch.setattr(
            clients,
            "client_for",
            lambda one: real(one) if one.is_private else world.ca.client_for(one),
        )


@pytest.fixture
def root(api):
    return api.post("cas", {"name": "Office"}).data_member["id"]


@pytest.fixture
def self_ca(api, root):
    return api.post(
        "acme-accounts", {"provider": "SELF_CA", "ca_id": root, "name": "office"}
    ).data_member["id"]


def test_a_ca_is_shown_as_the_contract_has_it_and_never_its_key(api, alice):
    made = api.post("cas", ROOT)
    assert made.status_code == 201
    shown = made.data_member
    assert {name: shown[name] for name in ROOT} == ROOT | {"country": "SE"}
    assert (shown["user_id"], shown["status"], shown["enc_scheme"]) == (alice.pk, "ACTIVE", 1)
    assert (shown["issued_cert_count"], shown["last_used_at"]) == (0, 0)
    assert isinstance(shown["serial_number"], str)
    assert shown["not_before"] > 1_000_000_000_000, "milliseconds"
    assert b"PRIVATE" not in made.content
    certificate = x509.load_pem_x509_certificate(shown["ca_certificate_pem"].encode())
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "Office Root"
    assert api.get(f"cas/{shown['id']}").data_member == shown
    assert api.get("cas").data_member == [shown]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"name": "n" * 65}, "name"),
        ({"name": "\u00e9" * 33, "common_name": ""}, "name"),
        ({"common_name": "\u00e9" * 33}, "common_name"),
        ({"algorithm": "DSA"}, "algorithm"),
        ({"key_size": 521}, "key_size"),
        ({"algorithm": "RSA", "key_size": 1024}, "key_size"),
        ({"key_size": 384}, "key_size"),
        ({"key_size": True}, "key_size"),
        ({"curve_name": "secp521r1"}, "curve_name"),
        ({"country": "Sweden"}, "country"),
        ({"organization": ["a"]}, "organization"),
        ({"valid_days": 0}, "valid_days"),
        ({"valid_days": 10**9}, "valid_days"),
        ({"max_path_length": -1}, "max_path_length"),
        ({"key_usage": "cRLSign"}, "key_usage"),
        ({"key_usage": "everything"}, "key_usage"),
    ],
)
def test_a_wrong_member_is_refused_by_its_name_and_leaves_nothing(api, changes, field):
    before = rows()
    refused(api.post("cas", ROOT | changes), 400, field)
    assert rows() == before


def test_a_wildcard_with_a_method_of_hosts_is_refused_here_too(api, self_ca):
    body = {"domain_name": "*.example.com", "acct_id": self_ca, "verify_method": "http-01"}
    refused(api.post("certificates", body), 400, "verify_method")
    assert not Certificate.objects.exists()


def test_a_name_too_long_for_a_common_name_is_allowed_beside_a_shorter(api):
    assert api.post("cas", {"name": "\u00e9" * 64, "common_name": "\u00e9" * 32}).status_code == 201


# --- issuing through an account ---


def test_the_guides_create_is_answered_with_the_issued_certificate(world, api, self_ca):
    answer = api.post("certificates", {"domain": "printer.example.com", "acme_account_id": self_ca})
    shown = answer.data_member
    assert (answer.status_code, shown["status"], shown["self_signed"]) == (201, "SUCCESS", True)
    assert shown["issue_history_id"] == Issuance.objects.get().pk
    assert (shown["id"], shown["domain_name"]) == (
        Certificate.objects.get().pk,
        "printer.example.com",
    )
    assert shown["serial_number"]
    assert shown["issuance"] is None
    assert api.get(f"certificates/{shown['id']}").data_member["status"] == "active"
    assert world.sent == [], "no worker was asked"


@pytest.mark.parametrize("verb", ["issues", "renew"])
def test_issues_and_renew_answer_with_the_object_the_attempt_and_success(world, api, self_ca, verb):
    pk = api.post(
        "certificates", {"domain_name": "printer.example.com", "acct_id": self_ca}
    ).data_member["id"]
    assert api.get(f"certificates/{pk}").data_member["status"] == "pending"
    answer = api.post(f"certificates/{pk}/{verb}", {"validity_seconds": 86400})
    shown = answer.data_member
    assert (answer.status_code, shown["id"], shown["domain_name"]) == (
        200,
        pk,
        "printer.example.com",
    )
    assert (shown["issue_history_id"], shown["status"]) == (Issuance.objects.get().pk, "SUCCESS")
    assert 86400 <= shown["not_after"] - shown["not_before"] <= 86400 + 600


def test_the_accounts_validity_is_the_default(world, api, root):
    account = api.post(
        "acme-accounts", {"provider": "SELF_CA", "ca_id": root, "cert_valid_seconds": 7200}
    ).data_member
    shown = api.post(
        "certificates", {"domain": "a.example.com", "acct_id": account["id"]}
    ).data_member
    assert 7200 <= shown["not_after"] - shown["not_before"] <= 7200 + 600


def test_a_renewal_is_as_valid_as_the_certificate_was_asked_to_be(world, api, self_ca):
    pk = api.post(
        "certificates", {"domain_name": "printer.example.com", "acct_id": self_ca}
    ).data_member["id"]
    api.post(f"certificates/{pk}/issues", {"validity_seconds": 86400})
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    versions = CertificateVersion.objects.order_by("pk")
    assert [
        each.not_after - each.not_before <= timedelta(seconds=86400 + 600) for each in versions
    ] == [True, True]


@pytest.mark.postgres
@pytest.mark.parametrize("seconds", [2**31 - 1, 2**31])
def test_the_longest_validity_is_what_the_database_holds(world, api, root, seconds):
    too_long = seconds >= 2**31
    account = {"provider": "SELF_CA", "ca_id": root, "cert_valid_seconds": seconds}
    issue = {"domain_name": "printer.example.com", "validity_seconds": seconds}
    for path, body, made in (("acme-accounts", account, 201), (f"cas/{root}/issue", issue, 200)):
        assert api.post(path, body).status_code == (400 if too_long else made), path


@pytest.mark.parametrize("seconds", [0, -5, "long", 10**15, 1.5])
def test_a_validity_that_is_none_is_refused(api, self_ca, seconds):
    pk = api.post(
        "certificates", {"domain_name": "printer.example.com", "acct_id": self_ca}
    ).data_member["id"]
    before = rows()
    refused(
        api.post(f"certificates/{pk}/issues", {"validity_seconds": seconds}),
        400,
        "validity_seconds",
    )
    assert rows() == before


LOCAL = ["192.168.1.10", "fd00::7", "nas", "nas.local", "*.corp.internal", "my_host", "10.0.0.7"]


def names_in(pem: str) -> list[str]:
    leaf = x509.load_pem_x509_certificate(pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(each.value) for each in names]


@pytest.mark.parametrize("domain", ["192.168.1.10", "fd00::7", "nas", "my_host", "*.lan"])
def test_a_private_ca_signs_for_addresses_and_local_names(world, api, self_ca, domain):
    sans = [each for each in LOCAL if each != domain]
    body = {
        "domain": domain,
        "sans": [*sans, "FD00:0::7", domain],
        "acme_account_id": self_ca,
        "server_decrypt_export": True,
    }
    shown = api.post("certificates", body).data_member
    assert (shown["status"], shown["domain"], shown["sans"]) == ("SUCCESS", domain, sans)
    pk = shown["id"]
    full = api.get(f"certificates/{pk}?detail=most").data_member
    assert names_in(full["cert"]) == [domain, *shown["sans"]]
    assert api.post(f"certificates/{pk}/renew").data_member["status"] == "SUCCESS"
    assert api.post(f"certificates/{pk}/preflight").data_member == {"ok": True, "findings": []}
    assert (
        api.put(
            f"certificates/{pk}", {"domain": domain, "sans": sans, "auto_renew": False}
        ).status_code
        == 200
    )
    exported = api.get(f"certificates/{pk}/export")
    assert exported.headers["Content-Disposition"] == f'attachment; filename="cert-{pk}.zip"'
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert json.loads(archive.read("meta.json"))["names"] == [domain, *shown["sans"]]
    assert [
        each["domain"] for each in api.get(f"acme-accounts/{self_ca}/certificates").data_member
    ] == [domain]


@pytest.mark.postgres
def test_the_longest_name_fits_the_database_without_a_common_name(world, api, root):
    longest = "*." + ".".join(["a" * 63] * 3 + ["b" * 59])
    shown = api.post(f"cas/{root}/issue", {"domain_name": longest}).data_member
    assert (shown["status"], shown["domain"]) == ("SUCCESS", longest)
    leaf = x509.load_pem_x509_certificate(CertificateVersion.objects.get().chain_pem.encode())
    assert list(leaf.subject) == []
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_the_cas_own_call_takes_addresses_too(world, api, root):
    shown = api.post(
        f"cas/{root}/issue", {"domain_name": "10.0.0.7", "sans": ["nas.local"]}
    ).data_member
    assert (shown["status"], shown["sans"]) == ("SUCCESS", ["nas.local"])


def test_a_renewal_by_itself_keeps_addresses(world, api, self_ca):
    pk = api.post(
        "certificates", {"domain": "10.0.0.7", "sans": ["nas"], "acct_id": self_ca}
    ).data_member["id"]
    world.advance(70 * 86400)
    renewals.scan_renewals.run()
    world.sweep()
    certificate = Certificate.objects.get(pk=pk)
    assert certificate.versions.count() == 2
    assert names_in(certificate.current.chain_pem) == ["10.0.0.7", "nas"]


@pytest.mark.parametrize("name", ["10.0.0.0/8", "0.0.0.0", "*.10.0.0.7", "fe80::1%eth0"])
def test_an_address_that_is_none_is_refused_with_its_reason(api, self_ca, name):
    before = rows()
    body = {"domain": "nas.local", "sans": [name], "acme_account_id": self_ca}
    assert name in refused(api.post("certificates", body), 400, "sans")
    assert rows() == before


@pytest.mark.parametrize(
    ("name", "words"),
    [("10.0.0.7", "DNS-01 cannot validate"), ("nas", "no dot"), ("a_b.example.com", "underscore")],
)
def test_a_certificate_for_local_names_does_not_move_to_an_acme_ca(
    world, api, self_ca, account, credential, name, words
):
    pk = api.post(
        "certificates", {"domain": "x.example.com", "sans": [name], "acct_id": self_ca}
    ).data_member["id"]
    move = {"acme_account_id": account.pk, "dns_provider_id": credential.pk}
    assert words in refused(api.put(f"certificates/{pk}", move), 400, "sans")
    assert Certificate.objects.get(pk=pk).account_id == self_ca


@pytest.mark.parametrize(("days", "noted"), [(824, False), (825, True), (1095, True)])
def test_a_life_that_apple_refuses_is_noted(world, api, root, days, noted):
    body = {"domain_name": "nas.local", "validity_seconds": days * 86400}
    shown = api.post(f"cas/{root}/issue", body).data_member
    assert shown["status"] == "SUCCESS"
    assert (
        "Apple's systems refuse a server certificate of more than 825 days" in shown["note"]
    ) is noted
    assert ("825 days" in api.get(f"certificates/{shown['id']}").data_member["note"]) is noted


def test_a_life_that_apple_refuses_is_noted_by_every_way_to_it(world, api, self_ca):
    pk = api.post("certificates", {"domain_name": "nas.local", "acct_id": self_ca}).data_member[
        "id"
    ]
    for verb in ("issues", "renew"):
        assert (
            "825 days"
            in api.post(
                f"certificates/{pk}/{verb}", {"validity_seconds": 1095 * 86400}
            ).data_member["note"]
        )
    assert (
        "825"
        not in api.post(f"certificates/{pk}/renew", {"validity_seconds": 86400}).data_member["note"]
    )


def test_a_certificate_that_could_not_be_longer_says_why(world, api):
    root = api.post("cas", {"name": "Short", "valid_days": 30}).data_member
    shown = api.post(f"cas/{root['id']}/issue", {"domain_name": "nas.local"}).data_member
    ends = f"{datetime.fromtimestamp(root['not_after'] / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    assert (
        f"The certificate could not last longer, because its CA, Short, ends at {ends}."
        in shown["note"]
    )
    assert "Make a new private CA" in shown["note"]
    shorter = api.post(
        f"cas/{root['id']}/issue", {"domain_name": "b.local", "validity_seconds": 86400}
    ).data_member
    assert "longer" not in shorter["note"]


@pytest.mark.parametrize("verb", ["issues", "renew"])
def test_an_acme_ca_decides_the_validity_itself_and_the_answer_says_so(world, api, issued, verb):
    started = api.post(f"certificates/{issued.pk}/{verb}", {"validity_seconds": 3600}).data_member
    assert "The CA sets the lifetime" in started.pop("note")
    assert started == {"issue_history_id": Issuance.objects.open_of(issued).pk, "status": "PENDING"}
    world.deliver()
    assert issued.issuances.get(pk=started["issue_history_id"]).validity_seconds is None


@pytest.mark.parametrize("seconds", [0, -5, "long"])
def test_a_validity_that_is_none_is_refused_at_an_acme_ca_too(api, issued, seconds):
    refused(
        api.post(f"certificates/{issued.pk}/issues", {"validity_seconds": seconds}),
        400,
        "validity_seconds",
    )


def test_the_subject_is_in_the_certificate(world, api, self_ca):
    body = {
        "domain": "printer.example.com",
        "acct_id": self_ca,
        "organization": "Example Ltd",
        "country": "se",
    }
    pk = api.post("certificates", body).data_member["id"]
    pem = api.get(f"certificates/{pk}?detail=most").data_member["cert"]
    subject = x509.load_pem_x509_certificates(pem.encode())[0].subject
    assert subject.rfc4514_string() == "O=Example Ltd,C=SE"


def test_a_ca_id_makes_any_account_a_self_ca_account(api, root):
    body = {"provider": "letsencrypt", "ca_id": root, "email": "a@example.org"}
    shown = api.post("acme-accounts", body).data_member
    assert (shown["provider"], shown["ca_id"], shown["status"]) == ("SELF_CA", root, "valid")
    assert shown["directory_url"] == ""


def test_a_self_ca_account_needs_no_terms(api, root):
    assert api.post("acme-accounts", {"ca_provider": "SELF_CA", "ca_id": root}).status_code == 201


def test_revoking_and_exporting_work_as_for_any_other(world, api, self_ca):
    body = {"domain": "printer.example.com", "acct_id": self_ca, "server_decrypt_export": True}
    pk = api.post("certificates", body).data_member["id"]
    assert api.get(f"certificates/{pk}/export").status_code == 200
    assert api.post(f"certificates/{pk}/revoke", {"reason": "keyCompromise"}).status_code == 202
    world.deliver()
    assert api.get(f"certificates/{pk}").data_member["status"] == "revoked"


@pytest.mark.parametrize(
    ("given", "status"), [(987654, 404), ("nobody", 400), ({"a": [1]}, 400), (0, 400)]
)
def test_a_private_ca_refuses_another_owners_dns_credential_too(
    world, api, root, self_ca, bob, given, status
):
    theirs = world.credential(bob).pk
    before = rows()
    for each, expected in ((given, status), (theirs, 404)):
        body = {"domain": "a.example.com", "acct_id": self_ca, "dns_provider_id": each}
        refused(api.post("certificates", body), expected, "dns_provider_id")
        refused(api.post(f"cas/{root}/issue", body), expected, "dns_provider_id")
    assert rows() == before


def test_a_private_cas_certificate_keeps_no_dns_credential(world, api, self_ca, credential):
    body = {"domain": "a.example.com", "acct_id": self_ca, "dns_provider_id": credential.pk}
    assert api.post("certificates", body).data_member["dns_provider_id"] is None


# --- the same request again ---


@pytest.fixture
def asked(api, root, self_ca):
    """The same request in both ways. `asked(validity_seconds=3600)` changes it."""
    return {
        "create": lambda **more: api.post(
            "certificates", {"domain": "a.example.com", "acct_id": self_ca} | more
        ),
        "issue": lambda **more: api.post(
            f"cas/{root}/issue", {"domain_name": "a.example.com"} | more
        ),
    }


@pytest.mark.parametrize("way", ["create", "issue"])
def test_the_same_request_within_a_minute_is_answered_with_what_it_made(world, asked, way):
    first, again = (asked[way]().data_member for _ in range(2))
    assert again == first
    assert first["status"] == "SUCCESS"
    assert Certificate.objects.count() == CertificateVersion.objects.count() == 1


@pytest.mark.parametrize("way", ["create", "issue"])
def test_the_same_request_a_minute_later_makes_another_certificate(world, asked, way):
    asked[way]()
    world.advance(61)
    assert asked[way]().data_member["status"] == "SUCCESS"
    assert Certificate.objects.count() == 2


def test_a_record_requested_again_after_issuance_is_the_same_record(world, api, self_ca):
    body = {"domain_name": "a.example.com", "acct_id": self_ca}
    made = api.post("certificates", body).data_member
    api.post(f"certificates/{made['id']}/issues")
    again = api.post("certificates", body).data_member
    assert (again["id"], again["status"]) == (made["id"], "active")
    assert "issue_history_id" not in again


def test_another_validity_is_another_request(world, asked):
    hour, day = (asked["issue"](validity_seconds=seconds).data_member for seconds in (3600, 86400))
    assert hour["not_after"] < day["not_after"]
    assert hour["id"] != day["id"]


@pytest.mark.parametrize("verb", ["revoke", "delete", "change"])
def test_a_revoked_deleted_or_changed_certificate_is_replaced(world, api, asked, verb):
    first = asked["create"]().data_member["id"]
    done = {
        "revoke": lambda: api.post(f"certificates/{first}/revoke"),
        "delete": lambda: api.delete(f"certificates/{first}"),
        "change": lambda: api.put(f"certificates/{first}", {"key_size": 384}),
    }[verb]()
    assert done.status_code < 300
    second = asked["create"]().data_member
    assert (second["status"], second["key_size"]) == ("SUCCESS", 256)
    assert second["id"] != first


def test_a_renewal_right_after_the_issuance_issues_again(world, api, asked):
    first = asked["create"]().data_member
    assert (
        api.post(f"certificates/{first['id']}/renew").data_member["serial_number"]
        != first["serial_number"]
    )
    assert CertificateVersion.objects.count() == 2


# --- POST cas/{id}/issue ---


def test_a_ca_issues_at_once_and_its_count_goes_up(world, api, root):
    body = {
        "domain_name": "printer.example.com",
        "sans": ["*.printer.example.com"],
        "validity_seconds": 3600,
    }
    answer = api.post(f"cas/{root}/issue", body)
    shown = answer.data_member
    assert (answer.status_code, shown["status"], shown["self_signed"]) == (200, "SUCCESS", True)
    assert shown["sans"] == ["*.printer.example.com"]
    assert shown["not_after"] - shown["not_before"] <= 3600 + 600
    ca = api.get(f"cas/{root}").data_member
    assert ca["issued_cert_count"] == 1
    assert ca["last_used_at"] > 1_000_000_000_000


def test_a_ca_issues_under_the_account_of_its_own_that_is_named(world, api, root, self_ca):
    second = api.post("acme-accounts", {"provider": "SELF_CA", "ca_id": root}).data_member["id"]
    for pk in (second, self_ca):
        answer = api.post(f"cas/{root}/issue", {"domain_name": f"n{pk}.example.com", "acct_id": pk})
        assert answer.data_member["acct_id"] == pk


def test_a_ca_refuses_an_account_of_another_owner_or_another_ca(world, api, bobs, root, account):
    bobs_ca = bobs.post("cas", {"name": "bob's"}).data_member["id"]
    bobs_account = bobs.post(
        "acme-accounts", {"ca_id": bobs_ca, "provider": "SELF_CA"}
    ).data_member["id"]
    before = rows()
    for pk in (bobs_account, account.pk, 987654):
        body = {"domain_name": "a.example.com", "acme_account_id": pk}
        refused(api.post(f"cas/{root}/issue", body), 404, "acme_account_id")
    assert rows() == before


@pytest.mark.parametrize("field", ["directory_url", "eab_kid", "eab_hmac_key", "zerossl_api_key"])
def test_an_account_at_a_private_ca_takes_nothing_that_only_acme_cas_have(api, root, field):
    before = rows()
    refused(
        api.post("acme-accounts", {"provider": "SELF_CA", "ca_id": root, field: "x"}), 400, field
    )
    assert rows() == before


def test_a_ca_uses_one_account_for_all_it_issues(world, api, root):
    for name in ("a.example.com", "b.example.com"):
        api.post(f"cas/{root}/issue", {"domain_name": name})
    assert AcmeAccount.objects.count() == 1
    assert api.get(f"cas/{root}").data_member["issued_cert_count"] == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "domain"),
        ({"domain_name": "exa mple"}, "domain"),
        ({"domain_name": "192.0.2.0/24"}, "domain"),
        ({"domain_name": "a.example.com", "key_type": "rsa", "key_size": 256}, "key_size"),
        ({"domain_name": "a.example.com", "validity_seconds": 0}, "validity_seconds"),
        (
            {
                "domain_name": "a.example.com",
                "key_dist_policy": "DEVICE_REQUIRED",
                "server_decrypt_export": True,
            },
            "server_decrypt_export",
        ),
    ],
)
def test_a_refused_request_leaves_nothing_not_even_an_account(api, root, body, field):
    before = rows()
    refused(api.post(f"cas/{root}/issue", body), 400, field)
    assert rows() == before


def test_one_idempotency_key_issues_once(world, api, root):
    key = {"HTTP_IDEMPOTENCY_KEY": "k"}
    first, again = (
        api.post(f"cas/{root}/issue", {"domain_name": "a.example.com"}, **key).data_member
        for _ in "12"
    )
    assert (first["id"], first["issue_history_id"]) == (again["id"], again["issue_history_id"])
    assert CertificateVersion.objects.count() == 1
    before = rows()
    refused(api.post(f"cas/{root}/issue", {"domain_name": "b.example.com"}, **key), 409)
    assert rows() == before


# --- delete ---


def test_a_ca_in_use_is_not_deleted(api, root, self_ca):
    assert "office" in refused(api.delete(f"cas/{root}"), 409)
    api.delete(f"acme-accounts/{self_ca}")
    assert api.delete(f"cas/{root}").status_code == 204
    refused(api.get(f"cas/{root}"), 404)
    refused(api.post("acme-accounts", {"provider": "SELF_CA", "ca_id": root}), 404, "ca_id")


@pytest.mark.parametrize("policy", ["HYBRID", "DEVICE_REQUIRED"])
def test_a_certificate_is_issued_for_a_device_at_once(api, root, alice, policy):
    machine = Machine(alice)
    body = {
        "domain_name": "a.example.com",
        "device_id": machine.row.pk,
        "key_dist_policy": policy,
        "validity_seconds": 86400,
    }
    made = api.post(f"cas/{root}/issue", body).data_member
    assert made["status"] == "SUCCESS"
    assert made["not_after"] - made["not_before"] < 2 * 86400
    assert machine.serves(made["id"])


def test_a_device_of_another_owner_gets_no_certificate(api, root, bob, keyed, alice):
    before = rows()
    body = {"domain_name": "a.example.com", "device_id": factories.device(bob).pk}
    refused(api.post(f"cas/{root}/issue", body), 404, "device_id")
    own = {"domain_name": "a.example.com", "device_id": factories.device(alice).pk}
    refused(keyed("cas:*[issue]").post(f"cas/{root}/issue", own), 403)
    assert rows()["issuance.Certificate"] == before["issuance.Certificate"]
