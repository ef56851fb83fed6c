"""Master keys that stay in an HSM, in AWS KMS or in Vault: the setting MASTER_KEYS_ELSEWHERE.

An entry is `id=where`. Each kind has a module here, which is imported when a key of it is used. So
a server without such keys needs none of their libraries. Nothing is called before the first use,
because a process may fork after its start, and a session must not be shared by two processes.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module

from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from certctrl import lanes
from certctrl.lanes import Lane
from certctrl.sentences import sentence as _
from keystore.masterkeys.errors import MasterKeyProblem

WHERE = "MASTER_KEYS_ELSEWHERE"
ENTRY = re.compile(r"(?P<id>[A-Za-z0-9._-]{1,32})=(?P<where>[^,\s]+)")
MODULES = {"pkcs11:": "hsm", "arn:aws": "awskms", "vault:": "vault"}  # by the start of `where`


class KeyElsewhere(ABC):
    """A master key that never comes into the memory of this process.

    `where` says where the key is. `lane` is the party that has it.
    """

    lane: Lane

    def __init__(self, key_id: str, where: str) -> None:
        self.id = key_id
        self.where = where

    @sensitive_variables()
    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """Return the wrapped data key. Raise MasterKeyProblem, or Full before any call."""
        with lanes.enter(self.lane):
            return self._wrap(data_key, context)

    @sensitive_variables()
    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the data key.

        Raise WrongMasterKey for another context or altered bytes. Raise MasterKeyProblem, or Full
        before any call.
        """
        with lanes.enter(self.lane):
            return self._unwrap(wrapped, context)

    @abstractmethod
    def _wrap(self, data_key: bytes, context: bytes) -> bytes: ...

    @abstractmethod
    def _unwrap(self, wrapped: bytes, context: bytes) -> bytes: ...

    def line(self) -> str:
        """Return an empty text, because the key cannot leave its place."""
        return ""

    def same_as(self, other: object) -> bool:
        return isinstance(other, KeyElsewhere) and (self.id, self.where) == (other.id, other.where)

    def __repr__(self) -> str:
        return f"<master key {self.id} elsewhere>"


class ElsewhereKeys:
    """The keys of MASTER_KEYS_ELSEWHERE, in the order of the setting."""

    def keys(self) -> Mapping[str, KeyElsewhere]:
        return _keys(tuple(settings.MASTER_KEYS_ELSEWHERE))

    def read_again(self) -> None:
        """Do nothing, because settings do not change while a process runs."""


@lru_cache(maxsize=8)
def _keys(entries: tuple[str, ...]) -> dict[str, KeyElsewhere]:
    keys: dict[str, KeyElsewhere] = {}
    for place, entry in enumerate(entries, start=1):
        key = _parse(entry, _("Entry %(place)s of %(where)s", place=place, where=WHERE))
        if key.id in keys:
            raise MasterKeyProblem(
                _(
                    "%(where)s has two master keys with the id %(id)s. Give each its own id.",
                    where=WHERE,
                    id=key.id,
                )
            )
        keys[key.id] = key
    return keys


def _parse(entry: str, which: str) -> KeyElsewhere:
    match = ENTRY.fullmatch(entry)
    module = match and next(
        (name for start, name in MODULES.items() if match["where"].startswith(start)), None
    )
    if not match or not module:
        raise MasterKeyProblem(
            _(
                "%(which)s is not a master key. Write id=where, with where as "
                "pkcs11:token=…;object=…, as the ARN of a key of AWS KMS, or as "
                "vault:transit/name.",
                which=which,
            )
        )
    made = import_module(f"keystore.masterkeys.{module}").key(match["id"], match["where"], which)
    assert isinstance(made, KeyElsewhere)
    return made
