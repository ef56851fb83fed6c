"""The known CAs, their keys and limits, and the client for an account."""

import os
import threading

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from accounts.models import User
from authorities import acme, catalog, clients, privateca, zerossl
from authorities.errors import Refused
from authorities.models import AcmeAccount
from certctrl import clock, outgoing
from certctrl.errors import Invalid
from certctrl.turns import Trouble
from keystore import envelope
from tests.authorities import stub as stubs
from tests.authorities.stub import Reply


def make_account(**fields) -> AcmeAccount:
    owner, _ = User.objects.get_or_create(email="owner@example.com")
    usual = {"ca_provider": "custom", "name": "A", "terms_accepted_at": clock.now()}
    key = envelope.seal(owner, "account_key", acme.new_account_key())
    return AcmeAccount.objects.create(owner=owner, key=key, **(usual | fields))


@pytest.fixture
def stub(settings):
    with stubs.running() as running:
        settings.ZEROSSL_API_URL = running.url
        yield running


# --- the registry ---


@pytest.mark.parametrize(
    "name",
    [
        "letsencrypt",
        "LetsEncrypt",
        "letsencrypt_staging",
        "zerossl",
        "custom",
        "self_ca",
        "SELF_CA",
    ],
)
def test_a_ca_is_found_whatever_the_case_of_its_name(name):
    assert catalog.info(name).name.lower() == name.lower()


@pytest.mark.parametrize("name", ["", "letsencript", "letsencrypt\x00", "../x"])
def test_an_unknown_ca_is_refused_with_the_names_that_there_are(name):
    with pytest.raises(Invalid) as caught:
        catalog.info(name)
    assert caught.value.params["field"] == "ca_provider"
    assert "letsencrypt, letsencrypt_staging, zerossl, custom, SELF_CA" in caught.value.what


def test_lets_encrypt_signs_these_keys_and_no_others():
    signed = [("ecdsa", 256), ("ecdsa", 384), ("rsa", 2048), ("rsa", 3072), ("rsa", 4096)]
    assert all(catalog.signs("letsencrypt", *each) for each in signed)
    assert not any(
        catalog.signs("letsencrypt", *each)
        for each in [("rsa", 256), ("ecdsa", 521), ("dsa", 2048)]
    )
    assert catalog.key_sizes("letsencrypt") == "ecdsa 256/384, rsa 2048/3072/4096"


def test_settings_override_an_entry_and_add_one(settings):
    settings.ACME_CAS = {
        "letsencrypt": {"directory_url": "https://localhost:1/dir"},
        "corporate": {
            "label": "Ours",
            "directory_url": "https://ca.corp/dir",
            "key_sizes": {"rsa": [2048]},
        },
    }
    assert catalog.info("letsencrypt").directory_url == "https://localhost:1/dir"
    assert catalog.info("letsencrypt").label == "Let's Encrypt"
    assert catalog.signs("corporate", "rsa", 2048)
    assert not catalog.signs("Corporate", "ecdsa", 256)


@pytest.mark.parametrize("entry", [{"directory": "https://x"}, "https://x", {"name": "y"}])
def test_an_entry_of_the_settings_that_is_no_entry_is_refused(settings, entry):
    settings.ACME_CAS = {"letsencrypt": entry}
    with pytest.raises(ImproperlyConfigured, match="The CA letsencrypt in ACME_CAS may only have"):
        catalog.known()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"caa_identities": "ca.example.com"},
            "caa_identities of letsencrypt in ACME_CAS must be a list",
        ),
        ({"caa_identities": [1]}, "caa_identities of letsencrypt in ACME_CAS must be a list"),
        ({"hosts": "ca.example.com"}, "hosts of letsencrypt in ACME_CAS must be a list"),
        ({"hosts": None}, "hosts of letsencrypt in ACME_CAS must be a list"),
        ({"staging": "letsencript"}, "staging of letsencrypt in ACME_CAS names an unknown CA"),
    ],
)
def test_a_wrong_value_in_an_entry_is_refused_by_its_name(settings, entry, sentence):
    settings.ACME_CAS = {"letsencrypt": entry}
    with pytest.raises(ImproperlyConfigured, match=sentence):
        catalog.known()


# --- opened ---


@pytest.mark.django_db
def test_an_account_registers_and_orders_by_its_client(stub):
    account = make_account(directory_url=stub.directory_url, email="owner@example.com")
    account.url = clients.client_for(account).register().url
    assert clients.client_for(account).new_order(["example.com"]).status == "pending"
    assert stub.asked[-1].protected["kid"] == f"{stub.url}/account/1"


@pytest.mark.django_db
def test_a_thread_unseals_an_account_key_once(stub, monkeypatch):
    account = make_account(directory_url=stub.directory_url)
    opened = []
    unseal = envelope.unseal
    monkeypatch.setattr(envelope, "unseal", lambda sealed: opened.append(sealed) or unseal(sealed))
    first = clients.client_for(account)
    account.url = "https://ca.example/account/1"
    assert clients.client_for(account) is first
    assert first.url == account.url
    assert len(opened) == 1


@pytest.mark.django_db
def test_a_thread_keeps_so_many_clients_and_no_more(stub):
    accounts = [make_account(directory_url=stub.directory_url) for _ in range(3)]
    clients._clients().clear()
    kept = clients.KEPT_CLIENTS
    clients.KEPT_CLIENTS = 2
    try:
        opened = [clients.client_for(account) for account in accounts]
        assert clients.client_for(accounts[2]) is opened[2]
        assert clients.client_for(accounts[0]) is not opened[0]
    finally:
        clients.KEPT_CLIENTS = kept


def test_the_threads_of_a_process_share_a_connection(stub):
    here = acme.connection_to(stub.directory_url)
    there = []
    thread = threading.Thread(target=lambda: there.append(acme.connection_to(stub.directory_url)))
    thread.start()
    thread.join()
    assert there == [here]
    assert there[0] is here


def test_a_forked_child_uses_no_nonce_of_its_parent(stub):
    acme.connection_to(stub.directory_url).nonces.append("of the parent")
    child = os.fork()
    if child == 0:
        os._exit(len(acme.connection_to(stub.directory_url).nonces))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert acme.connection_to(stub.directory_url).nonces == ["of the parent"]


@pytest.mark.django_db
def test_an_account_with_a_binding_sends_it(stub):
    owner = User.objects.create(email="owner@example.com")
    hmac_key = envelope.seal(owner, "eab", b"c2VjcmV0LWhtYWMta2V5LXNlY3JldC1obWFjLWtleQ")
    account = make_account(directory_url=stub.directory_url, eab_kid="kid-7", eab=hmac_key)
    clients.client_for(account).register()
    binding = stub.asked[-1].payload["externalAccountBinding"]
    header = stubs._json_of(binding["protected"])
    assert header == {"alg": "HS256", "kid": "kid-7", "url": f"{stub.url}/newAccount"}
    assert stubs._json_of(binding["payload"]) == stub.asked[-1].protected["jwk"]


@pytest.mark.django_db
def test_an_account_at_a_private_ca_is_answered_here():
    owner = User.objects.create(email="owner@example.com")
    private_ca = privateca.create_private_ca(owner, {"name": "Home"})
    client = clients.client_for(make_account(ca_provider="SELF_CA", private_ca=private_ca))
    assert isinstance(client, privateca.PrivateAuthority)


# --- ZeroSSL's bindings ---


GIVEN = {"success": True, "eab_kid": "kid-1", "eab_hmac_key": "aG1hYw"}


def test_zerossl_gives_a_binding_for_an_email_address(stub):
    stub.tell("/acme/eab-credentials-email", Reply(body=GIVEN))
    assert zerossl.fetch_eab(email="owner@example.com") == ("kid-1", "aG1hYw")
    assert stub.asked[-1].payload == "email=owner%40example.com"
    assert stub.asked[-1].method == "POST"


@pytest.mark.django_db
def test_an_api_key_of_the_account_is_preferred_to_the_mail_address(stub):
    owner = User.objects.create(email="owner@example.com")
    account = make_account(
        ca_provider="zerossl",
        email="o@example.com",
        eab=envelope.seal(owner, "eab", b"the-api-key"),
    )
    assert catalog.fetches_eab(account)
    stub.tell("/acme/eab-credentials", Reply(body=GIVEN))
    assert clients.fetch_eab(account) == ("kid-1", "aG1hYw")
    assert stub.asked[-1].path == "/acme/eab-credentials?access_key=the-api-key"


def test_no_other_ca_is_asked_for_a_binding():
    assert not catalog.fetches_eab(AcmeAccount(ca_provider="letsencrypt"))


@pytest.mark.parametrize(
    ("reply", "code", "refused"),
    [
        (
            Reply(body={"success": False, "error": {"code": 101, "type": "invalid_access_key"}}),
            "ca_bad_eab",
            True,
        ),
        (Reply(400, {"success": False}), "ca_bad_eab", True),
        (Reply(body={"success": True, "eab_kid": 7}), "ca_bad_eab", True),
        (Reply(429, b"slowly", {"Retry-After": "60"}), "ca_rate_limited", False),
        (Reply(500, b"<html>"), "ca_error", False),
        (Reply(200, b"<html>"), "ca_error", False),
        (Reply(drop=True), "ca_unreachable", False),
    ],
)
def test_other_answers_of_zerossl_are_reported_without_the_key(stub, reply, code, refused):
    stub.tell("/acme/eab-credentials", reply)
    with pytest.raises(Trouble) as caught:
        zerossl.fetch_eab(api_key="the-api-key")
    assert (caught.value.code, isinstance(caught.value, Refused)) == (code, refused)
    assert "the-api-key" not in f"{caught.value!r} {caught.value.what}"
    assert "ZeroSSL" in caught.value.what


def test_an_override_of_one_limit_keeps_the_others_and_null_takes_one_away(settings):
    settings.ACME_CAS = {"letsencrypt": {"limits": {"account": [5000, 2.16], "failures": None}}}
    found = catalog.limits_at("https://acme-v02.api.letsencrypt.org/directory")
    assert set(found) == {"account", "domain", "set"}
    assert (found["account"].capacity, found["domain"].capacity) == (5000, 50)


@pytest.mark.parametrize("given", [300, [300], [300, 0], ["300", 36], [True, 1], "30"])
def test_invalid_limits_are_reported_at_the_start(settings, given):
    settings.ACME_CAS = {"custom": {"limits": {"account": given}}}
    with pytest.raises(ImproperlyConfigured, match="limits of custom in ACME_CAS must be like"):
        apps.get_app_config("issuance").ready()


# --- Whose directory it is ---


@pytest.mark.parametrize(
    ("is_staff", "ca_provider", "directory_url", "is_tenants"),
    [
        (False, "custom", "https://ca.corp.example/dir", True),
        (True, "custom", "https://ca.corp.example/dir", False),
        (False, "corp", "", False),
        (False, "corp", "https://ca.corp.example/dir", False),
        (False, "corp", "https://ca.corp.example/other", True),
        (False, "letsencrypt", "", False),
    ],
)
def test_a_directory_is_the_operators_where_the_table_or_staff_named_it(
    world, owner, settings, is_staff, ca_provider, directory_url, is_tenants
):
    entry = {"directory_url": "https://ca.corp.example/dir", "hosts": ["Certs.Corp.example."]}
    settings.ACME_CAS = {"corp": entry}
    owner.is_staff = is_staff
    account = world.account(owner, ca_provider=ca_provider, directory_url=directory_url)
    reach = clients._reach(account)
    assert reach.is_named_by_tenant is is_tenants
    assert reach.hosts == (("certs.corp.example",) if ca_provider == "corp" else ())


@pytest.mark.parametrize(
    "spelling",
    [
        "https://acme-v02.api.letsencrypt.org/directory",
        "HTTPS://ACME-v02.API.LetsEncrypt.org/directory",
        "https://acme-v02.api.letsencrypt.org:443/directory",
        "https://acme-v02.api.letsencrypt.org./directory",
    ],
)
def test_spellings_of_a_directory_share_one_bucket_and_its_limits(world, owner, spelling):
    account = world.account(owner, ca_provider="custom", directory_url=spelling)
    assert catalog.directory_of(account) == catalog.info("letsencrypt").directory_url
    assert (
        catalog.limits_at(spelling)
        == catalog.limits_at(catalog.info("letsencrypt").directory_url)
        != {}
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://ca.example/Directory",
        "https://ca.example:8443/dir",
        "https://[2001:db8::1]:14000/dir",
        "",
        "nowhere",
    ],
)
def test_another_address_is_another_directory(url):
    assert outgoing.canonical_url(url) == url
