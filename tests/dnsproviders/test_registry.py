"""Find a provider, open a credential, and show the catalogue."""

import json
from contextvars import copy_context

import pytest

from accounts.models import User
from certctrl import errors
from certctrl.outgoing import OutgoingSession
from dnsproviders import registry
from dnsproviders.base import COMMON_FIELDS, Field
from dnsproviders.credentials import create_credential, update_credential
from dnsproviders.models import DnsCredential
from dnsproviders.providers.aliyun import Aliyun
from dnsproviders.providers.cloudflare import Cloudflare
from keystore import envelope


@pytest.mark.parametrize("name", ["aliyun", "ali", "Aliyun", "ALI"])
def test_an_alias_in_any_case_finds_the_provider(name: str) -> None:
    assert registry.provider_class(name) is Aliyun
    assert registry.provider_id(name) == "aliyun"


def test_an_unknown_provider_is_refused_by_naming_those_there_are() -> None:
    with pytest.raises(errors.Invalid, match="cloudflare, aliyun, rfc2136, httpreq") as caught:
        registry.provider_class("route54")
    assert caught.value.params == {"field": "provider"}


def test_every_provider_loads_and_is_called_something(db: None) -> None:
    assert [each["id"] for each in registry.catalog()] == list(registry.PROVIDERS)
    assert all(each["name"] for each in registry.catalog())


def test_the_catalogue_shows_each_field_and_which_are_secret(db: None) -> None:
    shown = {
        each["id"]: {field["name"]: field for field in each["fields"]}
        for each in registry.catalog()
    }
    secret = {
        name: [key for key, field in fields.items() if field["secret"]]
        for name, fields in shown.items()
    }
    assert secret == {
        "cloudflare": ["api_token"],
        "aliyun": ["access_key_secret"],
        "rfc2136": ["secret"],
        "httpreq": ["password"],
    }
    assert {"name", "label", "required", "secret", "help"} <= set(shown["rfc2136"]["port"])
    for fields in shown.values():
        assert list(fields)[-5:] == [
            "name",
            "ttl",
            "propagation_check",
            "propagation_timeout",
            "settle",
        ]


def test_the_catalogue_is_json(db: None) -> None:
    json.dumps(registry.catalog())


def test_no_provider_has_a_field_of_the_common_names() -> None:
    common = {field.name for field in COMMON_FIELDS}
    fields: list[Field] = [
        each for name in registry.PROVIDERS for each in registry.provider_class(name).fields
    ]
    assert not common & {field.name for field in fields}


@pytest.mark.django_db
def test_an_opened_credential_has_a_wrapped_secret_and_guarded_session() -> None:
    owner = User.objects.create_user("a@example.com")
    credential = create_credential(
        owner, {"provider": "cloudflare", "api_token": "tok-never-shown"}
    )
    provider = registry.open_credential(credential)
    assert isinstance(provider, Cloudflare)
    assert provider.secret["api_token"].reveal() == "tok-never-shown"
    assert isinstance(provider.http, OutgoingSession)
    assert "tok-never-shown" not in repr(provider.__dict__) + str(provider.secret)


@pytest.fixture
def credential(alice: User) -> DnsCredential:
    return create_credential(alice, {"provider": "cloudflare", "api_token": "tok-1"})


def token_of(credential: DnsCredential) -> str:
    return registry.open_credential(credential).secret["api_token"].reveal()


def test_a_credential_is_unsealed_once_inside_the_block(
    credential: DnsCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsealed = []
    real = envelope.unseal
    monkeypatch.setattr(envelope, "unseal", lambda each: (unsealed.append(each), real(each))[1])
    with registry.unsealing_once():
        again = DnsCredential.objects.get(pk=credential.pk)
        assert (token_of(credential), token_of(again), len(unsealed)) == ("tok-1", "tok-1", 1)
    token_of(credential)
    assert len(unsealed) == 2


def test_a_changed_secret_is_unsealed_inside_the_block(credential: DnsCredential) -> None:
    with registry.unsealing_once():
        token_of(credential)
        update_credential(credential, {"api_token": "tok-2"})
        assert token_of(credential) == "tok-2"


def test_unsealed_secrets_print_without_their_values(credential: DnsCredential) -> None:
    with registry.unsealing_once():
        token_of(credential)
        shown = repr(list(copy_context().items()))
    assert "_unsealed_once" in shown
    assert "tok-1" not in shown
