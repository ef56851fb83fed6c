"""The JSON file that the setting CERTCTRL_CONFIG names.

Example: {"acme": {"log_level": "debug", "save_requests": true}}.
"""

import json
from typing import Any

from django.core.exceptions import ImproperlyConfigured


def acme_log(path: str) -> tuple[str, bool]:
    """Return `log_level` ("" or "debug") and `save_requests` of the member `acme` of the file.

    Without a file both are off. Raise ImproperlyConfigured when the file cannot be read, is not
    JSON or has other members.
    """
    if not path:
        return "", False
    acme = _members(path, _read(path), "the file", ("acme",)).get("acme", {})
    found = _members(path, acme, "acme", ("log_level", "save_requests"))
    log_level = found.get("log_level", "")
    save_requests = found.get("save_requests", False)
    if log_level not in ("", "debug"):
        raise _wrong(path, 'acme.log_level must be "debug" or empty')
    if not isinstance(save_requests, bool):
        raise _wrong(path, "acme.save_requests must be true or false")
    return log_level, save_requests


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except OSError as error:
        raise _wrong(path, f"the file cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise _wrong(path, "the file is not JSON") from None


def _members(path: str, value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, f"{where} must hold a JSON object")
    unknown = [name for name in value if name not in known]
    if unknown:
        raise _wrong(
            path, f"{where} has the unknown member {unknown[0]!r}; allowed are {', '.join(known)}"
        )
    return value


def _wrong(path: str, what: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"CERTCTRL_CONFIG names {path}, but {what}. Fix the file.")
