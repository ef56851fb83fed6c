"""Parses the JSON of a request (RFC 8259) strictly.

JSON that two parsers could read differently is refused.
"""

import codecs
import json
import math
from typing import Any, NoReturn

from django.conf import settings

from certctrl.errors import Invalid, MalformedJSON, TooLarge
from certctrl.sentences import sentence as _

MAX_DEPTH = 16
MAX_VALUES = 20_000
SHOWN = 100  # characters of a path or name that a response quotes
# Only responses have these members. A client may send them back unchanged, and they are ignored.
PEM = (
    "cert",
    "csr",
    "ca_certificate_pem",
)
# Members that may contain line ends. People paste secrets with the line ends that they saw.
IN_LINES = (
    *PEM,
    "secret",
    "eab_hmac_key",
)
GZIP = b"\x1f\x8b"
WORDS = {  # the start of json's messages, and our words for them
    "Expecting property name": _(
        "a member's name, in double quotes, is missing, or there is one comma too many,"
    ),
    "Expecting ':'": _("a colon is missing"),
    "Expecting ','": _("a comma or a closing bracket is missing"),
    "Expecting value": _("a value is missing"),
    "Unterminated string": _("no closing quote for the string that begins"),
    "Invalid control character": _("a string holds a line break or another control character"),
    "Invalid \\": _("a string holds an unknown escape"),
    "Unexpected UTF-8 BOM": _("there is a second byte order mark"),
    "Extra data": _("there is text after the end"),
    "Illegal trailing comma": _("there is one comma too many"),
}
WITHOUT_WHITE = str.maketrans("", "", "\n\r\t")


def read(body: bytes, *, allows_list: bool = False, allows_lines: bool = False) -> Any:
    """Return the object in `body`, or the list if `allows_list` is true.

    No string has control characters. Members in IN_LINES may have line ends and tabs, and all
    members if `allows_lines` is true. Raise TooLarge (413), MalformedJSON, or Invalid with the
    member's path in `params["field"]`.
    """
    if len(body) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise too_large(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    refuse_crowds(body)
    value = parse(body)
    if not isinstance(value, dict) and not (allows_list and isinstance(value, list)):
        raise Invalid(_('The body is not a JSON object. Send one: {"name": value, ...}.'))
    inspect(value, "", 1, allows_lines=allows_lines)
    return value


def too_large(limit: int) -> TooLarge:
    most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    more = (
        ""
        if limit >= most
        else _(" With a valid session or API key, %(most)s are allowed.", most=most)
    )
    return TooLarge(
        _("The body is larger than %(limit)s bytes. Send less.%(more)s", limit=limit, more=more)
    )


def refuse_crowds(body: bytes) -> None:
    """Refuse a body with too many values, before it is parsed.

    A megabyte of empty lists has half a million values, and takes seconds to parse.
    """
    if sum(map(body.count, b"[{,")) > MAX_VALUES:
        raise MalformedJSON(
            _(
                "The body has more than %(max_values)s lists, objects and commas. Send less.",
                max_values=MAX_VALUES,
            )
        )


def parse(body: bytes) -> Any:
    # UTF-16, which Windows calls Unicode, has "\0" in every second byte of ASCII text. JSON has
    # none.
    is_wide = body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:4]
    if is_wide and not body.startswith(GZIP):
        raise MalformedJSON(_("The body is UTF-16 or UTF-32. Send UTF-8."))
    try:
        # A byte order mark may be ignored (RFC 8259, section 8.1).
        text = body.removeprefix(codecs.BOM_UTF8).decode()
        return json.loads(
            text,
            object_pairs_hook=without_duplicates,
            parse_constant=refuse_constant,
            parse_float=finite_float,
        )
    except json.JSONDecodeError as exc:
        what = next(
            (ours for theirs, ours in WORDS.items() if exc.msg.startswith(theirs)),
            _("it cannot be read"),
        )
        raise MalformedJSON(
            _(
                "The body is not JSON: %(what)s at line %(lineno)s, column %(colno)s.",
                what=what,
                lineno=exc.lineno,
                colno=exc.colno,
            )
        ) from None
    except UnicodeDecodeError:
        raise MalformedJSON(_("The body is not UTF-8. Send JSON in UTF-8, uncompressed.")) from None
    except RecursionError:
        raise MalformedJSON(
            _(
                "The body is nested deeper than %(max_depth)s levels. Send fewer levels.",
                max_depth=MAX_DEPTH,
            )
        ) from None
    except ValueError:  # a whole number with thousands of digits
        raise MalformedJSON(
            _("The body has a number that is too long. Send a shorter one.")
        ) from None


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise MalformedJSON(
                _(
                    "The member %(name)s occurs twice in one object. Send it once.",
                    name=printable(name),
                )
            )
        members[name] = value
    return members


def refuse_constant(name: str) -> NoReturn:
    raise MalformedJSON(_("%(name)s is not JSON. Send a number or null.", name=name))


def finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise MalformedJSON(_("The body has a number that is too large. Send a smaller one."))
    return number


def inspect(value: Any, path: str, depth: int, *, allows_lines: bool = False) -> None:
    """Refuse control characters in values and names, and refuse deep nesting.

    The path is cut to the length that is shown. A long name would otherwise be copied for each
    value below it.
    """
    if depth > MAX_DEPTH:
        raise MalformedJSON(
            _(
                "The body is nested deeper than %(max_depth)s levels. Send fewer levels.",
                max_depth=MAX_DEPTH,
            )
        )
    if isinstance(value, str):
        refuse_control_characters(value, path, allows_lines=allows_lines)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            inspect(each, f"{path[:SHOWN]}[{number}]", depth + 1, allows_lines=allows_lines)
    elif isinstance(value, dict):
        for name, each in value.items():
            member = f"{path[:SHOWN]}.{name[:SHOWN]}" if path else name[:SHOWN]
            refuse_control_characters(name, member)
            inspect(each, member, depth + 1, allows_lines=allows_lines)


def refuse_control_characters(text: str, path: str, *, allows_lines: bool = False) -> None:
    plain = text.translate(WITHOUT_WHITE) if allows_lines or path in IN_LINES else text
    if plain.isprintable() or all(map(is_text, plain)):
        return
    field = printable(path)
    raise Invalid(_("%(field)s has a control character. Remove it.", field=field), field=field)


def is_text(char: str) -> bool:
    """Return whether a character is text.

    Control characters (C0, DEL, C1) are not text. Half of a surrogate pair is not text, because no
    database stores one.
    """
    return char.isprintable() or not (
        char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"
    )


def printable(text: str) -> str:
    return "".join(char if is_text(char) else "?" for char in text[:SHOWN])
