"""Master keys in AWS KMS, with moto."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from certctrl import lanes
from keystore import envelope, masterkeys
from keystore.envelope import CannotOpen
from keystore.masterkeys import MasterKeyAway, MasterKeyProblem, WrongMasterKey, awskms
from keystore.models import KeyWrap

CONTEXT = b"certctrl/1|a row"
SECRET = b"a secret of the owner"


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    clients = awskms._client
    clients.cache_clear()
    with mock_aws():
        yield boto3.client("kms", region_name="eu-central-1")
    clients.cache_clear()


@pytest.fixture
def key(kms: Any, settings: Any) -> Any:
    """A key of KMS that wraps."""
    settings.MASTER_KEYS_ELSEWHERE = [f"5={kms.create_key()['KeyMetadata']['Arn']}"]
    return masterkeys.current()


def test_a_data_key_comes_back(key):
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    assert b"k" * 32 not in wrapped
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32


def test_a_wrap_opens_in_its_own_row_only(key):
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    with pytest.raises(WrongMasterKey):
        key.unwrap(wrapped, b"another row")
    with pytest.raises(MasterKeyProblem):
        key.unwrap(wrapped[:-1], CONTEXT)


@pytest.mark.django_db
def test_secrets_are_sealed_and_opened(key, alice):
    row = envelope.seal(alice, "test", SECRET)
    assert KeyWrap.objects.get().master_key_id == "5"
    assert envelope.unseal(row) == SECRET


@pytest.mark.django_db
def test_a_disabled_key_is_a_sentence_and_a_retry(key, alice, monkeypatch):
    row = envelope.seal(alice, "test", SECRET)
    with monkeypatch.context() as patch:
        patch.setattr(awskms, "_client", answering(400, "DisabledException"))
        with pytest.raises(CannotOpen, match="AWS KMS refused master key 5") as problem:
            envelope.unseal(row)
    assert not problem.value.permanent
    assert envelope.unseal(row) == SECRET


def answering(status: int, code: str) -> Any:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

    class Client:
        def encrypt(self, **given: Any) -> None:
            raise ClientError(response, "Encrypt")

        decrypt = encrypt

    return lambda *given: Client()


@pytest.mark.parametrize(
    ("status", "code", "is_away"),
    [
        (500, "KMSInternalException", True),
        (503, "Unavailable", True),
        (400, "ThrottlingException", True),
        (400, "AccessDeniedException", False),
        (400, "NotFoundException", False),
    ],
)
def test_an_error_says_if_kms_is_away(key, monkeypatch, status, code, is_away):
    monkeypatch.setattr(awskms, "_client", answering(status, code))
    with pytest.raises(MasterKeyProblem, match=code) as problem:
        key.wrap(b"k" * 32, CONTEXT)
    assert isinstance(problem.value, MasterKeyAway) == is_away


def test_an_unreachable_kms_ends_in_time(settings, monkeypatch):
    """Nothing listens at the address."""
    settings.MASTER_KEYS_ELSEWHERE = ["5=arn:aws:kms:eu-central-1:111122223333:key/1"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    awskms._client.cache_clear()
    with pytest.raises(MasterKeyAway, match="eu-central-1"):
        masterkeys.current().wrap(b"k" * 32, CONTEXT)
    awskms._client.cache_clear()
    assert masterkeys.current().lane.key == "kms:eu-central-1"
    assert lanes.standing_of("kms:eu-central-1") == lanes.Standing.TROUBLE


@pytest.mark.parametrize("where", ["arn:aws:s3:::bucket", "arn:aws:kms:eu-central-1:1:key/a"])
def test_another_arn_is_refused(settings, where):
    settings.MASTER_KEYS_ELSEWHERE = [f"5={where}"]
    with pytest.raises(MasterKeyProblem, match="Entry 1"):
        masterkeys.current()
