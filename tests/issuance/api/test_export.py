"""The export: the content of the ZIP, its permissions, and its audit event."""

import io
import json
import zipfile
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from django.core.cache import cache

from accounts.models import ApiKey, AuditEvent
from issuance.api.views import ExportThrottle
from keystore.models import Envelope
from tests.factories import PASSWORD
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db
MEMBERS = [
    "private.key",
    "certificate.pem",
    "chain.pem",
    "fullchain.pem",
    "certificate.der",
    "bundle.pfx",
    "meta.json",
]


@pytest.fixture
def exported(api, issued):
    return api.get(f"certificates/{issued.pk}/export", HTTP_USER_AGENT="curl/8")


def members(answer):
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def public_bytes(key):
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_the_answer_is_a_zip_by_name_that_nobody_may_cache(exported, issued):
    assert exported.status_code == 200
    assert exported.headers["Content-Type"] == "application/zip"
    assert exported.headers["Content-Disposition"] == f'attachment; filename="cert-{issued.pk}.zip"'
    assert exported.headers["Cache-Control"] == "no-store"


def test_the_members_are_the_contracts(exported, issued):
    files = members(exported)
    assert list(files) == MEMBERS
    key = serialization.load_pem_private_key(files["private.key"], None)
    leaf = x509.load_pem_x509_certificate(files["certificate.pem"])
    assert public_bytes(key) == public_bytes(leaf)
    assert files["certificate.der"] == leaf.public_bytes(serialization.Encoding.DER)
    assert files["fullchain.pem"] == files["certificate.pem"] + files["chain.pem"]
    meta = json.loads(files["meta.json"])
    assert (meta["cert_id"], meta["domain"]) == (issued.pk, "example.com")
    assert meta["serial_number"] == issued.current.serial
    assert meta["names"] == ["example.com", "*.example.com"]


def test_the_one_time_password_opens_the_pfx_and_is_not_in_the_zip(exported):
    files = members(exported)
    password = exported.headers["X-Export-Password"].encode()
    assert 36 <= len(password) <= 44
    bundle = pkcs12.load_pkcs12(files["bundle.pfx"], password)
    assert bundle.cert.friendly_name == b"example.com"
    assert len(bundle.additional_certs) == 1
    key = serialization.load_pem_private_key(files["private.key"], None)
    assert public_bytes(bundle.key) == public_bytes(key)
    assert not any(password in content for content in files.values())


def test_each_export_has_a_password_of_its_own(api, issued):
    passwords = {
        api.get(f"certificates/{issued.pk}/export").headers["X-Export-Password"] for _ in range(2)
    }
    assert len(passwords) == 2


def test_without_a_chain_there_is_no_chain_pem_and_fullchain_is_the_leaf(api, issued):
    version = issued.current
    version.chain_pem = (
        version.chain_pem.partition("-----END CERTIFICATE-----\n")[0]
        + "-----END CERTIFICATE-----\n"
    )
    version.save()
    files = members(api.get(f"certificates/{issued.pk}/export"))
    assert "chain.pem" not in files
    assert files["fullchain.pem"] == files["certificate.pem"]


def test_zip_is_the_only_format(api, issued):
    assert api.get(f"certificates/{issued.pk}/export?format=zip").status_code == 200
    assert "zip" in refused(api.get(f"certificates/{issued.pk}/export?format=tar"), 400, "format")


@pytest.mark.parametrize(
    ("query", "algorithm"),
    [
        ("", b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d"),  # PBES2
        ("?pfx=modern", b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d"),
        (
            "?pfx=legacy",
            b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01\x03",
        ),  # pbeWithSHA1And3-KeyTripleDES-CBC
    ],
)
def test_the_caller_chooses_who_can_read_the_pfx(api, issued, query, algorithm):
    answer = api.get(f"certificates/{issued.pk}/export{query}")
    assert algorithm in members(answer)["bundle.pfx"]


@pytest.mark.parametrize("pfx", ["", "old", "LEGACY", "legacy,modern"])
def test_another_pfx_is_refused_with_the_choices_and_no_key_is_opened(api, issued, pfx):
    what = refused(api.get(f"certificates/{issued.pk}/export?pfx={pfx}"), 400, "pfx")
    assert "modern or legacy" in what
    assert not AuditEvent.objects.filter(action="key.opened").exists()


def test_an_export_is_on_record_with_who_what_where_and_by_which_client(exported):
    event = AuditEvent.objects.get(action="key.opened")
    assert (event.actor, event.ip) == ("alice@example.org", "127.0.0.1")
    assert event.detail["what"] == "example.com exported as ZIP by curl/8"


def test_an_export_by_a_script_is_on_record_with_its_key(keyed, issued):
    keyed(f"certificates:{issued.pk}[read]").get(f"certificates/{issued.pk}/export")
    assert "script (ak_" in AuditEvent.objects.get(action="key.opened").actor


@pytest.mark.parametrize(
    "changes", [{"server_decrypt_export": False}, {"key_policy": "DEVICE_REQUIRED"}]
)
def test_the_policy_refuses_the_export_and_no_key_is_opened(api, issued, changes):
    type(issued).objects.filter(pk=issued.pk).update(**changes)
    answer = api.get(f"certificates/{issued.pk}/export")
    refused(answer, 403)
    assert answer.error["key"] == "CERTS::EXPORT_FORBIDDEN"
    assert not AuditEvent.objects.filter(action="key.opened").exists()


def test_a_key_sealed_for_devices_is_never_exported(api, issued):
    Envelope.objects.filter(pk=issued.current.key_id).update(policy="DEVICE_REQUIRED")
    refused(api.get(f"certificates/{issued.pk}/export"), 403)


@pytest.mark.parametrize("policy", ["HYBRID", "MASTER_ONLY"])
def test_both_policies_of_the_server_allow_it_with_the_flag(world, api, guide, policy):
    pk = api.post(
        "certificates", guide(key_dist_policy=policy, server_decrypt_export=True)
    ).data_member["id"]
    world.deliver()
    assert api.get(f"certificates/{pk}/export").status_code == 200


def test_the_flag_may_be_set_after_the_issuance(world, api, guide):
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    assert "Set server_decrypt_export to true" in refused(api.get(f"certificates/{pk}/export"), 403)
    assert api.put(f"certificates/{pk}", {"server_decrypt_export": True}).status_code == 200
    assert api.get(f"certificates/{pk}/export").status_code == 200


def test_before_the_first_issuance_it_is_409(api, guide):
    pk = api.post("certificates", guide(server_decrypt_export=True)).data_member["id"]
    answer = api.get(f"certificates/{pk}/export")
    refused(answer, 409)
    assert answer.error["key"] == "CERTS::NOT_ISSUED"


# --- not long after the login ---


@pytest.fixture
def logged_in(client_of, alice, world):
    client = client_of()
    assert (
        client.post("/auth/general", {"email": alice.email, "password": PASSWORD}).status_code
        == 200
    )
    return Caller(client)


def test_a_session_exports_for_twelve_hours_after_each_login(world, logged_in, issued, alice):
    path = f"certificates/{issued.pk}/export"
    world.advance(900)
    assert logged_in.get(path).status_code == 200
    world.advance(1)
    answer = logged_in.get(path)
    assert "Your login is too old" in refused(answer, 403)
    assert answer.error["code"] == 5022
    assert AuditEvent.objects.filter(action="key.opened").count() == 1
    assert logged_in.get(f"certificates/{issued.pk}").status_code == 200
    logged_in.client.post("/auth/general", {"email": alice.email, "password": PASSWORD})
    assert logged_in.get(path).status_code == 200


def test_how_long_is_a_setting(world, logged_in, issued, settings):
    settings.EXPORT_LOGIN_AGE = 60
    world.advance(61)
    refused(logged_in.get(f"certificates/{issued.pk}/export"), 403)


def test_a_login_of_the_future_exports_nothing(world, logged_in, issued):
    world.advance(-61)
    refused(logged_in.get(f"certificates/{issued.pk}/export"), 403)


def test_a_session_that_does_not_know_its_login_goes_by_the_users_latest(world, api, issued, alice):
    alice.last_login = world.time - timedelta(seconds=43201)
    alice.save()
    refused(api.get(f"certificates/{issued.pk}/export"), 403)


def test_an_api_key_exports_however_old_it_is(world, keyed, issued):
    script = keyed("certificates:*[read]")
    ApiKey.objects.update(expires_at=world.time + timedelta(days=9))
    world.advance(5 * 86400)
    assert script.get(f"certificates/{issued.pk}/export").status_code == 200


# --- how often ---


def test_exports_are_counted_and_too_many_are_429(api, issued, monkeypatch):
    monkeypatch.setattr(ExportThrottle, "rate", "2/hour")
    codes = [api.get(f"certificates/{issued.pk}/export").status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    answer = api.get(f"certificates/{issued.pk}/export")
    assert answer.error["code"] == 5013
    assert 0 < int(answer.headers["Retry-After"]) <= 3600
    assert AuditEvent.objects.filter(action="key.opened").count() == 2


def test_without_its_cache_the_export_still_works(api, issued, monkeypatch):
    def away(*args, **kwargs):
        raise ConnectionError("the cache is away")

    monkeypatch.setattr(cache, "get", away)
    assert api.get(f"certificates/{issued.pk}/export").status_code == 200


def test_an_export_that_is_refused_says_nothing_of_keys(api, issued):
    type(issued).objects.filter(pk=issued.pk).update(server_decrypt_export=False)
    assert b"PRIVATE KEY" not in api.get(f"certificates/{issued.pk}/export").content
