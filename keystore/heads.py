"""Signed heads of the audit log.

A head has the place and the hash of the newest sealed event, and the time of its signature. The
server signs it with an Ed25519 key (RFC 8032). A head that left the server shows later whether the
log still has the events that it had then.
"""

import base64
import json
from binascii import Error as BadBase64
from collections.abc import Iterator
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from django.views.decorators.debug import sensitive_variables

from accounts import chain
from accounts.chain import Link
from accounts.models import User
from certctrl import clock
from keystore import envelope
from keystore.models import Envelope

PURPOSE = "audit_head_key"
CONTEXT = b"certctrl audit head 1\n"  # a signature of this key means a head and nothing else
MEMBERS = ("place", "hash", "at", "public_key", "signature")

Head = dict[str, Any]


@sensitive_variables()
def sign() -> Head | None:
    """Return a signed head of the chain. Return None while no event is sealed."""
    link = chain.head()
    if link == chain.START:
        return None
    key = _key()
    at = clock.now().isoformat(timespec="seconds")
    head = {"place": link.place, "hash": link.hash, "at": at}
    return head | {
        "public_key": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        "signature": base64.b64encode(key.sign(_signed(head))).decode(),
    }


def find(text: str) -> Head | None:
    """Return the first head in a text: a head, the body of a post, or a mail."""
    decoder = json.JSONDecoder()
    for begin, letter in enumerate(text):
        if letter == "{":
            try:
                found, _ = decoder.raw_decode(text, begin)
            except ValueError:
                continue
            if set(MEMBERS) <= set(found):
                return {name: found[name] for name in MEMBERS}
    return None


def is_genuine(head: Head) -> bool:
    """Return whether a key of this server signed the head."""
    try:
        signature = base64.b64decode(head["signature"], validate=True)
    except (BadBase64, ValueError, TypeError):
        return False
    return any(_verifies(key, signature, _signed(head)) for key in _public_keys())


def link_of(head: Head) -> Link:
    return Link(head["place"], head["hash"])


def _signed(head: Head) -> bytes:
    signed = {name: head[name] for name in ("place", "hash", "at")}
    return CONTEXT + json.dumps(signed, sort_keys=True, separators=(",", ":")).encode()


def _verifies(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


@sensitive_variables()
def _key() -> Ed25519PrivateKey:
    """Return the key that signs. The first head makes it."""
    sealed = Envelope.objects.filter(purpose=PURPOSE).order_by("pk").first()
    if sealed is None:
        made = Ed25519PrivateKey.generate().private_bytes_raw()
        # An envelope has an owner. The first user is usually the administrator.
        sealed = envelope.seal(User.objects.earliest("pk"), PURPOSE, made)
    return Ed25519PrivateKey.from_private_bytes(envelope.unseal(sealed))


@sensitive_variables()
def _public_keys() -> Iterator[Ed25519PublicKey]:
    """Two processes that sign the first head at once make two keys. Each is genuine."""
    for sealed in Envelope.objects.filter(purpose=PURPOSE):
        yield Ed25519PrivateKey.from_private_bytes(envelope.unseal(sealed)).public_key()
