"""The recipients that can open an envelope. Each recipient has its own wrap of the data key."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from django.db import transaction
from django.views.decorators.debug import sensitive_variables
from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey, SealedBox  # noqa: TID251

from accounts import audit
from accounts.models import User
from certctrl import clock
from certctrl.errors import Invalid
from certctrl.sentences import sentence as _
from keystore import masterkeys
from keystore.masterkeys import WrappingKey
from keystore.models import Envelope, KeyWrap, RecipientKey


class Recipient(Protocol):
    def wrap(self, envelope: Envelope, data_key: bytes) -> KeyWrap:
        """Return the data key wrapped for this recipient, as a row that is not saved yet."""


@dataclass(frozen=True)
class MasterKey:
    """This server with one of its master keys. The server can open only these wraps."""

    key: WrappingKey

    @classmethod
    def current(cls) -> "MasterKey":
        return cls(masterkeys.current())

    @classmethod
    def of(cls, wrap: KeyWrap) -> "MasterKey":
        """Return the recipient of this wrap. Raise UnknownMasterKey."""
        return cls(masterkeys.by_id(wrap.master_key_id or ""))

    @sensitive_variables()
    def wrap(self, envelope: Envelope, data_key: bytes) -> KeyWrap:
        wrapped = self.key.wrap(data_key, self._context(envelope))
        return KeyWrap(envelope=envelope, master_key_id=self.key.id, wrapped_dek=wrapped)

    def unwrap(self, wrap: KeyWrap) -> bytes:
        """Return the data key. Raise WrongMasterKey, also for a wrap of another envelope."""
        return self.key.unwrap(bytes(wrap.wrapped_dek), self._context(wrap.envelope))

    def _context(self, envelope: Envelope) -> bytes:
        return envelope.context() + f"|{self.key.id}".encode()


@dataclass(frozen=True)
class DeviceKey:
    """A device. Only this device can open the wrap.

    The wrap is a sealed box of libsodium (X25519, XSalsa20-Poly1305), 80 bytes.
    """

    recipient_key: RecipientKey

    @sensitive_variables()
    def wrap(self, envelope: Envelope, data_key: bytes) -> KeyWrap:
        try:
            sealed = SealedBox(PublicKey(bytes(self.recipient_key.public_key))).encrypt(data_key)
        except CryptoError:  # with a point of low order, everybody could open the box
            raise Invalid(
                _("A device's public key cannot be used. Enrol the device again with a new key.")
            ) from None
        return KeyWrap(envelope=envelope, recipient_key=self.recipient_key, wrapped_dek=sealed)


def fingerprint(public_key: bytes) -> bytes:
    """Return the BLAKE2b hash (32 bytes) of a public key. A device finds its own key by it."""
    return hashlib.blake2b(public_key, digest_size=32).digest()


def recipient_key(owner: User, public_key: bytes) -> RecipientKey:
    """Return the row of a device's public key. Create it, or take it back into use.

    Raise Invalid if the key cannot be used.
    """
    refuse_weak(public_key)
    row, _ = RecipientKey.objects.update_or_create(
        owner=owner,
        fingerprint=fingerprint(public_key),
        defaults={"public_key": public_key, "retired_at": None},
    )
    return row


@transaction.atomic
def retire(key: RecipientKey) -> None:
    """Use the public key no more, and remove its wraps. Nothing is opened for this."""
    RecipientKey.objects.filter(pk=key.pk).update(retired_at=clock.now())
    removed, _ = KeyWrap.objects.filter(recipient_key=key).delete()
    if removed:
        actor, what = audit.PROCESS, "key.wraps_removed"
        audit.record(key.owner, actor, what, f"public key {key}", devices=[str(key)], count=removed)


def refuse_weak(public_key: bytes) -> None:
    """Raise Invalid unless this is a usable X25519 key.

    The product with a point of low order is zero for every private key (RFC 7748, section 6.1).
    libsodium refuses these points.
    """
    if len(public_key) != PublicKey.SIZE:
        raise Invalid(
            _(
                "dev_pk has %(count)s bytes. Send an X25519 public key, which has %(size)s "
                "bytes, as base64.",
                count=len(public_key),
                size=PublicKey.SIZE,
            ),
            field="dev_pk",
        )
    try:
        Box(PrivateKey(b"\1" * PrivateKey.SIZE), PublicKey(public_key))
    except CryptoError:
        raise Invalid(
            _(
                "dev_pk is a point of low order, so everybody could open what is sealed for "
                "it. Make a new key pair."
            ),
            field="dev_pk",
        ) from None
