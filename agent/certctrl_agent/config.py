"""The permissions that the administrator of this machine gives the agent: `config.toml`.

The file is in the state folder. Without it, the agent answers no challenge and runs no script of
the server.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from certctrl_agent.errors import AgentError

NAME = "config.toml"
SHA256 = re.compile("[0-9a-f]{64}")
Address = tuple[str, int]


@dataclass(frozen=True)
class Config:
    """The keys of the file, with their defaults.

    `http_listen` and `tls_listen` are addresses to listen at, instead of those that the server
    names. `script_signals` and `script_sha256` say for which signals which script runs.
    """

    challenges: bool = False
    webroot: Path | None = None
    http_listen: Address | None = None
    tls_listen: Address | None = None
    script_signals: tuple[str, ...] = ()
    script_sha256: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read the file of a state folder. Raise AgentError for a key or a value that is wrong."""
        path = folder / NAME
        try:
            raw = tomllib.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            raise AgentError(f"{path} is not TOML: {error}.") from None
        known = [field.name for field in fields(cls)]
        for key in raw:
            if key not in known:
                raise AgentError(f'{path} has the unknown key "{key}". There are: {known}.')
        try:
            return cls(**{key: READERS[key](value) for key, value in raw.items()})
        except ValueError as error:
            raise AgentError(f"{path}: {error}") from None


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"challenges is {value!r}. Write true or false.")
    return value


def folder(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or ".." in Path(value).parts:
        raise ValueError(f"webroot is {value!r}. Write the absolute path of a folder.")
    return Path(value)


def address(value: Any) -> Address:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f'{value!r} is no address to listen at. Example: "127.0.0.1:8402"')
    return host.strip("[]"), int(port)


def signals(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError('script_signals is not a list. Example: ["cert.updated"]')
    return tuple(value)


def hashes(value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, list) else [value]
    for each in found:
        if not isinstance(each, str) or not SHA256.fullmatch(each):
            raise ValueError(f"script_sha256 has {each!r}. Write SHA-256 hashes in hex.")
    return tuple(found)


READERS: dict[str, Callable[[Any], Any]] = {
    "challenges": boolean,
    "webroot": folder,
    "http_listen": address,
    "tls_listen": address,
    "script_signals": signals,
    "script_sha256": hashes,
}
