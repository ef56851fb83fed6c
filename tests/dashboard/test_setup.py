"""DNS credentials, accounts, private CAs and API keys."""

from unittest.mock import Mock

import pytest
from django.core.cache import cache
from django.test import Client

from accounts.models import ApiKey
from authorities import privateca
from authorities.models import AcmeAccount, PrivateCA
from dashboard import setup
from dnsproviders.models import DisabledProvider, DnsCredential, TxtRecord
from tests import factories
from tests.dashboard.streamed import streamed

pytestmark = pytest.mark.django_db
CLOUDFLARE = {"provider": "cloudflare", "name": "mine", "api_token": "t" * 40, "form_key": "k"}


def test_a_credential_is_stored_once_and_its_secret_never_shown(visitor):
    assert visitor.post("/dns-credentials", CLOUDFLARE).status_code == 302
    again = visitor.post("/dns-credentials", CLOUDFLARE)
    assert again.status_code == 409
    assert DnsCredential.objects.get().name == "mine"
    assert "t" * 40 not in visitor.get("/dns-credentials").content.decode() + again.content.decode()


def test_the_choices_of_a_field_are_words_in_the_language_of_the_reader(visitor):
    page = visitor.get("/dns-credentials", HTTP_ACCEPT_LANGUAGE="zh").content.decode()
    assert '<option value="authoritative" selected>权威服务器</option>' in page


def test_a_form_that_was_refused_may_be_sent_again(visitor):
    wrong = visitor.post("/dns-credentials", CLOUDFLARE | {"ttl": "x", "api_token": "secret-token"})
    assert wrong.status_code == 400
    assert 'value="mine"' in wrong.content.decode()
    assert "secret-token" not in wrong.content.decode()
    assert visitor.post("/dns-credentials", CLOUDFLARE).status_code == 302


def test_the_test_of_a_credential_shows_what_the_provider_says(visitor, credential, monkeypatch):
    monkeypatch.setattr("dnsproviders.registry.provider_with", lambda row: Checked())
    visitor.post(f"/dns-credentials/{credential.pk}/check")
    credential.refresh_from_db()
    assert credential.checked_at
    assert "accepts" in visitor.get("/dns-credentials").content.decode()


def test_a_test_with_a_record_shows_the_calls_to_the_provider(visitor, credential, world):
    sent = {"name": "www.example.com"}
    visitor.post(f"/dns-credentials/{credential.pk}/check", sent)
    page = visitor.get("/dns-credentials").content.decode()
    assert "A TXT record of www.example.com was written and removed" in page
    assert world.outside.calls == ["zone.zone_of", "zone.present", "zone.cleanup"]
    assert TxtRecord.objects.get(name="_acme-challenge.www.example.com").cleaned_at


class Checked:
    def check(self) -> None:
        """The provider accepts the credential."""


def test_a_credential_and_an_account_in_use_are_not_deleted(visitor, certificate, credential):
    name = {"typed": certificate.account.name}
    assert visitor.post(f"/accounts/{certificate.account_id}/delete", name).status_code == 409
    assert AcmeAccount.objects.get().retired_at is None


@pytest.mark.parametrize("kind", [DnsCredential, AcmeAccount, PrivateCA])
def test_a_row_is_deleted_when_its_name_is_typed(visitor, alice, world, kind):
    rows = {
        DnsCredential: ("dns-credentials", lambda: world.credential(alice)),
        AcmeAccount: ("accounts", lambda: world.account(alice)),
        PrivateCA: ("private-cas", lambda: privateca.create_private_ca(alice, {"name": "lab"})),
    }
    path, make = rows[kind]
    row = make()
    refused = visitor.post(f"/{path}/{row.pk}/delete", {"typed": "another"})
    assert refused.status_code == 400
    assert b'class="fold slim" open' in refused.content
    page = visitor.get(f"/{path}").content.decode()
    assert f'placeholder="{row.name}"' in page
    assert visitor.post(f"/{path}/{row.pk}/delete", {"typed": row.name}).status_code == 302
    assert f'placeholder="{row.name}"' not in visitor.get(f"/{path}").content.decode()


def test_a_secret_is_replaced_and_the_other_fields_stay(visitor):
    visitor.post("/dns-credentials", CLOUDFLARE)
    row = DnsCredential.objects.get()
    shown = {field["name"]: value for field, value in shown_of(visitor)}
    assert shown["api_token"] == ""
    old = row.secret_id
    address = f"/dns-credentials/{row.pk}/change"
    assert visitor.post(address, shown | {"name": "renamed"}).status_code == 302
    row.refresh_from_db()
    assert (row.name, row.secret_id) == ("renamed", old)
    named = shown | {"name": "renamed"}
    assert visitor.post(address, named | {"api_token": "n" * 40}).status_code == 302
    row.refresh_from_db()
    assert row.secret_id != old
    assert row.ttl == 60
    refused = visitor.post(address, named | {"ttl": "soon", "api_token": "secret-token"})
    assert refused.status_code == 400
    assert "secret-token" not in refused.content.decode()


def shown_of(visitor):
    (row,) = visitor.get("/dns-credentials").context["rows"]
    return row.fields


def test_an_account_is_renamed_and_debugged(visitor, account):
    form = {"name": "renamed <b>", "email": "ops@example.org", "debugging": "on"}
    assert visitor.post(f"/accounts/{account.pk}/change", form).status_code == 302
    account.refresh_from_db()
    assert (account.name, account.email) == ("renamed <b>", "ops@example.org")
    assert (account.log_level, account.save_requests) == ("debug", False)
    assert "renamed &lt;b&gt;" in visitor.get("/accounts").content.decode()
    visitor.post(f"/accounts/{account.pk}/change", form | {"debugging": ""})
    account.refresh_from_db()
    assert account.log_level == ""
    assert visitor.post(f"/accounts/{account.pk}/change", form | {"email": "x"}).status_code == 400


def test_an_account_needs_the_terms(visitor, world):
    form = {"ca": "letsencrypt", "email": "a@example.org", "name": "le"}
    assert visitor.post("/accounts", form).status_code == 400
    assert visitor.post("/accounts", form | {"terms": "on"}).status_code == 302
    assert AcmeAccount.objects.get().name == "le"


def test_a_private_ca_has_an_account_and_its_files(visitor):
    form = {"name": "lab", "valid_days": "30", "kind": "ECDSA-384"}
    assert visitor.post("/private-cas", form).status_code == 302
    private_ca = PrivateCA.objects.get()
    assert (private_ca.algorithm, private_ca.key_size) == ("ECDSA", 384)
    account = AcmeAccount.objects.get(private_ca=private_ca)
    visitor.post("/issue", {"names": "a.lab.test", "account": account.pk, "action": "issue"})
    rows = streamed(visitor.get(f"/private-cas/{private_ca.pk}/issued.csv")).decode().split()
    assert len(rows) == 2
    assert "a.lab.test" in rows[1]


def test_the_issued_versions_are_read_part_by_part(visitor, monkeypatch):
    visitor.post("/private-cas", {"name": "lab", "valid_days": "30"})
    private_ca, account = PrivateCA.objects.get(), AcmeAccount.objects.get()
    for name in "abcde":
        form = {"names": f"{name}.lab.test", "account": account.pk, "action": "issue"}
        visitor.post("/issue", form)
    address = f"/private-cas/{private_ca.pk}/issued.csv"
    whole = streamed(visitor.get(address))
    monkeypatch.setattr(setup, "READ_AT_ONCE", 2)
    assert streamed(visitor.get(address)) == whole
    assert [line.split(",")[1][:1] for line in whole.decode().split()[1:]] == list("abcde")


@pytest.mark.parametrize("days", ["0", "x", "99999"])
def test_a_private_ca_with_a_wrong_life_is_refused(visitor, days):
    form = {"name": "lab", "valid_days": days}
    assert visitor.post("/private-cas", form).status_code == 400
    assert not PrivateCA.objects.exists()


def test_the_token_of_a_key_is_shown_once(visitor, client_of):
    form = {"name": "ci", "may": "read", "days": "9", "form_key": "k"}
    page = visitor.post("/api-keys", form)
    token = page.context["token"]
    assert token in page.content.decode()
    assert page.headers["Cache-Control"] == "no-store"
    assert token not in visitor.get("/api-keys").content.decode()
    assert visitor.post("/api-keys", form).status_code == 409
    assert client_of(token=token).get("/apiv1/me/certificates").status_code == 200
    assert client_of(token=token).post("/apiv1/me/certificates", {}).status_code == 403
    visitor.post(f"/api-keys/{ApiKey.objects.get().pk}/revoke")
    assert client_of(token=token).get("/apiv1/me/certificates").status_code == 401


@pytest.mark.parametrize("form", [{"name": ""}, {"may": "rule"}, {"days": "0"}, {"days": "9999"}])
def test_a_bad_key_is_refused(visitor, form):
    whole = {"name": "ci", "may": "read", "days": "9"} | form
    assert visitor.post("/api-keys", whole).status_code == 400
    assert not ApiKey.objects.exists()


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_private_ca_is_stored_with_its_account(visitor):
    """Locks work in a transaction only, which most tests have around them."""
    form = {"name": "inside", "common_name": "Inside CA", "valid_days": "365"}
    assert visitor.post("/private-cas", form).status_code == 302
    assert AcmeAccount.objects.get().private_ca == PrivateCA.objects.get()


def test_a_refused_form_says_why_while_the_cache_is_away(visitor, monkeypatch):
    visitor.get("/private-cas")
    for name in ("add", "delete"):
        monkeypatch.setattr(cache, name, Mock(side_effect=ConnectionError))
    form = {"name": "inside", "common_name": "Inside CA", "valid_days": "0", "form_key": "a"}
    assert visitor.post("/private-cas", form).status_code == 400


@pytest.mark.parametrize("path", ["/accounts/3/delete", "/private-cas/3/delete"])
def test_the_address_of_a_button_leads_to_its_page(visitor, path):
    assert visitor.get(path).url == "/" + path.split("/")[1]


def test_the_form_of_a_provider_comes_back_after_a_new_sign_in(alice):
    client = Client()
    form = {"provider": "rfc2136", "name": "mine", "server": "192.0.2.53", "key_secret": "c2VjcmV0"}
    asked = client.post("/dns-credentials", form)
    assert asked.status_code == 401
    assert "c2VjcmV0" not in asked.content.decode()
    sent = {"email": alice.email, "password": factories.PASSWORD, "next": "/dns-credentials"}
    client.post("/sign-in", sent | {"kept": asked.context["kept"]})
    shown = client.get("/dns-credentials").content.decode()
    assert 'name="provider" value="rfc2136"' in shown
    assert 'value="192.0.2.53"' in shown
    assert "c2VjcmV0" not in shown


def test_the_pages_say_that_a_provider_is_disabled(visitor, credential, world):
    DisabledProvider.objects.create(
        provider="httpreq", disabled_at=world.time, why="its API has an outage"
    )
    page = visitor.get("/dns-credentials?provider=httpreq").content.decode()
    assert page.count("its API has an outage") == 2  # at the credential, and in place of the form
    assert "Store it" not in page
    assert "Store it" in visitor.get("/dns-credentials?provider=cloudflare").content.decode()
    assert "its provider is disabled" in visitor.get("/issue").content.decode()
