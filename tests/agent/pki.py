"""A CA for the tests of the agent, and what a server makes of a key for a device."""

import base64
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.public import PublicKey, SealedBox

PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER
PKCS8 = serialization.PrivateFormat.PKCS8
BARE = serialization.NoEncryption()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def signed(name: str, key: Any, issuer: str, issuer_key: Any, is_ca: bool) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject(name))
        .issuer_name(subject(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


@dataclass(frozen=True)
class Issued:
    leaf: x509.Certificate
    root: x509.Certificate
    key: Any

    @property
    def serial(self) -> str:
        return f"{self.leaf.serial_number:x}"

    @property
    def der(self) -> bytes:
        return self.leaf.public_bytes(DER)

    @property
    def pem(self) -> str:
        return self.leaf.public_bytes(PEM).decode()

    @property
    def fullchain(self) -> str:
        return self.pem + self.root.public_bytes(PEM).decode()

    @property
    def key_der(self) -> bytes:
        return self.key.private_bytes(DER, PKCS8, BARE)

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(PEM, PKCS8, BARE).decode()

    @property
    def detail(self) -> dict[str, Any]:
        return {"id": 7, "domain_name": "www.example.com", "cert": self.fullchain}

    def sealed(self, dev_pk: bytes, **changes: Any) -> dict[str, Any]:
        """The AEAD bundle for a device, as the protocol's section 6 describes it."""
        data_key, nonce = os.urandom(32), os.urandom(12)
        sealed = AESGCM(data_key).encrypt(nonce, self.key_der, None)
        return {
            "wrap_alg": "x25519",
            "enc_scheme": "aes256gcm",
            "device_keyfp_b64": b64(hashlib.blake2b(dev_pk, digest_size=32).digest()),
            "enc_data_key_b64": b64(SealedBox(PublicKey(dev_pk)).encrypt(data_key)),
            "enc_privkey_b64": b64(sealed[:-16]),
            "privkey_nonce_b64": b64(nonce),
            "privkey_tag_b64": b64(sealed[-16:]),
        } | changes

    def plain(self) -> dict[str, Any]:
        return {"enc_scheme": "plaintext", "private_key_der_b64": b64(self.key_der)}


class Authority:
    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = signed("Test root", self.key, "Test root", self.key, is_ca=True)

    def issue(self, name: str = "www.example.com", is_rsa: bool = False) -> Issued:
        key = (
            rsa.generate_private_key(65537, 2048)
            if is_rsa
            else ec.generate_private_key(ec.SECP256R1())
        )
        return Issued(signed(name, key, "Test root", self.key, is_ca=False), self.root, key)
