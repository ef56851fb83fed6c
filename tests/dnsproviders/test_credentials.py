"""Creating, changing, checking and retiring DNS credentials."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import responses

from accounts.models import User
from authorities.models import AcmeAccount
from certctrl import clock, errors
from dnsproviders import credentials, records, registry
from dnsproviders.base import ProviderError
from dnsproviders.models import DnsCredential, TxtRecord
from issuance.models import Certificate
from keystore.envelope import CannotOpen
from keystore.models import Envelope, KeyWrap
from tests.dnsproviders.nameserver import KEY_NAME, SECRET, WRONG, NameServer, running

pytestmark = pytest.mark.django_db

CLOUDFLARE = {
    "provider": "cloudflare",
    "api_token": "tok-never-shown",
    "zone_id": "023e105f4ecef8ad9ca31a8372d0c353",
}
ALIYUN = {"provider": "ali", "access_key_id": "LTAI5t", "access_key_secret": "key-never-shown"}
RFC2136 = {
    "provider": "rfc2136",
    "server": "ns1.example.com",
    "key_name": KEY_NAME,
    "secret": SECRET,
}
HTTPREQ = {
    "provider": "httpreq",
    "endpoint": "https://dns.example.net/",
    "username": "u",
    "password": "pw-never-shown",
}
ALL = [CLOUDFLARE, ALIYUN, RFC2136, HTTPREQ]


@pytest.fixture
def owner() -> User:
    return User.objects.create_user("owner@example.com")


def certificate_with(credential: DnsCredential) -> Certificate:
    account = AcmeAccount.objects.create(
        owner=credential.owner,
        name="a",
        ca_provider="custom",
        key=credential.secret,
        terms_accepted_at=clock.now(),
    )
    return Certificate.objects.create(
        owner=credential.owner,
        domain="example.com",
        names=["example.com"],
        account=account,
        credential=credential,
        request_digest="a",
    )


# --- Creating ---


@pytest.mark.parametrize("data", ALL, ids=lambda data: data["provider"])
def test_a_credential_is_stored_with_its_secrets_in_one_envelope(
    owner: User, data: dict[str, Any]
) -> None:
    credential = credentials.create_credential(owner, data)
    assert (credential.ttl, credential.propagation_check, credential.settle) == (
        60,
        "authoritative",
        0,
    )
    secrets = registry.secrets_of(credential)
    assert set(secrets) | set(credential.public) >= set(data) - {"provider"}
    row = DnsCredential.objects.filter(pk=credential.pk).values().get()
    assert not [value for value in secrets.values() if value in str(row)]
    assert credential.secret is not None
    assert credential.secret.purpose == "dns_credential"


def test_the_alias_is_stored_as_the_provider_and_names_it(owner: User) -> None:
    credential = credentials.create_credential(owner, ALIYUN)
    assert (credential.provider, credential.name) == ("aliyun", "Aliyun")
    assert credential.public == {"access_key_id": "LTAI5t"}


def test_an_omitted_field_has_its_default(owner: User) -> None:
    assert credentials.create_credential(owner, RFC2136).public == {
        "server": "ns1.example.com",
        "port": 53,
        "key_name": KEY_NAME,
        "algorithm": "hmac-sha256",
    }


def test_the_common_fields_are_kept(owner: User) -> None:
    common = {
        "name": "mine",
        "ttl": 300,
        "propagation_check": "off",
        "propagation_timeout": 90,
        "settle": 7,
    }
    credential = credentials.create_credential(owner, CLOUDFLARE | common)
    assert {name: getattr(credential, name) for name in common} == common


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"api_token": "x"}, "provider", "missing"),
    ({"provider": "route54", "api_token": "x"}, "provider", "Give one of cloudflare"),
    ({"provider": 7}, "provider", "must be one of"),
    ({"provider": "cloudflare"}, "api_token", "missing"),
    ({"provider": "cloudflare", "api_token": ""}, "api_token", "missing"),
    ({"provider": "cloudflare", "api_token": None}, "api_token", "missing"),
    (CLOUDFLARE | {"api_key": "x"}, "api_key", "Cloudflare has no field"),
    (CLOUDFLARE | {"secret": None}, "secret", "Cloudflare has no field"),
    (CLOUDFLARE | {"api_token": 12345}, "api_token", "text"),
    (CLOUDFLARE | {"api_token": ["x"]}, "api_token", "text"),
    (CLOUDFLARE | {"api_token": "x\n"}, "api_token", "control character"),
    (CLOUDFLARE | {"api_token": "x y"}, "api_token", "without spaces"),
    (CLOUDFLARE | {"api_token": "x" * 4097}, "api_token", "longer than 4096"),
    (CLOUDFLARE | {"zone_id": "../accounts"}, "zone_id", "id of the zone"),
    (CLOUDFLARE | {"name": "x" * 65}, "name", "longer than 64"),
    (CLOUDFLARE | {"name": "a\x00b"}, "name", "control character"),
    (CLOUDFLARE | {"name": "a\ud800"}, "name", "control character"),
    (CLOUDFLARE | {"ttl": 0}, "ttl", "from 1 to 86400"),
    (CLOUDFLARE | {"ttl": 86401}, "ttl", "from 1 to 86400"),
    (CLOUDFLARE | {"ttl": "60"}, "ttl", "whole number"),
    (CLOUDFLARE | {"ttl": True}, "ttl", "whole number"),
    (CLOUDFLARE | {"ttl": 60.5}, "ttl", "whole number"),
    (
        CLOUDFLARE | {"propagation_check": "maybe"},
        "propagation_check",
        "authoritative, recursive, off",
    ),
    (CLOUDFLARE | {"propagation_timeout": 29}, "propagation_timeout", "from 30 to 86400"),
    (CLOUDFLARE | {"settle": -1}, "settle", "from 0 to 3600"),
    (RFC2136 | {"port": 0}, "port", "from 1 to 65535"),
    (RFC2136 | {"port": 65536}, "port", "from 1 to 65535"),
    (RFC2136 | {"secret": "not base64"}, "secret", "base64"),
    (RFC2136 | {"algorithm": "gss-tsig"}, "algorithm", "must be one of hmac-sha256"),
    (RFC2136 | {"server": "a b"}, "server", "host name or an address"),
    (HTTPREQ | {"endpoint": "ftp://x"}, "endpoint", "URL"),
    (HTTPREQ | {"endpoint": "https://u:p@x"}, "endpoint", "user name or password"),
    (HTTPREQ | {"password": None}, "password", "missing"),
    (HTTPREQ | {"username": None}, "username", "missing"),
    ({**ALIYUN, "access_key_secret": None}, "access_key_secret", "missing"),
]


@pytest.mark.parametrize(("data", "field", "words"), BAD)
def test_bad_input_is_refused_by_field_and_leaves_nothing_behind(
    owner: User, data: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(errors.ApiError, match=words) as caught:
        credentials.create_credential(owner, data)
    assert caught.value.params == {"field": field}
    assert caught.value.status == 400
    assert isinstance(caught.value, errors.MissingField) == (words == "missing")
    assert not DnsCredential.objects.exists()
    assert not Envelope.objects.exists()
    shown = caught.value.what + repr(caught.value)
    assert not [each for each in ("never-shown", SECRET, "not base64") if each in shown]


@pytest.mark.parametrize("data", [[], "cloudflare", None, 7])
def test_a_value_that_is_not_an_object_is_refused(owner: User, data: object) -> None:
    with pytest.raises(errors.Invalid, match="JSON object"):
        credentials.create_credential(owner, data)


# --- Changing ---


def test_an_omitted_field_keeps_its_value(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE | {"ttl": 300})
    sealed = credential.secret_id
    credentials.update_credential(credential, {"name": "other", "provider": "Cloudflare"})
    assert (credential.name, credential.ttl, credential.secret_id) == ("other", 300, sealed)
    assert credential.public["zone_id"] == CLOUDFLARE["zone_id"]


def test_null_takes_an_optional_field_away_and_refuses_a_required_one(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE | {"ttl": 300})
    credentials.update_credential(credential, {"zone_id": None, "ttl": None})
    assert (credential.public, credential.ttl) == ({}, 60)
    with pytest.raises(errors.MissingField):
        credentials.update_credential(credential, {"api_token": None})


def test_a_new_secret_replaces_the_envelope_and_forgets_the_last_check(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE)
    DnsCredential.objects.update(last_error="refused", checked_at=datetime(2026, 1, 1, tzinfo=UTC))
    old = credential.secret_id
    credentials.update_credential(credential, {"api_token": "new-token"})
    assert registry.secrets_of(credential) == {"api_token": "new-token"}
    assert (credential.last_error, credential.checked_at) == ("", None)
    assert not Envelope.objects.filter(pk=old).exists()
    assert not KeyWrap.objects.filter(envelope=old).exists()


def test_a_new_endpoint_requires_the_password_again(
    owner: User,
) -> None:
    credential = credentials.create_credential(owner, HTTPREQ)
    with pytest.raises(errors.MissingField, match="It is needed again") as caught:
        credentials.update_credential(credential, {"endpoint": "https://evil.example"})
    assert caught.value.params == {"field": "password"}
    credentials.update_credential(
        credential, {"endpoint": "https://new.example", "password": "again"}
    )
    assert registry.secrets_of(credential) == {"password": "again"}
    credentials.update_credential(credential, {"endpoint": "https://new.example", "ttl": 90})
    credentials.update_credential(
        credential, {"endpoint": "https://x.example", "username": None, "password": None}
    )
    assert registry.secrets_of(credential) == {}


@pytest.mark.parametrize("has_the_envelope", [False, True])
def test_a_stale_credential_opens_with_the_new_endpoint_and_secret(
    owner: User, has_the_envelope: bool
) -> None:
    credential = credentials.create_credential(owner, HTTPREQ)
    held = DnsCredential.objects.get(pk=credential.pk)
    assert not has_the_envelope or held.secret
    credentials.update_credential(
        credential, {"endpoint": "https://new.example", "password": "again"}
    )
    provider = registry.open_credential(held)
    assert provider.secret["password"].reveal() == "again"
    assert provider.public["endpoint"] == "https://new.example"


def test_the_presence_of_a_secret_that_cannot_be_opened_is_shown(owner: User) -> None:
    credential = credentials.create_credential(owner, HTTPREQ)
    KeyWrap.objects.all().delete()
    with pytest.raises(CannotOpen):
        registry.open_credential(credential)


@pytest.mark.parametrize(
    "data", [{"provider": "aliyun"}, {"api_token": "x\n"}, {"bogus": 1}, {"ttl": 0}]
)
def test_a_bad_change_changes_nothing(owner: User, data: dict[str, Any]) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE)
    before = DnsCredential.objects.values().get()
    with pytest.raises(errors.Invalid):
        credentials.update_credential(credential, {"name": "new", "zone_id": None, **data})
    assert DnsCredential.objects.values().get() == before
    assert Envelope.objects.count() == 1


def test_a_retired_credential_is_not_changed(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE)
    credentials.retire_credential(credential)
    with pytest.raises(errors.Conflict):
        credentials.update_credential(credential, {"name": "new"})


# --- Retiring ---


def test_an_unused_credential_is_retired_once_and_for_all(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE)
    credentials.retire_credential(credential)
    first = credential.retired_at
    credentials.retire_credential(credential)
    assert first is not None
    assert credential.retired_at == first


def test_a_credential_that_a_certificate_uses_stays(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE)
    certificate = certificate_with(credential)
    with pytest.raises(errors.Conflict, match=r"example\.com uses"):
        credentials.retire_credential(credential)
    Certificate.objects.filter(pk=certificate.pk).update(retired_at=clock.now())
    credentials.retire_credential(credential)
    assert credential.retired_at


def test_a_credential_with_a_record_that_may_be_in_its_zone_stays(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE)
    record = TxtRecord.objects.create(
        credential=credential,
        name="_acme-challenge.example.com",
        value="v",
        intent_at=clock.now(),
        wake_at=clock.now(),
    )
    TxtRecord.objects.create(credential=credential, name="never", value="written")
    with pytest.raises(errors.Conflict, match=r"_acme-challenge\.example\.com may still be"):
        credentials.retire_credential(credential)
    TxtRecord.objects.filter(pk=record.pk).update(left_behind="The API refuses the token.")
    with pytest.raises(errors.Conflict, match=r"could not be removed.*The API refuses the token\."):
        credentials.retire_credential(credential)
    TxtRecord.objects.filter(pk=record.pk).update(cleaned_at=clock.now())
    credentials.retire_credential(credential)
    assert credential.retired_at


def test_a_pruned_credential_says_that_its_secret_is_gone(owner: User) -> None:
    credential = credentials.create_credential(owner, CLOUDFLARE)
    DnsCredential.objects.update(secret=None, retired_at=clock.now())
    credential.refresh_from_db()
    with pytest.raises(credentials.CheckFailed, match="were deleted"):
        credentials.check_credential(credential)


# --- Checking ---


@responses.activate
def test_a_good_check_is_noted(owner: User) -> None:
    responses.get(
        f"https://api.cloudflare.com/client/v4/zones/{CLOUDFLARE['zone_id']}/dns_records",
        json={"success": True, "result": []},
    )
    credential = credentials.create_credential(owner, CLOUDFLARE)
    DnsCredential.objects.update(last_error="refused")
    credentials.check_credential(credential)
    credential.refresh_from_db()
    assert credential.checked_at
    assert credential.last_error == ""


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [(401, 400, "dns_credential_refused"), (502, 502, "dns_bad_answer")],
)
@responses.activate
def test_a_failed_check_is_reported_and_stored_without_the_secret(
    owner: User, status: int, shown: int, code: str
) -> None:
    responses.get(
        f"https://api.cloudflare.com/client/v4/zones/{CLOUDFLARE['zone_id']}/dns_records",
        status=status,
        body=f"<html>{CLOUDFLARE['api_token']}",
    )
    credential = credentials.create_credential(owner, CLOUDFLARE)
    with pytest.raises(credentials.CheckFailed) as caught:
        credentials.check_credential(credential)
    credential.refresh_from_db()
    assert (caught.value.status, caught.value.params) == (shown, {"dns": code})
    assert credential.checked_at
    assert credential.last_error == caught.value.what
    assert "never-shown" not in credential.last_error


@pytest.fixture(params=["knotd", "named"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NameServer]:
    with running(request.param, tmp_path) as server:
        yield server


@pytest.fixture
def port(server: NameServer) -> int:
    return server.port


CHALLENGE = "_acme-challenge.www.lab.test"


def test_a_check_with_a_name_writes_a_record_and_removes_it(
    owner: User, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    withdraw = records.withdraw
    monkeypatch.setattr(
        records,
        "withdraw",
        lambda *given, **named: (seen.append(server.txt(CHALLENGE)), withdraw(*given, **named)),
    )
    data = RFC2136 | {"server": "127.0.0.1", "port": server.port}
    credential = credentials.create_credential(owner, data)
    calls = credentials.check_credential(credential, "*.WWW.lab.test.")
    assert [each.answer for each in calls if each.method == "UPDATE"] == ["NOERROR", "NOERROR"]
    row = TxtRecord.objects.get()
    assert (row.name, seen) == (CHALLENGE, [{row.value}])
    assert row.cleaned_at
    assert row.wake_at is None
    assert server.txt(CHALLENGE) == set()
    assert credential.checked_at


def test_a_record_that_a_check_cannot_remove_is_left_to_the_sweep(
    owner: User, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = RFC2136 | {"server": "127.0.0.1", "port": server.port}
    credential = credentials.create_credential(owner, data)
    refusal = ProviderError("dns_refused", "It is read-only now.")
    monkeypatch.setattr(registry.provider_class("rfc2136"), "cleanup", Mock(side_effect=refusal))
    with pytest.raises(credentials.CheckFailed, match="read-only"):
        credentials.check_credential(credential, "www.lab.test")
    row = TxtRecord.objects.get()
    assert row.left_behind == "It is read-only now."
    assert row.wake_at
    assert server.txt(CHALLENGE) == {row.value}


def test_the_name_of_a_challenge_gets_no_second_label(owner: User, server: NameServer) -> None:
    data = RFC2136 | {"server": "127.0.0.1", "port": server.port}
    credentials.check_credential(credentials.create_credential(owner, data), CHALLENGE)
    assert TxtRecord.objects.get().name == CHALLENGE


@pytest.mark.parametrize("name", ["a b.example.com", "x" * 250, "<b>", "..", "*"])
def test_a_check_refuses_a_name_that_can_have_no_record(owner: User, name: str) -> None:
    credential = credentials.create_credential(owner, RFC2136)
    with pytest.raises(errors.Invalid) as caught:
        credentials.check_credential(credential, name)
    assert caught.value.params["field"] == "name"
    assert not TxtRecord.objects.exists()
    assert credential.checked_at is None


def test_a_zone_that_was_written_to_before_proves_the_key_of_a_name_server(
    owner: User, port: int
) -> None:
    data = RFC2136 | {"server": "127.0.0.1", "port": port}
    good = credentials.create_credential(owner, data)
    wrong = credentials.create_credential(owner, data | {"secret": WRONG})
    for credential in (good, wrong):
        TxtRecord.objects.create(
            credential=credential, zone="lab.test", name="x.lab.test", value="v"
        )
    credentials.check_credential(good)
    with pytest.raises(credentials.CheckFailed, match="refuses the TSIG signature") as caught:
        credentials.check_credential(wrong)
    assert caught.value.status == 400


# --- whom calls go to ---


def lane_of(owner: User, **data: Any) -> str:
    return registry.lane_of_credential(credentials.create_credential(owner, data)).key


def test_credentials_of_one_provider_share_a_lane(owner: User) -> None:
    one, other = (lane_of(owner, provider="cloudflare", api_token="x" * 40) for _ in range(2))
    assert one == other == "api:cloudflare"


def test_credentials_for_other_hosts_have_other_lanes(owner: User) -> None:
    endpoint = "https://dns.example.com:8443"
    here = lane_of(owner, provider="httpreq", endpoint=f"{endpoint}/a")
    assert here == lane_of(owner, provider="httpreq", endpoint=f"{endpoint}/b")
    assert here != lane_of(owner, provider="httpreq", endpoint="https://dns.example.net")


def test_a_new_endpoint_is_a_new_lane(owner: User) -> None:
    made = credentials.create_credential(
        owner, {"provider": "httpreq", "endpoint": "https://old.example.com"}
    )
    credentials.update_credential(made, {"endpoint": "https://new.example.com"})
    assert registry.lane_of_credential(made).key == "api:httpreq:new.example.com"
    assert registry.lane_of_credential(made).name == "the DNS server new.example.com"
