"""Open what the server sends for a certificate, and make the files of it.

The bytes are those of the agent protocol, section 6: a sealed box (X25519) holds the data key, and
AES-256-GCM with a detached tag the private key.
"""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import pkcs12
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from certctrl_agent.errors import MaterialError

PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
SECRET_FILES = ("private.key", "bundle.pfx")
CERTIFICATE_FILES = (
    "private.key",
    "certificate.pem",
    "chain.pem",
    "fullchain.pem",
    "certificate.der",
    "bundle.pfx",
    "meta.json",
)
CA_FILES = ("ca.pem", "ca.der", "meta.json")


def fingerprint_of(key: PrivateKey) -> bytes:
    """Return the fingerprint of a device's key: BLAKE2b over its public half."""
    return hashlib.blake2b(bytes(key.public_key), digest_size=32).digest()


def sha256(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True)
class Chain:
    """A certificate and its issuers, as the detail of the server has them."""

    detail: dict[str, Any]
    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def of(cls, detail: Any) -> "Chain":
        if isinstance(detail, dict) and isinstance(detail.get("certificate"), dict):
            detail = detail["certificate"]
        if not isinstance(detail, dict):
            raise MaterialError("The server sent a certificate that is not an object.")
        pem = detail.get("cert") or detail.get("certificate_pem") or ""
        found = loaded(pem)
        issuers = detail.get("chain_pem")
        if len(found) == 1 and isinstance(issuers, str) and issuers.strip():
            found += loaded(issuers)
        return cls(detail, tuple(found))

    @property
    def leaf(self) -> x509.Certificate:
        return self.certificates[0]

    @property
    def serial(self) -> str:
        return f"{self.leaf.serial_number:x}"

    @property
    def fingerprint(self) -> str:
        return sha256(self.leaf)


def loaded(pem: Any) -> list[x509.Certificate]:
    if not isinstance(pem, str):
        raise MaterialError("The server sent a certificate that is not text.")
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise MaterialError(f"The server sent a certificate that is not PEM ({error}).") from None


@dataclass(frozen=True)
class Material:
    """A chain with its private key, which matches it."""

    chain: Chain
    key: PrivateKeyTypes

    @classmethod
    def of(cls, detail: Any, bundle: Any, device_key: PrivateKey) -> "Material":
        """Open a bundle. Raise MaterialError if the key is not that of the certificate."""
        chain = Chain.of(detail)
        key = opened(bundle, device_key)
        if key.public_key().public_bytes(DER, SPKI) != chain.leaf.public_key().public_bytes(
            DER, SPKI
        ):
            raise MaterialError(
                f"The private key does not match the certificate with serial {chain.serial}."
            )
        return cls(chain, key)

    def files(self, password: bytes | None = None) -> dict[str, bytes]:
        """Return the contents by their names. `password` protects `bundle.pfx`."""
        leaf, *issuers = self.chain.certificates
        pems = [each.public_bytes(PEM) for each in self.chain.certificates]
        pkcs8 = serialization.PrivateFormat.PKCS8
        bare = serialization.NoEncryption()
        sealed = serialization.BestAvailableEncryption(password) if password else bare
        alias = str(self.chain.detail.get("domain_name") or "certctrl").encode()
        return {
            "private.key": self.key.private_bytes(PEM, pkcs8, bare),
            "certificate.pem": pems[0],
            "chain.pem": b"".join(pems[1:]),
            "fullchain.pem": b"".join(pems),
            "certificate.der": leaf.public_bytes(DER),
            "bundle.pfx": pkcs12.serialize_key_and_certificates(
                alias,
                self.key,  # type: ignore[arg-type]
                leaf,
                issuers,
                sealed,
            ),
            "meta.json": meta(leaf),
        }


def ca_files(bundle: Any) -> dict[str, bytes]:
    """Return the contents of a CA's files by their names."""
    pem = bundle.get("ca_certificate_pem") if isinstance(bundle, dict) else None
    certificates = loaded(pem)
    return {
        "ca.pem": b"".join(each.public_bytes(PEM) for each in certificates),
        "ca.der": certificates[0].public_bytes(DER),
        "meta.json": meta(certificates[0]),
    }


def meta(certificate: x509.Certificate) -> bytes:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [str(each.value) for each in extension.value]
    except x509.ExtensionNotFound:
        names = []
    about = {
        "serial": f"{certificate.serial_number:x}",
        "sha256": sha256(certificate),
        "names": names,
        "issuer": certificate.issuer.rfc4514_string(),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
    }
    return json.dumps(about, indent=1).encode() + b"\n"


def opened(bundle: Any, device_key: PrivateKey) -> PrivateKeyTypes:
    """Return the private key of a bundle. Its bytes are in no error."""
    if not isinstance(bundle, dict):
        raise MaterialError("The server sent materials that are not an object.")
    scheme = bundle.get("enc_scheme")
    if scheme in ("aes256gcm", 1):
        return key_from(unsealed(bundle, device_key))
    if scheme in ("plaintext", 0):
        if pem := bundle.get("private_key_pem"):
            return key_from(str(pem).encode())
        return key_from(member(bundle, "private_key_der_b64"))
    raise MaterialError(f"This agent does not know the encryption {scheme!r}. Update the agent.")


def unsealed(bundle: dict[str, Any], device_key: PrivateKey) -> bytes:
    named = member(bundle, "device_keyfp_b64") if bundle.get("device_keyfp_b64") else None
    if named not in (None, fingerprint_of(device_key)):
        raise MaterialError(
            "The server sealed the private key for another key than that of this device. "
            "Run: certctrl-agent login SERVER"
        )
    box = member(bundle, "enc_data_key_b64", 80)
    nonce = member(bundle, "privkey_nonce_b64", 12)
    tag = member(bundle, "privkey_tag_b64", 16)
    try:
        data_key = SealedBox(device_key).decrypt(box)
        return AESGCM(data_key).decrypt(nonce, member(bundle, "enc_privkey_b64") + tag, None)
    except (CryptoError, InvalidTag, ValueError):
        raise MaterialError(
            "The private key cannot be opened: it was changed on its way, or it is sealed for "
            "another device."
        ) from None


def member(bundle: dict[str, Any], name: str, size: int | None = None) -> bytes:
    try:
        raw = base64.b64decode(bundle[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise MaterialError(f'The materials have no "{name}" in base64.') from None
    if size is not None and len(raw) != size:
        raise MaterialError(f'"{name}" of the materials has {len(raw)} bytes instead of {size}.')
    return raw


def key_from(raw: bytes) -> PrivateKeyTypes:
    load = serialization.load_der_private_key
    if raw.lstrip().startswith(b"-----BEGIN"):
        load = serialization.load_pem_private_key
    try:
        return load(raw, None)
    except (ValueError, TypeError):
        raise MaterialError("The private key that the server sent is not PKCS#8.") from None
