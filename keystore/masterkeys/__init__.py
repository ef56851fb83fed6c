"""The sources of master keys: an HSM or a service, a file, and the settings.

Each source has `keys()`. The first key of MASTER_KEYS_ELSEWHERE wraps, or else the first one of the
file of MASTER_KEYS_PATH, or else the first one of MASTER_KEYS. MASTER_KEY_CURRENT names another.
All keys open the wraps that they made.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

from django import conf  # the name `settings` would be the module in this package

from certctrl.sentences import sentence as _
from keystore.masterkeys.aes import AESKey
from keystore.masterkeys.elsewhere import ElsewhereKeys, KeyElsewhere
from keystore.masterkeys.errors import (
    MasterKeyAway,
    MasterKeyProblem,
    UnknownMasterKey,
    WrongMasterKey,
)
from keystore.masterkeys.file import FileKeys, Intent, create_file
from keystore.masterkeys.settings import SettingsKeys

__all__ = [
    "AESKey",
    "FileKeys",
    "Intent",
    "KeyElsewhere",
    "MasterKeyAway",
    "MasterKeyProblem",
    "UnknownMasterKey",
    "WrappingKey",
    "WrongMasterKey",
    "all_keys",
    "by_id",
    "create_file",
    "current",
    "file_keys",
    "knows",
]


class WrappingKey(Protocol):
    """A master key, wherever it is."""

    id: str

    def wrap(self, data_key: bytes, context: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes: ...

    def line(self) -> str:
        """Return the key in its text format, or an empty text if it cannot leave its place."""

    def same_as(self, other: Any) -> bool: ...


class Source(Protocol):
    def keys(self) -> Mapping[str, WrappingKey]: ...

    def read_again(self) -> object: ...


def current() -> WrappingKey:
    """Return the master key that wraps. Raise MasterKeyProblem."""
    chosen = conf.settings.MASTER_KEY_CURRENT
    return by_id(chosen) if chosen else next(iter(all_keys().values()))


def by_id(key_id: str) -> WrappingKey:
    """Return the master key with this id. Raise UnknownMasterKey."""
    if not knows(key_id):
        raise UnknownMasterKey(key_id)
    return all_keys()[key_id]


def knows(key_id: str) -> bool:
    """Return whether a master key with this id exists.

    The sources are read again before the answer is False.
    """
    if key_id in all_keys():
        return True
    for source in _sources():
        source.read_again()
    return key_id in all_keys()


def all_keys() -> dict[str, WrappingKey]:
    """Return every master key by id, in the order of their sources. Raise MasterKeyProblem."""
    keys: dict[str, WrappingKey] = {}
    for source in _sources():
        for key in source.keys().values():
            if not keys.setdefault(key.id, key).same_as(key):
                raise MasterKeyProblem(
                    _(
                        "There are different master keys with the id %(id)s, in MASTER_KEYS, "
                        "in its file or in MASTER_KEYS_ELSEWHERE. Rename one.",
                        id=key.id,
                    )
                )
    return keys


def file_keys() -> FileKeys | None:
    """Return the file of MASTER_KEYS_PATH, or None if the setting is empty."""
    return _file(conf.settings.MASTER_KEYS_PATH) if conf.settings.MASTER_KEYS_PATH else None


def _sources() -> list[Source]:
    file = file_keys()
    sources: list[Source] = [ElsewhereKeys()] if conf.settings.MASTER_KEYS_ELSEWHERE else []
    sources += [file] if file else []
    return [*sources, SettingsKeys()] if conf.settings.MASTER_KEYS or not sources else sources


@lru_cache(maxsize=8)
def _file(path: str) -> FileKeys:
    return FileKeys(path)
