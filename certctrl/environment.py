"""Reads a setting from the environment, from `.env`, or from the file that NAME_FILE names.

A value is kept as it was written. No error quotes a value, because it may be a secret.
"""

import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import environ
from django.core.exceptions import ImproperlyConfigured

LINE = re.compile(r"(?:export )?([A-Za-z_][A-Za-z_0-9]*)=(.*)", re.DOTALL)
DAYS = re.compile(r"[0-9]{1,4}")
IS_NOT = {
    int: "a whole number",
    float: "a number",
}


class Written(MutableMapping[str, str]):
    """The environment. The text of the file NAME_FILE is the value of NAME."""

    def __getitem__(self, name: str) -> str:
        path = os.environ.get(f"{name}_FILE")
        return read_secret(name, Path(path)) if path else os.environ[name]

    def __setitem__(self, name: str, value: str) -> None:
        os.environ[name] = value

    def __delitem__(self, name: str) -> None:
        del os.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


class Environment(environ.FileAwareEnv):  # type: ignore[misc]
    """The getters of django-environ, with two changes.

    A value that begins with `$` does not name another setting. An empty value counts as not set.
    """

    ENVIRON = Written()
    given: ClassVar[dict[str, str]] = {}  # the settings that were read and had a value

    def get_value(
        self,
        var: str,
        cast: Any = None,
        default: Any = environ.Env.NOTSET,
        parse_default: bool = False,
    ) -> Any:
        """Return the value.

        Raise ImproperlyConfigured, with the setting's name but not its value.
        """
        value = self.ENVIRON.get(var, "")
        if value == "" and default is self.NOTSET:
            raise ImproperlyConfigured(
                f"Set {var}, or {var}_FILE to the path of a file that holds it."
            )
        if value == "":
            return default
        self.given[var] = value
        try:
            return self.parse_value(value, cast)
        except (ValueError, RecursionError):  # these messages, and those of json, quote the value
            raise ImproperlyConfigured(
                f"{var} is not {IS_NOT.get(cast, 'JSON')}. Change it."
            ) from None

    def members(self, var: str) -> dict[str, Any]:
        """Return the JSON object of the setting, or {} without one. Raise ImproperlyConfigured."""
        found = self.json(var, default={})
        if not isinstance(found, dict):
            raise ImproperlyConfigured(
                f'{var} is not a JSON object. Write it like {{"NAME": "value"}}.'
            )
        return found

    def days(self, var: str, default: int | None, least: int = 1) -> timedelta | None:
        """Return a number of days, or None for `forever`. A default of None is `forever`.

        Raise ImproperlyConfigured for another value, and for fewer days than `least`.
        """
        given = self.str(var, "forever" if default is None else str(default))
        if given == "forever":
            return None
        if DAYS.fullmatch(given) and int(given) >= least:
            return timedelta(days=int(given))
        raise ImproperlyConfigured(
            f"{var} is not a number of days. Write a whole number from {least} to 9999, or forever."
        )


@contextmanager
def refusing_in_a_sentence() -> Iterator[None]:
    """End the process with one sentence, and no traceback, when a setting cannot be used."""
    try:
        yield
    except ImproperlyConfigured as exc:
        raise SystemExit(str(exc)) from None


def read_secret(name: str, path: Path) -> str:
    """Return the text of the file, without one line end.

    Editors and `echo` add that line end. Nothing else changes. Raise ImproperlyConfigured.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as exc:
        raise ImproperlyConfigured(
            f"{name}_FILE names {path}, which cannot be read ({exc.strerror}). Check the path "
            "and the mode."
        ) from None
    except UnicodeDecodeError:
        raise ImproperlyConfigured(
            f"{name}_FILE names {path}, which is not UTF-8. Save it as UTF-8."
        ) from None
    if "\0" in text:
        raise ImproperlyConfigured(
            f"{name}_FILE names {path}, which is not text, because it has a zero byte. Save "
            "it as text."
        )
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def read_env(path: Path) -> None:
    """Put the settings of the file `.env` into the environment. Existing names keep their values.

    A line is NAME=value. Quotes around the whole value are removed. Inside double quotes, a
    backslash keeps the next character. Before r, n and t the backslash stays too. `$` has no
    meaning, and neither has `#` after a value. Raise ImproperlyConfigured for a file that cannot be
    read or parsed.
    """
    if not path.exists():
        return
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise ImproperlyConfigured(
            f"{path} cannot be read ({exc.strerror}). Check its mode."
        ) from None
    except UnicodeDecodeError:
        raise ImproperlyConfigured(f"{path} is not UTF-8. Save it as UTF-8.") from None
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.removesuffix("\r"))
        if not match or "\0" in line:
            raise ImproperlyConfigured(
                f"Line {number} of {path} cannot be read. Write NAME=value, without spaces "
                "around the =."
            )
        found[match[1]] = unquoted(match[2])
    outside = set(os.environ)
    for name, value in found.items():
        if outside.isdisjoint((name, f"{name}_FILE", name.removesuffix("_FILE"))):
            os.environ[name] = value


def unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != value[-1] or value[0] not in "'\"":
        return value
    inner = value[1:-1]
    return inner if value[0] == "'" else re.sub(r"\\(.)", _kept, inner)


def _kept(escape: re.Match[str]) -> str:
    return escape[0] if escape[1] in "rnt" else escape[1]
