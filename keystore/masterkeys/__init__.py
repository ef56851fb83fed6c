"""The sources of master keys: a file, the settings, and perhaps an HSM later.

Each source has `keys()`. If both MASTER_KEYS_PATH and MASTER_KEYS are set, the first key of the
file wraps. The keys of the settings then only open wraps.
"""

from functools import lru_cache
from typing import Protocol

from django import conf  # the name `settings` would be the module in this package

from keystore.masterkeys.aes import AESKey
from keystore.masterkeys.errors import MasterKeyProblem, UnknownMasterKey, WrongMasterKey
from keystore.masterkeys.file import FileKeys, Intent, create_file
from keystore.masterkeys.settings import SettingsKeys

__all__ = [
    "AESKey",
    "FileKeys",
    "Intent",
    "MasterKeyProblem",
    "UnknownMasterKey",
    "WrongMasterKey",
    "all_keys",
    "by_id",
    "create_file",
    "current",
    "file_keys",
    "knows",
]


class Source(Protocol):
    def keys(self) -> dict[str, AESKey]: ...

    def read_again(self) -> object: ...


def current() -> AESKey:
    """Return the master key that wraps. Raise MasterKeyProblem."""
    return next(iter(all_keys().values()))


def by_id(key_id: str) -> AESKey:
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


def all_keys() -> dict[str, AESKey]:
    """Return every master key by id, the wrapping key first. Raise MasterKeyProblem."""
    keys: dict[str, AESKey] = {}
    for source in _sources():
        for key in source.keys().values():
            if not keys.setdefault(key.id, key).same_as(key):
                raise MasterKeyProblem(
                    "MASTER_KEYS and its file have different master keys with the id "
                    f"{key.id}. Rename one."
                )
    return keys


def file_keys() -> FileKeys | None:
    """Return the file of MASTER_KEYS_PATH, or None if the setting is empty."""
    return _file(conf.settings.MASTER_KEYS_PATH) if conf.settings.MASTER_KEYS_PATH else None


def _sources() -> list[Source]:
    file = file_keys()
    sources: list[Source] = [file] if file else []
    return [*sources, SettingsKeys()] if conf.settings.MASTER_KEYS or not file else sources


@lru_cache(maxsize=8)
def _file(path: str) -> FileKeys:
    return FileKeys(path)
