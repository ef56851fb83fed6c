"""Master keys in the memory of this process, and their text format."""

import base64
import binascii
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: TID251
from django.views.decorators.debug import sensitive_variables

from certctrl.sentences import sentence as _
from keystore.masterkeys.errors import MasterKeyProblem, WrongMasterKey

NONCE = 12
ENTRY = re.compile(r"(?P<id>[A-Za-z0-9._-]{1,32}):(?P<value>[A-Za-z0-9+/]{43}=)")


class AESKey:
    """An AES-256-GCM key of 32 bytes in memory.

    A wrap is nonce (12 bytes) || ciphertext || tag (16 bytes).
    """

    def __init__(self, key_id: str, value: bytes) -> None:
        self.id = key_id
        self._value = value

    @sensitive_variables()
    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + AESGCM(self._value).encrypt(nonce, data_key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the data key.

        Raise WrongMasterKey for another key, another context or altered bytes. AES-GCM cannot
        distinguish these causes.
        """
        try:
            return AESGCM(self._value).decrypt(wrapped[:NONCE], wrapped[NONCE:], context)
        except (InvalidTag, ValueError):
            raise WrongMasterKey(self.id) from None

    def line(self) -> str:
        """Return the key in its text format. The text is a secret."""
        return f"{self.id}:{base64.b64encode(self._value).decode()}"

    def same_as(self, other: object) -> bool:
        return isinstance(other, AESKey) and (self.id, self._value) == (other.id, other._value)

    def __repr__(self) -> str:
        return f"<master key {self.id}>"


def generate(key_id: str) -> AESKey:
    """Return a fresh random key with this id."""
    return AESKey(key_id, os.urandom(32))


@sensitive_variables()
def parse(text: str, where: str) -> dict[str, AESKey]:
    """Return the keys of `text` by id, in the order of the text.

    An entry is `id:base64 of 32 bytes`. Commas or line ends separate entries. `#` begins a
    comment. Raise MasterKeyProblem. Its sentence has `where` and the number of the entry, but
    never the text of the entry.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    keys: dict[str, AESKey] = {}
    for place, entry in enumerate(entries, start=1):
        key = _parse_entry(entry, _("Entry %(place)s of %(where)s", place=place, where=where))
        if key.id in keys:
            raise MasterKeyProblem(
                _(
                    "%(where)s has two master keys with the id %(id)s. Give each its own id.",
                    where=where,
                    id=key.id,
                )
            )
        keys[key.id] = key
    if not keys:
        raise MasterKeyProblem(
            _(
                "%(where)s has no master key. Add a line id:base64, with 32 bytes in base64.",
                where=where,
            )
        )
    return keys


@sensitive_variables()
def _parse_entry(entry: str, where: str) -> AESKey:
    match = ENTRY.fullmatch(entry)
    try:
        value = base64.b64decode(match["value"], validate=True) if match else b""
    except binascii.Error:
        value = b""
    if not match or len(value) != 32:
        raise MasterKeyProblem(
            _(
                "%(where)s is not a master key. Write id:base64, with 32 bytes in base64.",
                where=where,
            )
        )
    return AESKey(match["id"], value)
