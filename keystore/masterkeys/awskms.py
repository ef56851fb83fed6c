"""Master keys in AWS KMS. A wrap is the ciphertext blob of Encrypt.

The context is the encryption context, which KMS authenticates, and which is in CloudTrail. It has
no secret. boto3 finds credentials as it always does: environment, files, role of the machine.
"""

import os
import re
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from certctrl.lanes import Lane
from certctrl.sentences import sentence as _
from keystore.masterkeys.elsewhere import KeyElsewhere
from keystore.masterkeys.errors import MasterKeyAway, MasterKeyProblem, WrongMasterKey

ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{12}:(?:key|alias)/[\w/-]+")
WRONG = ("InvalidCiphertextException", "IncorrectKeyException")
AWAY = ("KMSInternalException", "DependencyTimeoutException", "ThrottlingException")


class KMSKey(KeyElsewhere):
    def __init__(self, key_id: str, where: str, region: str) -> None:
        super().__init__(key_id, where)
        self.region = region
        self.lane = Lane(f"kms:{region}", _("AWS KMS in %(region)s", region=region))

    @sensitive_variables()
    def _wrap(self, data_key: bytes, context: bytes) -> bytes:
        return bytes(self._call("encrypt", context, Plaintext=data_key)["CiphertextBlob"])

    def _unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return bytes(self._call("decrypt", context, CiphertextBlob=wrapped)["Plaintext"])

    @sensitive_variables()
    def _call(self, name: str, context: bytes, **content: bytes) -> Any:
        client = _client(self.region, os.getpid())
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(client, name)(
                KeyId=self.where, EncryptionContext={"certctrl": context.decode()}, **content
            )
        except ClientError as exc:
            code = exc.response.get("Error", {}).get("Code", "")
            if code in WRONG:
                raise WrongMasterKey(self.id) from None
            is_away = code in AWAY or exc.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
            problem = MasterKeyAway if is_away else MasterKeyProblem
            raise problem(
                _(
                    "AWS KMS refused master key %(id)s (%(code)s). Check the key, its policy and "
                    "the credentials of this server.",
                    id=self.id,
                    code=code,
                )
            ) from None
        except BotoCoreError as exc:
            raise MasterKeyAway(
                _(
                    "AWS KMS in %(region)s cannot be used (%(name)s). Check the network and the "
                    "credentials of this server.",
                    region=self.region,
                    name=type(exc).__name__,
                )
            ) from None


def key(key_id: str, where: str, which: str) -> KMSKey:
    match = ARN.fullmatch(where)
    if not match:
        raise MasterKeyProblem(
            _(
                "%(which)s is not the ARN of a key in AWS KMS. Write "
                "arn:aws:kms:REGION:ACCOUNT:key/ID.",
                which=which,
            )
        )
    return KMSKey(key_id, where, match["region"])


@lru_cache(maxsize=8)
def _client(region: str, pid: int) -> Any:
    """Return the client of this process. A fork must not share connections with its parent.

    A client is expensive, and has its time limits for life. So a call ends within CALL_LIMIT, even
    if less of the turn is left.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise MasterKeyProblem(
            _(
                "A master key is in AWS KMS, and boto3 is not installed. Install "
                "requirements/aws.txt."
            )
        ) from None
    config = Config(
        connect_timeout=settings.CALL_LIMIT / 2,
        read_timeout=settings.CALL_LIMIT / 2,
        retries={"total_max_attempts": 1},
    )
    return boto3.session.Session().client("kms", region_name=region, config=config)
