"""DNS credentials over HTTP: catalogue, create, change, check, delete. Secrets are never shown."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
import responses
from django.conf import settings

from dnsproviders.api import CredentialCheckThrottle
from dnsproviders.models import DisabledProvider, DnsCredential
from keystore import envelope
from tests.issuance.api.calling import Caller, refused, rows
from tests.servers import free_port

pytestmark = pytest.mark.django_db

SECRETS = ("cf-secret-token", "aliyun-secret", "c2VjcmV0LXRzaWcta2V5", "httpreq-password")
CLOUDFLARE = {"provider": "cloudflare", "api_token": SECRETS[0]}
ALIYUN = {"provider": "aliyun", "access_key_id": "LTAI-key-id", "access_key_secret": SECRETS[1]}
RFC2136 = {
    "provider": "rfc2136",
    "server": "ns1.example.com",
    "port": 53,
    "key_name": "certctrl.",
    "algorithm": "hmac-sha256",
    "secret": SECRETS[2],
}
HTTPREQ = {
    "provider": "httpreq",
    "endpoint": "https://dns.example.com/acme",
    "username": "me",
    "password": SECRETS[3],
}
ALL = {"cloudflare": CLOUDFLARE, "aliyun": ALIYUN, "rfc2136": RFC2136, "httpreq": HTTPREQ}


@pytest.fixture
def api(client_of: Any, alice: Any) -> Caller:
    return Caller(client_of(alice))


@pytest.mark.parametrize("body", ALL.values(), ids=ALL)
def test_credentials_of_each_provider_are_stored_and_secrets_never_shown(
    api: Caller, body: Any
) -> None:
    made = api.post("dns-providers", body)
    assert made.status_code == 201, made.content
    pk = made.data_member["id"]
    assert {"id", "provider", "name", "zone_id", "created_at"} <= set(made.data_member)
    assert made.data_member["provider"] == body["provider"]
    for answer in (
        made,
        api.get(f"dns-providers/{pk}"),
        api.get("dns-providers"),
        api.put(f"dns-providers/{pk}", {}),
    ):
        assert answer.status_code < 300
        assert not any(secret.encode() in answer.content for secret in SECRETS)
    sealed = DnsCredential.objects.get().secret
    assert any(secret.encode() in envelope.unseal(sealed) for secret in SECRETS)


def test_the_guides_call_with_its_zone(api: Caller) -> None:
    shown = api.post(
        "dns-providers", CLOUDFLARE | {"zone_id": "023e105f4ecef8ad9ca31a8372d0c353"}
    ).data_member
    assert shown["zone_id"] == "023e105f4ecef8ad9ca31a8372d0c353"
    assert (shown["ttl"], shown["propagation_check"]) == (60, "authoritative")
    assert (shown["propagation_timeout"], shown["settle"]) == (1800, 0)
    assert 1_000_000_000 < shown["created_at"] < 10_000_000_000, "epoch seconds"


def test_updates_without_a_key_are_taken_and_marked_as_weak(api: Caller) -> None:
    made = api.post(
        "dns-providers",
        {"provider": "rfc2136", "server": "ns1.example.com", "zone": "Example.com."},
    )
    assert made.status_code == 201, made.content
    assert (made.data_member["zone"], made.data_member["algorithm"]) == (
        "example.com",
        "hmac-sha256",
    )
    assert "That is weak" in made.data_member["note"]
    assert api.put(f"dns-providers/{made.data_member['id']}", made.data_member).status_code == 200
    keyed = api.post(
        "dns-providers", RFC2136 | {"algorithm": "HMAC-SHA512.", "secret": f'"{SECRETS[2]}";\n'}
    )
    assert keyed.status_code == 201, keyed.content
    assert (keyed.data_member["algorithm"], keyed.data_member["note"]) == ("hmac-sha512", "")


def test_key_name_and_secret_are_removed_only_together(api: Caller) -> None:
    pk = api.post("dns-providers", RFC2136).data_member["id"]
    assert "secret" in refused(api.put(f"dns-providers/{pk}", {"key_name": None}), 400)
    gone = api.put(f"dns-providers/{pk}", {"key_name": None, "secret": None})
    assert "That is weak" in gone.data_member["note"]


def test_the_alias_of_aliyun_is_taken(api: Caller) -> None:
    assert (
        api.post("dns-providers", ALIYUN | {"provider": "ali"}).data_member["provider"] == "aliyun"
    )


def test_the_common_fields_are_kept(api: Caller) -> None:
    given = {
        "name": "mine",
        "ttl": 300,
        "propagation_check": "recursive",
        "propagation_timeout": 600,
        "settle": 5,
    }
    shown = api.post("dns-providers", CLOUDFLARE | given).data_member
    assert {name: shown[name] for name in given} == given


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "provider"),
        ({"provider": "nobody"}, "provider"),
        ({"provider": 7}, "provider"),
        ({"provider": "cloudflare"}, "api_token"),
        (CLOUDFLARE | {"api_token": ""}, "api_token"),
        (CLOUDFLARE | {"api_token": ["a"]}, "api_token"),
        (CLOUDFLARE | {"access_key_id": "LTAI"}, "access_key_id"),
        (CLOUDFLARE | {"id": 7}, "id"),
        (ALIYUN | {"access_key_secret": None}, "access_key_secret"),
        (ALIYUN | {"zone_id": "z"}, "zone_id"),
        (RFC2136 | {"algorithm": "hmac-md4"}, "algorithm"),
        (RFC2136 | {"port": 70000}, "port"),
        (RFC2136 | {"secret": "not base64!"}, "secret"),
        (HTTPREQ | {"endpoint": "ftp://dns.example.com"}, "endpoint"),
        (CLOUDFLARE | {"ttl": 0}, "ttl"),
        (CLOUDFLARE | {"ttl": "long"}, "ttl"),
        (CLOUDFLARE | {"propagation_check": "never"}, "propagation_check"),
        (CLOUDFLARE | {"propagation_timeout": 1}, "propagation_timeout"),
        (CLOUDFLARE | {"settle": -1}, "settle"),
        (CLOUDFLARE | {"name": "n" * 65}, "name"),
    ],
)
def test_a_wrong_member_is_refused_by_its_name_and_leaves_nothing(
    api: Caller, body: Any, field: str
) -> None:
    before = rows()
    answer = api.post("dns-providers", body)
    refused(answer, 400, field)
    assert not any(secret.encode() in answer.content for secret in SECRETS)
    assert rows() == before


@pytest.mark.parametrize("body", ALL.values(), ids=ALL)
def test_the_response_of_a_get_may_be_sent_back_whole(api: Caller, body: Any) -> None:
    pk = api.post("dns-providers", body).data_member["id"]
    before = api.get(f"dns-providers/{pk}").data_member
    secret = DnsCredential.objects.get().secret_id
    answer = api.put(f"dns-providers/{pk}", before | {"name": "renamed"})
    assert answer.status_code == 200, answer.content
    assert answer.data_member == before | {"name": "renamed"}
    assert DnsCredential.objects.get().secret_id == secret


def test_put_and_patch_change_what_is_given(api: Caller) -> None:
    pk = api.post("dns-providers", CLOUDFLARE).data_member["id"]
    assert api.put(f"dns-providers/{pk}", {"ttl": 120}).data_member["ttl"] == 120
    assert api.patch(f"dns-providers/{pk}", {"settle": 9}).data_member["settle"] == 9
    assert api.put(f"dns-providers/{pk}", {"api_token": "another-token"}).status_code == 200
    assert b"another-token" in envelope.unseal(DnsCredential.objects.get().secret)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"provider": "aliyun"}, "provider"),
        ({"ttl": 0}, "ttl"),
        ({"api_token": None}, "api_token"),
        ({"x": 1}, "x"),
    ],
)
def test_a_wrong_change_changes_nothing(api: Caller, changes: Any, field: str) -> None:
    pk = api.post("dns-providers", CLOUDFLARE).data_member["id"]
    before = rows()
    shown = api.get(f"dns-providers/{pk}").data_member
    refused(api.put(f"dns-providers/{pk}", changes | {"name": "other"}), 400, field)
    assert rows() == before
    assert api.get(f"dns-providers/{pk}").data_member == shown


def test_a_credential_is_deleted_and_gone(api: Caller) -> None:
    pk = api.post("dns-providers", CLOUDFLARE).data_member["id"]
    assert api.delete(f"dns-providers/{pk}").status_code == 204
    assert api.get("dns-providers").data_member == []
    for answer in (
        api.get(f"dns-providers/{pk}"),
        api.put(f"dns-providers/{pk}", {}),
        api.delete(f"dns-providers/{pk}"),
    ):
        refused(answer, 404)


def test_a_credential_in_use_is_not_deleted_and_says_by_what(api: Caller) -> None:
    pk = api.post("dns-providers", CLOUDFLARE).data_member["id"]
    account = {
        "ca_provider": "custom",
        "directory_url": "https://ca.example.org/dir",
        "terms_accepted": True,
    }
    account_id = api.post("acme-accounts", account).data_member["id"]
    body = {"domain_name": "example.com", "acct_id": account_id, "dns_provider_id": pk}
    certificate = api.post("certificates", body).data_member["id"]
    assert "example.com" in refused(api.delete(f"dns-providers/{pk}"), 409)
    api.delete(f"certificates/{certificate}")
    assert api.delete(f"dns-providers/{pk}").status_code == 204


# --- check ---


@pytest.mark.parametrize(
    ("status", "answer", "shown", "code"),
    [
        (
            200,
            {"success": True, "result": [{"id": "1", "name": "example.com"}], "result_info": {}},
            200,
            "",
        ),
        (
            401,
            {"success": False, "errors": [{"code": 10000, "message": "no"}]},
            400,
            "dns_credential_refused",
        ),
        (429, {"success": False, "errors": []}, 502, "dns_rate_limited"),
        (200, "<html>maintenance</html>", 502, "dns_bad_answer"),
        (500, "", 502, "dns_"),
    ],
)
@responses.activate
def test_a_check_distinguishes_the_answers_of_the_provider(
    api: Caller, status: int, answer: Any, shown: int, code: str
) -> None:
    body = {"json": answer} if isinstance(answer, dict) else {"body": answer}
    responses.get(re.compile(re.escape(settings.CLOUDFLARE_API_URL)), status=status, **body)
    pk = api.post("dns-providers", CLOUDFLARE).data_member["id"]
    checked = api.post(f"dns-providers/{pk}/check")
    assert checked.status_code == shown, checked.content
    assert not any(secret.encode() in checked.content for secret in SECRETS)
    after = api.get(f"dns-providers/{pk}").data_member
    assert after["checked_at"] > 1_000_000_000
    if code:
        refused(checked, shown)
        assert checked.error["params"]["dns"].startswith(code)
        assert after["last_error"] == checked.error["what"]
    else:
        assert after["last_error"] == ""


@responses.activate
def test_a_check_reports_an_unreachable_provider(api: Caller) -> None:
    pk = api.post("dns-providers", CLOUDFLARE).data_member["id"]
    checked = api.post(f"dns-providers/{pk}/check")
    refused(checked, 502)
    assert checked.error["params"]["dns"] == "dns_unreachable"


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    """Ports without a DNS server: closed, hanging up, and with another protocol."""

    def answer(listener: socket.socket, what: bytes) -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.recv(1024)
                connection.sendall(what)
                connection.close()

    listeners = {
        name: socket.create_server(("127.0.0.1", 0)) for name in ("closed", "hangs up", "babbles")
    }
    listeners["closed"].close()
    found = {name: each.getsockname()[1] for name, each in listeners.items() if name != "closed"}
    for name, what in (("hangs up", b""), ("babbles", b"\0\x0cno DNS here")):
        threading.Thread(target=answer, args=(listeners[name], what), daemon=True).start()
    yield found | {"closed": free_port()}
    for each in listeners.values():
        each.close()


def words_of_checks(api: Caller, ports: dict[str, int]) -> set[str]:
    words = set()
    for port in ports.values():
        body = RFC2136 | {"server": "127.0.0.1", "port": port}
        checked = api.post(
            f"dns-providers/{api.post('dns-providers', body).data_member['id']}/check"
        )
        refused(checked, 502)
        words.add(checked.error["what"].replace(str(port), "PORT"))
    return words


def test_a_tenants_check_does_not_reveal_the_service_at_a_port(
    api: Caller, ports: dict[str, int]
) -> None:
    assert len(words_of_checks(api, ports)) == 1


def test_a_check_by_staff_reveals_the_service_at_a_port(
    api: Caller, alice: Any, ports: dict[str, int]
) -> None:
    alice.is_staff = True
    alice.save()
    assert len(words_of_checks(api, ports)) > 1


def test_checks_of_credentials_are_limited_for_each_owner(
    api: Caller, client_of: Any, bob: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(CredentialCheckThrottle, "rate", "1/hour")
    made = api.post(
        "dns-providers", RFC2136 | {"server": "127.0.0.1", "port": free_port()}
    ).data_member["id"]
    refused(api.post(f"dns-providers/{made}/check"), 502)
    limited = api.post(f"dns-providers/{made}/check")
    refused(limited, 429)
    assert 0 < int(limited.headers["Retry-After"]) <= 3600
    refused(Caller(client_of(bob)).post(f"dns-providers/{made}/check"), 404)


# --- catalogue ---


def test_anybody_reads_the_catalogue_with_the_fields_of_each_provider(
    client_of: Any, db: None
) -> None:
    catalog = client_of().get("/apiv1/dns/providers/catalog").data_member
    assert {entry["id"] for entry in catalog} == set(ALL)
    for entry in catalog:
        required = {field["name"] for field in entry["fields"] if field["required"]}
        assert required <= set(ALL[entry["id"]])
        assert set(ALL[entry["id"]]) - {"provider"} <= {field["name"] for field in entry["fields"]}
    secret = {field["name"] for entry in catalog for field in entry["fields"] if field["secret"]}
    assert secret == {"api_token", "access_key_secret", "secret", "password"}


def test_the_catalogue_is_in_the_language_of_the_request(client_of: Any, db: None) -> None:
    response = client_of().get("/apiv1/dns/providers/catalog", HTTP_ACCEPT_LANGUAGE="zh")
    aliyun = next(each for each in response.data_member if each["id"] == "aliyun")
    assert aliyun["name"] == "阿里云"
    helps = [each["help"] for each in aliyun["fields"] if each["help"]]
    assert all(any("\u4e00" <= char <= "\u9fff" for char in each) for each in helps)


# --- API keys ---


def test_a_key_reads_or_writes_as_it_was_granted(key_client: Any, alice: Any, api: Caller) -> None:
    pk = api.post("dns-providers", CLOUDFLARE).data_member["id"]
    reader = Caller(key_client(alice, "dns_providers:*[read]"))
    assert reader.get(f"dns-providers/{pk}").status_code == 200
    for answer in (reader.post("dns-providers", ALIYUN), reader.delete(f"dns-providers/{pk}")):
        refused(answer, 403)
    refused(reader.post(f"dns-providers/{pk}/check"), 403)
    writer = Caller(key_client(alice, f"dns_providers:{pk}[write]"))
    assert writer.put(f"dns-providers/{pk}", {"ttl": 300}).status_code == 200
    refused(writer.post("dns-providers", ALIYUN), 403)


# --- a provider that the operator has disabled ---


@pytest.fixture
def disabled(alice) -> DisabledProvider:
    row = {"disabled_at": datetime(2026, 1, 1, tzinfo=UTC), "why": "its API has an outage"}
    return DisabledProvider.objects.create(provider="cloudflare", by=alice, **row)


def test_the_catalog_says_which_provider_is_disabled_and_why(api: Caller, disabled) -> None:
    catalog = api.client.get("/apiv1/dns/providers/catalog").data_member
    found = {each["id"]: (each["disabled_at"], each["note"]) for each in catalog}
    why = (
        "The DNS provider Cloudflare is disabled on this server. The reason: its API has an outage."
    )
    assert found.pop("cloudflare") == (1767225600, why)
    assert set(found.values()) == {(None, "")}


def test_no_credential_is_made_for_a_disabled_provider(api: Caller, disabled) -> None:
    what = refused(api.post("dns-providers", CLOUDFLARE), 409, "provider")
    assert "its API has an outage" in what
    assert not DnsCredential.objects.exists()
    assert api.post("dns-providers", HTTPREQ).status_code == 201


def test_a_credential_of_a_disabled_provider_says_so_and_is_not_checked(api: Caller, alice) -> None:
    made = api.post("dns-providers", CLOUDFLARE).data_member
    assert made["note"] == ""
    DisabledProvider.objects.create(
        provider="cloudflare", disabled_at=datetime(2026, 1, 1, tzinfo=UTC), why="an outage"
    )
    assert "an outage" in api.get(f"dns-providers/{made['id']}").data_member["note"]
    refused(api.post(f"dns-providers/{made['id']}/check", {}), 409)
    assert api.put(f"dns-providers/{made['id']}", {"name": "renamed"}).status_code == 200
