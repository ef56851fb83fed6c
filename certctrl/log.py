"""Logs as JSON lines: an event name and keys. No prose, no PEM, no tokens.

`redact` processes every line before it is written. It also masks a secret inside a message, a URL
or a traceback.
"""

import logging
import re
import secrets
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NoReturn, TextIO

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from structlog.contextvars import bound_contextvars
from structlog.typing import EventDict

from certctrl import clock

MASK = "***"
FRAMES = 12  # of a traceback; the innermost ones show where
DEPTH = 6  # of nested values
# Characters of one value. This also limits the work of the patterns below.
LONGEST = 8000
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

# The words of a name. "key" counts only as the last word: key_type and key_id are not secret.
WORDS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
SECRET_WORDS = (
    *(
        "secret",
        "token",
        "password",
        "passwd",
        "passphrase",
        "authorization",
        "cookie",
        "hmac",
        "eab",
        "pem",
    ),
    *("credentials", "signature"),
)
SECRET_LAST_WORDS = ("key", "keys")
SECRET_VALUES = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL), MASK),
    (re.compile(r"\bak_[A-Za-z0-9_-]{6,}"), f"ak_{MASK}"),
    (re.compile(r"\b(dc|rc|rt)_[A-Za-z0-9._-]{20,}"), rf"\1_{MASK}"),  # of devices
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]{6,}"), f"whsec_{MASK}"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"), MASK),
    (re.compile(r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s/@'\"]+@", re.IGNORECASE), rf"\1{MASK}@"),
    (re.compile(r"\b(https?://[^\s?'\"<>]+\?)[^\s'\"<>]+", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"((?:secret|token|password|passwd|passphrase|authorization|hmac|api_?key|access_?key)"
            r"[a-z_]*['\"]?\s*[=:]\s*)"
            r"(?!\*\*\*)(b?'[^']*'|b?\"[^\"]*\"|[^\s,;&)}\]'\"]+)",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
)
# No pattern matches such a text, and most values are one.
PLAIN = re.compile(r"[a-z0-9.]*")
# Libraries that log too much: whole URLs, signed bodies, a line for each task.
QUIET = {
    "urllib3": logging.ERROR,
    "requests": logging.ERROR,
    "botocore": logging.WARNING,
    "acme": logging.INFO,
    "josepy": logging.INFO,
    "asyncio": logging.INFO,
    "celery.app.trace": logging.WARNING,
    "celery.beat": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "django.request": logging.ERROR,  # RequestContext writes a line for each request
    "django.template": logging.INFO,
    "django.db.backends": logging.INFO,  # DEBUG would log the values of every query
    "uvicorn.access": logging.CRITICAL + 1,
}

# With bind(issuance=7, step="order"), every line in the body has both keys.
bind = bound_contextvars


class Secret:
    """A string that prints, formats and logs as ***. Only `reveal()` returns its value.

    It is deliberately not a str. With a subclass, join, json.dumps and concatenation would read the
    value. Here they raise TypeError. pickle raises TypeError too, because it would put the value
    into a message queue.
    """

    __slots__ = ("__value",)

    def __init__(self, value: "str | Secret") -> None:
        self.__value = value.reveal() if isinstance(value, Secret) else value

    def reveal(self) -> str:
        """Return the secret value."""
        return self.__value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return secrets.compare_digest(self.__value.encode(), other.__value.encode())

    def __hash__(self) -> int:
        return hash(self.__value)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: Any) -> "Secret":
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret does not leave the process")


def mask(text: str) -> str:
    """Return the text with PEM blocks, tokens, passwords and URL queries masked."""
    if PLAIN.fullmatch(text, 0, LONGEST) and len(text) <= LONGEST:
        return text
    text = text[:LONGEST]
    for pattern, instead in SECRET_VALUES:
        text = pattern.sub(instead, text)
    return text


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Return whether a value with this name is secret."""
    words = [word.lower() for word in WORDS.findall(name)]
    if not words:
        return False
    return words[-1].endswith(SECRET_LAST_WORDS) or any(
        word.removesuffix("s").endswith(SECRET_WORDS) or word.endswith(SECRET_WORDS)
        for word in words
    )


def _redacted(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float | Secret):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, dict) and depth < DEPTH:
        return {
            mask(str(name)): _redacted_item(str(name), each, depth) for name, each in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset) and depth < DEPTH:
        return [_redacted(each, depth + 1) for each in value]
    return mask(value if isinstance(value, str) else str(value))


def _redacted_item(name: str, value: Any, depth: int) -> Any:
    if is_secret(name) and value is not None and not isinstance(value, bool):
        return MASK
    return _redacted(value, depth + 1)


def redact(logger: Any, method: str, event: EventDict) -> EventDict:
    """Mask values by their name and by their form, at every depth."""
    return {name: _redacted_item(name, value, 0) for name, value in event.items()}


def explain(logger: Any, method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type, its place and the last frames of its traceback.

    Local variables are left out.
    """
    found = event.pop("exc_info", None)
    if isinstance(found, BaseException):
        exc: BaseException | None = found
    else:
        exc = found[1] if isinstance(found, tuple) else sys.exc_info()[1] if found else None
    if exc is None:
        return event
    frames = traceback.extract_tb(exc.__traceback__)
    if frames:
        event["where"] = f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}"
    event["error"] = type(exc).__qualname__
    event["traceback"] = "".join(traceback.format_exception(exc, limit=-FRAMES))
    return event


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the current sys.stderr, not to the one at the time of configuration."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


SHARED = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure() -> None:
    """Log all lines of this process as JSON on stderr, from LOG_LEVEL up.

    Lines of structlog and of the standard library are included. Call this once when a process
    starts. A second call does no harm.
    """
    level = logging.getLevelNamesMapping().get(str(settings.LOG_LEVEL).upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                explain,
                redact,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if not _is_plain(each)] + [handler]
    root.setLevel(level)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "django"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.captureWarnings(True)


def _is_plain(handler: logging.Handler) -> bool:
    """Return whether the handler is ours or from basicConfig. Handlers of tests are kept."""
    return type(handler) in (_Stderr, logging.StreamHandler)


log = structlog.get_logger()


class RequestContext:
    """Gives each request an id, and logs one line for each request, without the query.

    The id is the caller's X-Request-Id when that is short and plain. Every line that is logged
    during the request has the id.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        if iscoroutinefunction(self.get_response):
            return self._answer_later(request)
        with _told(request) as answered:
            return answered(self.get_response(request))

    async def _answer_later(self, request: HttpRequest) -> HttpResponse:
        with _told(request) as answered:
            return answered(await self.get_response(request))


@contextmanager
def _told(request: HttpRequest) -> Iterator[Callable[[HttpResponse], HttpResponse]]:
    given = request.headers.get("X-Request-Id", "")
    request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    status = 500
    began = clock.monotonic()

    def answered(response: HttpResponse) -> HttpResponse:
        nonlocal status
        status = response.status_code
        response["X-Request-Id"] = request_id
        return response

    with bind(request_id=request_id):
        try:
            yield answered
        finally:
            took = round((clock.monotonic() - began) * 1000)
            log.info("request", method=request.method, path=request.path, status=status, ms=took)
