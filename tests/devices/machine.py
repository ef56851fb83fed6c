"""A machine that is enrolled. It fetches keys, and opens them as agents do."""

import base64
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: TID251
from nacl.public import PrivateKey, SealedBox  # noqa: TID251

from accounts.models import User
from devices import tokens
from devices.models import Device
from tests import factories
from tests.conftest import JSONClient

OWN = "/apiv1/devices/self"


class Machine:
    """A device and its key pair."""

    def __init__(self, owner: User, *tags: str, **fields: Any) -> None:
        self.key = PrivateKey.generate()
        self.row: Device = factories.device(owner, *tags, key=self.key, **fields)
        self.client = JSONClient(raise_request_exception=False)
        self.log_in()

    def log_in(self) -> None:
        """Get an access token, as an enrolment does."""
        token = tokens.start_session(self.row)["access_token"]
        self.client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")

    def get(self, path: str) -> Any:
        return self.client.get(f"{OWN}/{path}")

    def materials(self, pk: int) -> Any:
        return self.get(f"certificates/{pk}/deploy-materials")

    def opened(self, bundle: dict[str, str]) -> bytes:
        """Return the public key (DER) of the private key in an AEAD bundle."""
        part = {name: base64.b64decode(text) for name, text in bundle.items() if "_b64" in name}
        data_key = SealedBox(self.key).decrypt(part["enc_data_key_b64"])
        der = AESGCM(data_key).decrypt(
            part["privkey_nonce_b64"], part["enc_privkey_b64"] + part["privkey_tag_b64"], None
        )
        return public_half(der)

    def serves(self, pk: int) -> bool:
        """Return whether the key that the machine opens fits the certificate that it reads."""
        pem = self.get(f"certificates/{pk}").data_member["cert"]
        return self.opened(self.materials(pk).data_member) == certified(pem)


def public_half(der: bytes) -> bytes:
    key = serialization.load_der_private_key(der, None)
    return spki(key.public_key())


def certified(pem: str) -> bytes:
    return spki(x509.load_pem_x509_certificate(pem.encode()).public_key())


def spki(key: Any) -> bytes:
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, kind))
