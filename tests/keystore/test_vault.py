"""Master keys in Vault's transit engine."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.utils import translation

from keystore import envelope, masterkeys
from keystore.envelope import CannotOpen
from keystore.masterkeys import MasterKeyAway, MasterKeyProblem, WrongMasterKey, elsewhere
from keystore.models import KeyWrap
from tests.fakes.vault import FakeVault

CONTEXT = b"certctrl/1|a row"
SECRET = b"a secret of the owner"


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as made:
        yield made


@pytest.fixture
def key(vault: FakeVault, settings: Any) -> Any:
    settings.VAULT_ADDR, settings.VAULT_TOKEN = f"{vault.url}/", vault.token
    settings.MASTER_KEYS_ELSEWHERE = ["6=vault:transit/certctrl"]
    elsewhere._keys.cache_clear()
    return masterkeys.current()


def test_a_data_key_comes_back(key):
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    assert wrapped.startswith(b"vault:v1:")
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32


def test_a_wrap_opens_in_its_own_row_only(key):
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    for bad, context in ((wrapped, b"another"), (wrapped[:-3] + b"AAA", CONTEXT), (b"x", CONTEXT)):
        with pytest.raises(WrongMasterKey):
            key.unwrap(bad, context)


@pytest.mark.django_db
def test_secrets_are_sealed_and_opened(key, alice):
    row = envelope.seal(alice, "test", SECRET)
    assert KeyWrap.objects.get().master_key_id == "6"
    assert envelope.unseal(row) == SECRET


def test_three_calls_are_all(key, vault):
    """Vault is asked about the key once."""
    for _ in range(2):
        key.unwrap(key.wrap(b"k" * 32, CONTEXT), CONTEXT)
    assert [path for _, path, _ in vault.seen] == [
        "/v1/transit/keys/certctrl",
        *["/v1/transit/encrypt/certctrl", "/v1/transit/decrypt/certctrl"] * 2,
    ]


@pytest.mark.parametrize(
    ("attribute", "match"),
    [
        ({"type": "rsa-4096"}, "not of the type"),
        ({"type": "aes256-cbc"}, "not of the type"),
        ({"exportable": True}, "can leave Vault"),
        ({"allow_plaintext_backup": True}, "can leave Vault"),
    ],
)
def test_a_key_that_does_not_keep_the_promise_is_refused(key, vault, attribute, match):
    vault.keys["certctrl"] |= attribute
    with pytest.raises(MasterKeyProblem, match=match):
        key.wrap(b"k" * 32, CONTEXT)


@pytest.mark.parametrize(
    ("status", "is_away"), [(503, True), (500, True), (429, True), (403, False), (404, False)]
)
def test_an_error_says_if_vault_is_away(key, vault, status, is_away):
    vault.status = status
    with pytest.raises(MasterKeyProblem, match=str(status)) as problem:
        key.wrap(b"k" * 32, CONTEXT)
    assert isinstance(problem.value, MasterKeyAway) == is_away


@pytest.mark.parametrize("answer", [{}, {"ciphertext": None}, {"ciphertext": "k"}])
def test_a_response_without_a_ciphertext_is_no_wrap(key, monkeypatch, answer):
    key.wrap(b"k" * 32, CONTEXT)
    monkeypatch.setattr(key, "_call", lambda *given: answer)
    with pytest.raises(MasterKeyProblem, match="no ciphertext"):
        key.wrap(b"k" * 32, CONTEXT)


@pytest.mark.django_db
def test_a_sealed_vault_loses_nothing(key, vault, alice):
    row = envelope.seal(alice, "test", SECRET)
    vault.status = 503
    with pytest.raises(CannotOpen, match="unsealed") as problem:
        envelope.unseal(row)
    assert not problem.value.permanent
    vault.status = None
    assert envelope.unseal(row) == SECRET


def test_an_unreachable_vault_is_a_sentence_without_the_token(key, settings):
    settings.VAULT_ADDR = "http://127.0.0.1:1"
    with pytest.raises(MasterKeyAway, match="cannot be reached") as problem:
        key.wrap(b"k" * 32, CONTEXT)
    assert settings.VAULT_TOKEN not in str(problem.value)


def test_a_private_address_must_be_allowed(key, settings):
    settings.ALLOW_PRIVATE = []
    with pytest.raises(MasterKeyProblem, match="ALLOW_PRIVATE"):
        key.wrap(b"k" * 32, CONTEXT)


def test_a_problem_with_a_master_key_is_told_in_the_language_of_the_reader(key, settings):
    settings.VAULT_ADDR = "http://127.0.0.1:1"
    with pytest.raises(MasterKeyAway) as problem:
        key.wrap(b"k" * 32, CONTEXT)
    with translation.override("zh-hans"):
        assert str(problem.value.what).startswith("无法连接 Vault。无法连接 127.0.0.1")


def test_the_file_of_the_token_is_read_for_each_call(key, vault, tmp_path, monkeypatch):
    file = tmp_path / "token"
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(file))
    file.write_text(f"{vault.token}\n")
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    vault.token = "hvs.another"
    file.write_text("hvs.another\n")
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32


@pytest.mark.parametrize("where", ["vault:", "vault:transit", "vault:transit/a b"])
def test_another_place_is_refused(key, settings, where):
    settings.MASTER_KEYS_ELSEWHERE = [f"6={where}"]
    with pytest.raises(MasterKeyProblem, match="Entry 1"):
        masterkeys.current()


def test_without_its_address_the_setting_is_refused(key, settings):
    settings.VAULT_ADDR = ""
    settings.MASTER_KEYS_ELSEWHERE = ["7=vault:transit/other"]
    with pytest.raises(MasterKeyProblem, match="VAULT_ADDR is empty"):
        masterkeys.current()
