"""Map the CA's refusals to exceptions: problem documents of RFC 7807 and RFC 8555, section 6.7."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urljoin

import requests

from authorities.base import NotYet
from authorities.errors import (
    BAD_EAB,
    BAD_NONCE,
    DEACTIVATED,
    ERROR,
    NOT_FOUND,
    PAUSED,
    RATE_LIMITED,
    UNKNOWN_ACCOUNT,
    Problem,
    Refused,
    Unexplained,
)
from certctrl import clock, outgoing
from certctrl.sentences import printable
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, Wait

PREFIX = "urn:ietf:params:acme:error:"
MAX_WORDS = 1000
MAX_PROBLEMS = 100  # subproblems; one for each name of an order
RATE_LIMIT_PAUSE = 300.0  # seconds, when the CA gives no time
ORDER_NOT_READY_PAUSE = 2.0
MAX_CODE = 64  # characters

# A retry does not help until a person fixes something or the request changes.
PERMANENT = frozenset(
    (
        "badCSR",
        "badPublicKey",
        "badRevocationReason",
        "badSignatureAlgorithm",
        "externalAccountRequired",
        "invalidContact",
        "invalidEmail",
        "invalidProfile",
        "rejectedIdentifier",
        "unsupportedContact",
        "unsupportedIdentifier",
        "userActionRequired",
    )
)
# These end the attempt. A later one may succeed, because zone, name or CA may change.
ENDS_ATTEMPT = frozenset(
    (
        "alreadyRevoked",
        "caa",
        "connection",
        "dns",
        "dnssec",
        "incorrectResponse",
        "malformed",
        "tls",
        "unauthorized",
        "unknownHost",
    )
)
# The same request may succeed later.
AGAIN = {"serverInternal": ERROR, "accountDoesNotExist": UNKNOWN_ACCOUNT, "badNonce": BAD_NONCE}
# Words by which CAs say that a resource does not exist, when the status is not 404.
OWN = r"(order|authori[sz]ation|authz|challenge|certificate|resource|object)s?"
NOT = r"(not|[a-z]+n['\u2019]t)"  # "not", and the end of "doesn't" and "couldn't"
ABSENT = (
    rf"({NOT} (yet )?(be )?(found|exist)|no such|unknown|unable to find"
    r"|(could ?n[o'\u2019]t|can(not|['\u2019]t)) find)"
)
NOT_THERE = re.compile(rf"\b{OWN}\b.*\b{ABSENT}|\b{ABSENT}\b.*\b{OWN}\b", re.I | re.S)
NOT_THERE_TYPE = re.compile(r"not_?found|not_?exist", re.I)
GONE = re.compile(r"\bexpired\b", re.I)
# Words by which CAs say that a nonce is too old, when the type is not badNonce.
OLD = (
    r"(bad|invalid|stale|old|expired|unknown|unrecognized|not (valid|found|known)|replayed"
    r"|already used)"
)
NONCE_IN_WORDS = re.compile(rf"\b{OLD}\b.{{0,30}}\bnonce\b|\bnonce\b.{{0,30}}\b{OLD}\b", re.I)
# These types carry no meaning of their own. The subproblems decide.
WRAPPERS = frozenset(("compound", "malformed", "about:blank", ""))

ACCOUNT_IS_OFF = re.compile(
    r"\baccount\b.*\b(deactivated|revoked)\b|\b(deactivated|revoked)\b.*\baccount\b", re.I | re.S
)
RETRY_AFTER_IN_WORDS = re.compile(
    r"retry after (\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d) ?(?:UTC|Z)", re.I
)
# Let's Encrypt pauses a name after many failed validations of an account:
# https://letsencrypt.org/docs/rate-limits/#consecutive-authorization-failures-per-hostname-per-account
PAUSED_IN_WORDS = re.compile(
    r"temporarily prevented from requesting|\bunpause\b|\bpaused\b.{0,80}\b(identifier|name)", re.I
)


@dataclass(frozen=True)
class ProblemResponse:
    """A refusal as the CA sent it."""

    status: int
    document: Mapping[str, Any]  # empty when the body was not JSON
    retry_after: float | None = None  # seconds


def problem_of(document: Any, *, refused: bool = False) -> Problem | None:
    """Return the problem in a document of an order, a challenge or a refusal; None without one.

    Set `refused` when the document is the response to a refused request. Only then can it be about
    the account. The error of a challenge quotes the zone, so its words prove nothing about the
    account.
    """
    if not isinstance(document, Mapping):
        return None
    typ = _deciding_type(document)
    is_off = refused and is_account_off(typ, document)
    return Problem(
        type=typ,
        detail=words_of(document),
        permanent=typ in PERMANENT or is_off,
        code=DEACTIVATED if is_off else _code(typ),
    )


def trouble_of(
    answer: ProblemResponse, what: str, with_eab: bool = False, *, named: bool = False
) -> Trouble | Wait:
    """Return the exception to raise for a refusal.

    `what` is the first half of the sentence: which CA refused which request. `with_eab`: the
    request had an external account binding. `named`: the CA itself gave the URL of the resource.
    """
    problem = problem_of(answer.document, refused=True) or Problem("", "")
    if problem.detail:
        said = told = _("%(what)s: %(said)s", what=what, said=problem)
    else:
        told = _("%(what)s (HTTP %(status)s)", what=what, status=answer.status)
        said = _("%(what)s (HTTP %(status)s).", what=what, status=answer.status)
    if problem.type == "orderNotReady":
        return Wait(
            answer.retry_after or ORDER_NOT_READY_PAUSE, _("The CA is not ready for the CSR yet.")
        )
    if problem.type == "rateLimited" or answer.status == 429:
        if PAUSED_IN_WORDS.search(problem.detail):
            return Refused(
                PAUSED,
                _(
                    "%(told)s. Retries do not help. Open the CA's page to unpause the name, then "
                    "request the certificate again.",
                    told=told,
                ),
                permanent=True,
            )
        return Trouble(RATE_LIMITED, said, retry_after=_rate_limit_pause(answer, problem))
    if problem.type in AGAIN:
        return Trouble(AGAIN[problem.type], said, retry_after=answer.retry_after)
    if not 400 <= answer.status < 500 and problem.type not in PERMANENT | ENDS_ATTEMPT:
        return Trouble(ERROR, said, retry_after=answer.retry_after)
    if with_eab and problem.type in ("unauthorized", "malformed"):
        return Refused(
            BAD_EAB,
            _("%(told)s. Check the EAB key id and HMAC key.", told=told),
            permanent=True,
        )
    if named and _is_not_there(answer, problem):
        return NotYet(NOT_FOUND, _("%(told)s. It may not exist yet.", told=told), what)
    kind = Refused if answer.document else Unexplained
    if answer.status in (404, 410) and problem.type in WRAPPERS:
        return kind(NOT_FOUND, said)
    return kind(problem.code, said, permanent=problem.permanent)


def _is_not_there(answer: ProblemResponse, problem: Problem) -> bool:
    if GONE.search(problem.detail) or problem.type in PERMANENT:
        return False
    if answer.status == 404 or NOT_THERE_TYPE.search(problem.type):
        return (
            problem.type in WRAPPERS
            or problem.type not in ENDS_ATTEMPT
            or bool(NOT_THERE.search(problem.detail))
        )
    return problem.type in WRAPPERS | {"unauthorized"} and bool(NOT_THERE.search(problem.detail))


def is_bad_nonce(answer: ProblemResponse) -> bool:
    """Return whether the CA refused the request because of its nonce.

    The type is `badNonce` (RFC 8555, section 6.5), or the words say it.
    """
    typ = type_of(answer.document)
    if typ in WRAPPERS | {"serverInternal", "unauthorized"}:
        return bool(NONCE_IN_WORDS.search(_text(answer.document.get("detail"))))
    return typ == "badNonce"


def refusal_of(response: requests.Response) -> ProblemResponse | None:
    """Return the response as a refusal; None when it is a success."""
    if response.ok and response.status_code < 300:
        return None
    try:
        document = response.json()
    except (ValueError, RecursionError):
        document = {}
    if not isinstance(document, dict):
        document = {}
    if instance := _text(document.get("instance")):  # a page for people; the URL may be relative
        document["instance"] = absolute(str(response.url), instance)
    return ProblemResponse(response.status_code, document, outgoing.wait_of(response))


def absolute(base_url: str, url: str) -> str:
    """Resolve a URL of a response against the request's URL (RFC 9110, 10.2.2).

    Return an empty text when `url` is empty or cannot be parsed.
    """
    try:
        return urljoin(base_url, url.strip()) if url.strip() else ""
    except ValueError:
        return ""


def json_of(response: requests.Response, label: str) -> dict[str, Any]:
    """Return the JSON object of a response.

    Raise Trouble for anything else, such as the HTML of a proxy.
    """
    try:
        document = response.json()
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        kind = response.headers.get("Content-Type", "").partition(";")[0][:60] or _("nothing")
        raise Trouble(
            ERROR,
            _(
                "%(label)s answered %(kind)s instead of a JSON object (HTTP "
                "%(status_code)s). Check the directory_url.",
                label=label,
                kind=kind,
                status_code=response.status_code,
            ),
        )
    return document


def words_of(document: Mapping[str, Any]) -> str:
    """Return the CA's own words on one line, at most 1,000 characters.

    Each subproblem follows with the name that it is about.
    """
    words = [_words_of_one(document)]
    words += [_words_of_one(each) for each in subproblems_of(document)]
    if instance := _text(document.get("instance")):
        words.append(f"see {instance}")
    return _one_line("; ".join(each for each in dict.fromkeys(words) if each))


def subproblems_of(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = document.get("subproblems")
    listed = found[:MAX_PROBLEMS] if isinstance(found, list) else []
    return [each for each in listed if isinstance(each, Mapping)]


def is_account_off(typ: str, document: Mapping[str, Any]) -> bool:
    """Return whether the problem says that the account is deactivated or revoked.

    RFC 8555, 7.3.6, has no special type for that: the type is `unauthorized`, and the words say it.
    """
    return typ == "unauthorized" and bool(ACCOUNT_IS_OFF.search(_text(document.get("detail"))))


def _until(at: datetime) -> float:
    return min(max(0.0, (at - clock.now()).total_seconds()), outgoing.MAX_WAIT)


def _rate_limit_pause(answer: ProblemResponse, problem: Problem) -> float:
    """Return the pause after a rate limit in seconds.

    Let's Encrypt also gives the time in the words of the problem.
    """
    if answer.retry_after is not None:
        return answer.retry_after
    if found := RETRY_AFTER_IN_WORDS.search(problem.detail):
        try:
            return _until(datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00"))
        except ValueError:
            pass
    return RATE_LIMIT_PAUSE


def type_of(document: Mapping[str, Any]) -> str:
    """Return the problem type without the ACME prefix; any other URN or URL unchanged."""
    return _text(document.get("type")).removeprefix(PREFIX)[:100]


def _deciding_type(document: Mapping[str, Any]) -> str:
    """Return the type of the document.

    When the document only wraps subproblems, return the type of the worst one.
    """
    own = type_of(document)
    types = [type_of(each) for each in subproblems_of(document)]
    if own not in WRAPPERS or not types:
        return own
    return next((typ for typ in types if typ in PERMANENT), types[0])


def _code(typ: str) -> str:
    if typ in AGAIN:
        return AGAIN[typ]
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,48}", typ):
        return "ca_refused"
    return ("ca_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", typ).lower())[:MAX_CODE]


def _words_of_one(document: Mapping[str, Any]) -> str:
    detail = _text(document.get("detail")) or _text(document.get("title"))
    identifier = document.get("identifier")
    name = _text(identifier.get("value")) if isinstance(identifier, Mapping) else ""
    return f"{name}: {detail}" if name and detail else detail or name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _one_line(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "\N{HORIZONTAL ELLIPSIS}"
