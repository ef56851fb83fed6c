"""Keep the exchanges with CAs and DNS APIs while debugging is on, without secrets.

The file that the setting CERTCTRL_CONFIG names switches debugging on for every account. An
account's `log_level` switches it on for that account.

An exchange is one row. One INSERT writes the row when the response is there, outside of any
transaction. A worker that is killed before the INSERT loses only that row.
"""

import base64
import json
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import requests
import structlog
from django.conf import settings

from authorities.models import AcmeAccount, Exchange
from certctrl import clock, retention, watching
from certctrl.log import MASK, mask
from certctrl.sentences import MOST_SAID

logger = structlog.get_logger()

DEBUG = "debug"
KEPT = timedelta(days=14)
MOST = 64 * 1024  # bytes of a body
MOST_OF_DOCUMENT = 16 * 1024  # characters of a payload, or of a problem
MOST_OF_HEADER = 1000  # characters
ROOM_IS_MADE_EVERY = 100  # exchanges of all accounts, between two calls of _make_room
# Exchanges, about. A custom CA may send as many large responses as it likes.
MOST_OF_ACCOUNT = 2000
# Of a document that is too large: the number of its members, and the characters of a name.
MOST_MEMBERS = 20
SHORT = 100
DEEPEST = 20  # levels of nested values
# Characters. A shorter text is not masked: {} is "e30", which occurs everywhere.
LEAST = 16
HEADERS = (
    *(
        "Boulder-Request-Id",
        "Boulder-Requester",
        "CF-Ray",
        "Content-Length",
        "Content-Type",
        "Date",
        "Link",
    ),
    *("Location", "Retry-After", "Server", "Via", "X-Request-Id"),
)
SECRET_MEMBERS = ("externalAccountBinding", "keyAuthorization")

_about: ContextVar[tuple[AcmeAccount, str, int | None] | None] = ContextVar("_about", default=None)


@contextmanager
def about(account: AcmeAccount, step: str, attempt_id: int | None = None) -> Iterator[None]:
    """Assign every exchange inside the block to this account, and to the attempt if given.

    Exchanges with a DNS API are stored too.
    """
    token = _about.set((account, step, attempt_id))
    try:
        with watching.by(lambda call: record_call(call, account, step, attempt_id)):
            yield
    finally:
        _about.reset(token)


def record(
    method: str,
    url: str,
    sent: str | None,
    began: float,
    answer: requests.Response | None = None,
    error: str = "",
) -> None:
    """Store an exchange when debugging is on for the current account. Never raise.

    `sent` is the signed message. `began` is a reading of `clock.monotonic()`. `error` is a sentence
    that says why no response came.
    """
    told = _about.get()
    if told is None:
        return
    account, step, attempt_id = told
    with _never_raising(step):
        if is_on(account):
            exchange = Exchange(account=account, attempt_id=attempt_id, step=step, method=method)
            _tell(exchange, url, sent, answer, error)
            _store(exchange, began)


def record_call(
    call: watching.ApiCall, account: AcmeAccount, step: str, attempt_id: int | None
) -> None:
    """Store a call to a DNS API when debugging is on for the account. Never raise.

    A call with the credential of another owner is not stored, because its path may say how that
    owner's zones are hosted.
    """
    with _never_raising(step):
        if is_on(account) and call.owner_id == account.owner_id:
            exchange = Exchange(
                account=account,
                attempt_id=attempt_id,
                step=step,
                party=call.party,
                method=call.method,
                url=_text(call.url, ())[:500],
                status=call.status,
                headers=call.headers,
                error=_text(call.error, ())[:MOST_SAID],
            )
            _store(exchange, call.began)


@contextmanager
def _never_raising(step: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # any error: it must not fail the request itself
        logger.warning("exchange.lost", step=step, error=type(exc).__name__)


def _store(exchange: Exchange, began: float) -> None:
    took = clock.monotonic() - began
    exchange.at = clock.now() - timedelta(seconds=took)
    exchange.took_ms = round(took * 1000)
    exchange.save(force_insert=True)
    if exchange.pk % ROOM_IS_MADE_EVERY == 0:
        _make_room(exchange.account)


def is_on(account: AcmeAccount) -> bool:
    """Return whether debugging is on for the account."""
    return DEBUG in (settings.ACME_LOG_LEVEL, account.log_level)


def prune() -> None:
    """Delete exchanges older than 14 days, and those of attempts that are deleted by then."""
    kept = min(KEPT, settings.KEEP_ATTEMPTS or KEPT)
    retention.delete(Exchange.objects.filter(at__lt=retention.before(kept)))


def _make_room(account: AcmeAccount) -> None:
    """Delete the oldest exchanges of the account, above the maximum of one account."""
    newest_first = (
        Exchange.objects.filter(account=account).order_by("-pk").values_list("pk", flat=True)
    )
    for pk in newest_first[MOST_OF_ACCOUNT : MOST_OF_ACCOUNT + 1]:
        Exchange.objects.filter(account=account, pk__lte=pk).delete()


def _tell(
    exchange: Exchange, url: str, sent: str | None, answer: requests.Response | None, error: str
) -> None:
    payload, hidden = _read(sent)
    if settings.ACME_SAVE_REQUESTS or exchange.account.save_requests:
        exchange.request = _small(_clean(payload, hidden))
    exchange.url = _text(url, hidden)[:500]
    exchange.error = _text(error, hidden)[:MOST_SAID]
    if answer is None:
        return
    document = _json(answer.text)
    exchange.status = answer.status_code
    headers = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
    exchange.headers = {
        name: _text(value, hidden)[:MOST_OF_HEADER] for name, value in headers.items()
    }
    exchange.body = _body(answer.text, document, hidden)
    if answer.status_code >= 400 and isinstance(document, dict):
        exchange.problem = _small(_clean(document, hidden))


# --- masking of secrets ---


def _read(sent: str | None) -> tuple[Any, Collection[str]]:
    """Return the payload of a signed message (RFC 8555, section 6.2), and the texts to mask.

    The payload of a POST-as-GET is "". The texts must not be stored, even when the CA quotes them.
    """
    if not sent:
        return None, ()
    jws = json.loads(sent)
    payload = _decoded(jws["payload"])
    binding = payload.get("externalAccountBinding") if isinstance(payload, dict) else None
    parts = [
        *jws.values(),
        _decoded(jws["protected"])["nonce"],
        *(binding.values() if binding else ()),
    ]
    return payload, [each for each in parts if len(each) >= LEAST]


def _decoded(part: str) -> Any:
    decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return json.loads(decoded) if decoded else ""


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _body(text: str, document: Any, hidden: Collection[str]) -> str:
    cleaned = (
        _text(text, hidden)
        if document is None
        else json.dumps(_clean(document, hidden), ensure_ascii=False)
    )
    return cleaned.encode()[:MOST].decode(errors="ignore")


def _small(document: Any) -> Any:
    """Return the document. When it is too large, return its first members, shortened."""
    if len(json.dumps(document)) <= MOST_OF_DOCUMENT:
        return document
    if not isinstance(document, dict):
        return f"{json.dumps(document)[:MOST_SAID]}\N{HORIZONTAL ELLIPSIS}"
    short = {
        name[:SHORT]: json.dumps(document[name])[:MOST_OF_HEADER]
        for name in list(document)[:MOST_MEMBERS]
    }
    short |= {
        name: document[name][:MOST_SAID]
        for name in ("type", "detail")
        if isinstance(document.get(name), str)
    }
    return short | {"truncated": True}


def _clean(value: Any, hidden: Collection[str], depth: int = 0) -> Any:
    """Return a JSON value with secrets masked, and without characters that a database refuses."""
    if isinstance(value, str):
        return _text(value, hidden)
    # A member `signature` marks a signed message inside the message.
    if depth == DEEPEST or (isinstance(value, dict) and "signature" in value):
        return MASK
    if isinstance(value, list):
        return [_clean(each, hidden, depth + 1) for each in value]
    if isinstance(value, dict):
        return {
            _text(name, hidden): MASK if name in SECRET_MEMBERS else _clean(each, hidden, depth + 1)
            for name, each in value.items()
        }
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _text(text: str, hidden: Collection[str]) -> str:
    for each in hidden:
        text = text.replace(each, MASK)
    return mask(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
