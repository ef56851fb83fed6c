"""Who can open an envelope: each recipient wraps the envelope's data key for itself."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from django.views.decorators.debug import sensitive_variables
from nacl.exceptions import CryptoError
from nacl.public import PublicKey, SealedBox  # noqa: TID251

from certctrl.errors import Invalid
from keystore import masterkeys
from keystore.masterkeys.aes import AESKey
from keystore.models import Envelope, KeyWrap, RecipientKey


class Recipient(Protocol):
    def wrap(self, envelope: Envelope, data_key: bytes) -> KeyWrap:
        """The data key for this recipient, as a row that is not saved yet."""


@dataclass(frozen=True)
class MasterKey:
    """This server, by one of its master keys: the only recipient that the server can open for."""

    key: AESKey

    @classmethod
    def current(cls) -> "MasterKey":
        return cls(masterkeys.current())

    @classmethod
    def of(cls, wrap: KeyWrap) -> "MasterKey":
        """The recipient of this wrap. Raises UnknownMasterKey."""
        return cls(masterkeys.by_id(wrap.master_key_id or ""))

    @sensitive_variables()
    def wrap(self, envelope: Envelope, data_key: bytes) -> KeyWrap:
        wrapped = self.key.wrap(data_key, self._context(envelope))
        return KeyWrap(envelope=envelope, master_key_id=self.key.id, wrapped_dek=wrapped)

    def unwrap(self, wrap: KeyWrap) -> bytes:
        """The data key. Raises WrongMasterKey, also for a wrap that belongs to another envelope."""
        return self.key.unwrap(bytes(wrap.wrapped_dek), self._context(wrap.envelope))

    def _context(self, envelope: Envelope) -> bytes:
        return envelope.context() + f"|{self.key.id}".encode()


@dataclass(frozen=True)
class DeviceKey:
    """A machine: libsodium's sealed box (X25519, XSalsa20-Poly1305), 80 bytes, which only that machine opens."""

    recipient_key: RecipientKey

    @sensitive_variables()
    def wrap(self, envelope: Envelope, data_key: bytes) -> KeyWrap:
        try:
            sealed = SealedBox(PublicKey(bytes(self.recipient_key.public_key))).encrypt(data_key)
        except CryptoError:  # a point of low order: the box would be open to everybody
            raise Invalid(
                "A device's public key cannot be used: enrol the device again with a fresh key."
            ) from None
        return KeyWrap(envelope=envelope, recipient_key=self.recipient_key, wrapped_dek=sealed)


def fingerprint(public_key: bytes) -> bytes:
    """BLAKE2b, 32 bytes, of a public key: the name by which a device knows its own key."""
    return hashlib.blake2b(public_key, digest_size=32).digest()
