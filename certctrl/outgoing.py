"""HTTP requests that leave this server, with a deadline, a size limit and the address guard.

Every outgoing HTTP request uses this module. A session is a `requests.Session`.

A request and its redirects end within `clock.time_left()`. Each socket operation gets the time that
is left of `clock.limit()` as its time-out. So a server that sends one byte per second cannot extend
the deadline. A name is resolved once, and the connection goes to the address that was checked.
"""

import email.utils
import http.client
import os
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

import certifi
import requests
import structlog
import urllib3
from django.conf import settings
from django.utils.translation import gettext_noop
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers, get_environ_proxies, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection

from certctrl import clock, outward
from certctrl.addresses import (
    HOST,
    AddressRefused,
    DeadlineExceeded,
    NameUnknown,
    allowances,
    called,
    canonical_url,
    check_address,
    is_allowed,
    is_by_tenant,
    is_named,
    literal,
    lookup,
    named_by_tenant,
    resolve,
)
from certctrl.sentences import sentence as _
from certctrl.sockets import DeadlineTLSSocket, connect_to_any

__all__ = [
    "UNTOLD",
    "AddressRefused",
    "AnswerTooLarge",
    "BundleUnreadable",
    "DeadlineExceeded",
    "NameUnknown",
    "OutgoingSession",
    "Unreachable",
    "age_of",
    "call",
    "called",
    "canonical_url",
    "check_address",
    "is_allowed",
    "is_by_tenant",
    "is_named",
    "literal",
    "named_by_tenant",
    "resolve",
    "session",
    "wait_of",
]

log = structlog.get_logger()

MAX_BODY = 1024 * 1024  # bytes, before and after decompression
MAX_REDIRECTS = 5
MAX_WAIT = 7 * 86400.0  # seconds: a Retry-After of more than a week is a mistake
MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,12})")
MAX_IDLE = 30.0  # seconds: middleboxes silently drop older connections
KEPT_CONNECTIONS = 32  # per host and process
PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
# requests would change nothing in such a URL, unless it has a segment that begins with a dot.
PREPARED = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~/-]*")
# Headers that a redirect to another host keeps. All others are dropped, because a credential can be
# in a header of any name.
CARRIED = frozenset(
    {"user-agent", "accept", "accept-encoding", "connection", "content-type", "content-length"}
)


class Unreachable(requests.ConnectionError):
    """No address of the host, or of the proxy, accepts the connection."""


class AnswerTooLarge(requests.RequestException):
    """The body is larger than MAX_BODY."""


class BundleUnreadable(requests.exceptions.SSLError):
    """The file that ACME_CA_BUNDLE names holds no certificates."""


# --- Connections ---


class _Guarded(HTTPConnection):
    """A connection to a checked address.

    The address of a proxy is not checked, because the operator named the proxy.
    """

    _used_at = 0.0

    def _new_conn(self) -> socket.socket:
        find = lookup if self.proxy else resolve
        addresses = find(self._dns_host, self.port)
        try:
            return connect_to_any(addresses, self.socket_options)
        except TimeoutError:
            raise
        except OSError as exc:
            raise Unreachable(
                _(
                    "%(host)s could not be reached (%(strerror)s). Check its name and port.",
                    host=self.host,
                    strerror=exc.strerror or type(exc).__name__,
                )
            ) from None

    def getresponse(self) -> Any:
        self._used_at = clock.monotonic()
        return super().getresponse()

    @property
    def is_connected(self) -> bool:
        """Return whether the pool may use this kept connection again."""
        return super().is_connected and clock.monotonic() - self._used_at < MAX_IDLE


class _GuardedTLS(_Guarded, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Guarded


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _GuardedTLS


# --- The session ---


class Answer(requests.Response):
    """A response whose body was read completely. Its error names the host and not the URL."""

    def raise_for_status(self) -> None:
        if self.status_code >= 400:
            host = urlsplit(self.url).hostname
            raise requests.HTTPError(
                _("%(host)s answered %(status_code)s.", host=host, status_code=self.status_code),
                response=self,
            )


class GuardedAdapter(HTTPAdapter):
    """Keeps connections for all sessions of the process. Reads whole bodies, up to MAX_BODY."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__(pool_maxsize=KEPT_CONNECTIONS)
        self._guard(self.poolmanager)

    @staticmethod
    def _guard(manager: Any) -> None:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if urlsplit(proxy).scheme not in ("http", "https"):
            raise requests.exceptions.InvalidProxyURL(
                _("HTTPS_PROXY names a proxy that is not an HTTP proxy. Name an HTTP proxy.")
            )
        manager = super().proxy_manager_for(proxy, proxy_ssl_context=self.context, **kwargs)
        self._guard(manager)
        return manager

    def build_connection_pool_key_attributes(
        self, request: Any, verify: Any, cert: Any = None
    ) -> Any:
        parts = urlsplit(request.url)
        host = {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}
        return host, {"cert_reqs": "CERT_REQUIRED", "ssl_context": self.context}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing, because the SSL context verifies.

        The method of requests would read the whole bundle again for each new connection.
        """

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> Answer:
        answer = Answer()
        answer.status_code, answer.reason = resp.status, resp.reason
        answer.headers = CaseInsensitiveDict(resp.headers)
        answer.encoding = get_encoding_from_headers(answer.headers)
        answer.raw, answer.url, answer.request = resp, str(req.url), req
        answer.connection = self
        return answer

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        response = super().send(request, *args, **kwargs)
        response._content = self._body_of(response)
        return response

    def exchange(
        self, request: requests.PreparedRequest, *, stream: bool, proxies: dict[str, str]
    ) -> requests.Response:
        """Do the same as `send`, with urllib3 alone where no proxy is needed.

        It takes half the CPU, because requests prepares more than a request of `call` needs.
        """
        if proxies:
            return self.send(request, stream=stream, proxies=proxies)
        host, pool_kwargs = self.build_connection_pool_key_attributes(request, verify=True)
        pool = self.poolmanager.connection_from_host(**host, pool_kwargs=pool_kwargs)
        raw = pool.urlopen(
            request.method,
            "/" + request.path_url.lstrip("/"),
            body=request.body,
            headers=request.headers,
            redirect=False,
            retries=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        response = self.build_response(request, raw)
        response._content = self._body_of(response)
        return response

    def _body_of(self, response: requests.Response) -> bytes:
        size = response.raw.length_remaining or 0
        chunks = []
        for chunk in response.iter_content(64 * 1024) if size <= MAX_BODY else ():
            chunks.append(chunk)
            size = sum(map(len, chunks))
            if size > MAX_BODY:
                break
        if size > MAX_BODY:
            response.close()
            host = _host_of(response.request)
            raise AnswerTooLarge(
                _(
                    "%(host)s sent more than %(max_body)s bytes. The response is refused. "
                    "Check the address.",
                    host=host,
                    max_body=MAX_BODY,
                )
            )
        return b"".join(chunks)


@lru_cache(maxsize=8)
def _adapter(
    bundle: str, changed_at: int, allowed: tuple[tuple[str, ...], ...], pid: int
) -> GuardedAdapter:
    """Return the adapter for this process, these settings and these allowances.

    A forked child needs its own adapter, because a fork shares the sockets of the parent. An
    adapter with other allowances may keep connections to addresses that are refused here.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if bundle:
        context.load_verify_locations(bundle)
    context.sslsocket_class = DeadlineTLSSocket
    return GuardedAdapter(context)


def _current_adapter() -> GuardedAdapter:
    bundle = settings.ACME_CA_BUNDLE
    try:
        changed_at = os.stat(bundle).st_mtime_ns if bundle else 0
        return _adapter(bundle, changed_at, allowances(), os.getpid())
    except OSError as exc:
        what = _(
            "The file that the setting ACME_CA_BUNDLE names has no readable certificates "
            "(%(name)s). Name a PEM file.",
            name=type(exc).__name__,
        )
        raise BundleUnreadable(what) from None


def _proxies_for(url: str) -> dict[str, str]:
    """Return the proxies that the environment names for this URL, after NO_PROXY.

    Without a proxy in the environment, the look-up of requests is skipped. It would take half the
    time of a request on loopback.
    """
    return get_environ_proxies(url) if any(os.environ.get(name) for name in PROXIES) else {}


def _version() -> str:
    try:
        return version("certctrl")
    except PackageNotFoundError:
        return "0"


USER_AGENT = f"certctrl/{_version()}"


class OutgoingSession(requests.Session):
    """A requests session under the rules of this module.

    `timeout` may shorten a call. The caller cannot choose `verify`, `stream` and `proxies`.
    Sessions share their connections, but not their headers and cookies.

    `check_redirect` gets the URL of each redirect before it is called. An error that it raises ends
    the call.

    Raises only subclasses of requests.RequestException, and the errors of `check_redirect`. Their
    messages are sentences. They contain no query, no user name and no header of the request.
    """

    check_redirect: Callable[[str], None] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False  # no ~/.netrc; _proxies_for() reads the proxies
        self.max_redirects = MAX_REDIRECTS
        self.headers["User-Agent"] = USER_AGENT
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))

    def get_adapter(self, url: Any) -> GuardedAdapter:
        return _current_adapter()

    def close(self) -> None:
        """Do nothing, because the connections belong to the process."""

    def merge_environment_settings(self, *_: Any, **__: Any) -> Any:
        """Return no settings, because `send` takes none of them from the caller."""
        return {}

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        try:
            return super().prepare_request(request)
        except (OSError, ValueError) as exc:
            raise _told(exc, "") from None

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        follow = kwargs.pop("allow_redirects", True)
        timeout = kwargs.pop("timeout", None)
        seconds = timeout if isinstance(timeout, int | float) else clock.time_left()
        with clock.limit(min(seconds, clock.time_left())):
            response = self._send_once(request)
            history: list[requests.Response] = []
            while follow and response.next is not None:
                history.append(response)
                if len(history) > self.max_redirects:
                    raise requests.TooManyRedirects(
                        _(
                            "%(host_of)s redirects more than %(max_redirects)s times. Give "
                            "the final address.",
                            host_of=_host_of(request),
                            max_redirects=MAX_REDIRECTS,
                        )
                    )
                if str(response.url).startswith("https:") and not str(response.next.url).startswith(
                    "https:"
                ):
                    what = _(
                        "%(host_of)s redirects from https to http, which is refused. "
                        "Give the https address.",
                        host_of=_host_of(request),
                    )
                    raise requests.exceptions.InvalidSchema(what)
                if self.check_redirect:
                    self.check_redirect(str(response.next.url))
                response = self._send_once(response.next)
        response.history = history
        return response

    def _send_once(self, request: requests.PreparedRequest) -> requests.Response:
        """Send one request and return its response. A redirect is in the `next` of the response."""
        return _sent(request, partial(super().send, allow_redirects=False))

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Remove every header that may be a credential when the redirect goes to another host."""
        old = str(response.request.url)
        new = str(prepared_request.url)
        if self.should_strip_auth(old, new):  # type: ignore[no-untyped-call]
            for name in [name for name in prepared_request.headers if name.lower() not in CARRIED]:
                del prepared_request.headers[name]


def _sent(
    request: requests.PreparedRequest, send: Callable[..., requests.Response]
) -> requests.Response:
    """Send one request by `send`, under the rules of this module, and return its response."""
    host = _host_of(request)
    began = clock.monotonic()
    url = str(request.url)
    proxies = _proxies_for(url)
    address = literal(host) if proxies and select_proxy(url, proxies) else None
    # A proxy resolves names itself, so only a literal address can be checked here.
    if address:
        check_address(address, host, _port_of(url))
    outward.let_go()
    try:
        response = send(request, stream=True, proxies=proxies)
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as exc:
        trouble = _told(exc, host)
        log.debug("outgoing.failed", method=request.method, host=host, error=type(trouble).__name__)
        raise trouble from None
    took = round((clock.monotonic() - began) * 1000)
    log.debug("outgoing", method=request.method, host=host, status=response.status_code, ms=took)
    return response


def call(method: str, url: str, body: str | None, headers: Mapping[str, str]) -> requests.Response:
    """Send one request and return its response. No redirect is followed, and no cookie is kept.

    The rules are those of a session. It costs half of it, because nothing must be merged.
    """
    request = requests.PreparedRequest()
    request.method = method
    try:
        if PREPARED.fullmatch(url) and "/." not in url:
            request.url = url
        else:
            request.prepare_url(url, None)
    except (OSError, ValueError) as exc:
        raise _told(exc, "") from None
    request.headers = CaseInsensitiveDict({**headers, "User-Agent": USER_AGENT})
    request.body = body
    if body is not None:
        request.headers["Content-Length"] = str(len(body))
    with clock.limit(clock.time_left()):
        return _sent(request, _current_adapter().exchange)


def session() -> OutgoingSession:
    """Return a session for outgoing HTTP.

    A session costs little. Make one for each use or thread. The process keeps the connections. The
    session trusts the roots of the system, of certifi, and of the file that ACME_CA_BUNDLE names.
    """
    return OutgoingSession()


def wait_of(response: requests.Response) -> float | None:
    """Return the seconds that Retry-After asks for, from 0 to MAX_WAIT, or None without one.

    The value is a number of seconds or a date (RFC 9110, section 10.2.3).
    """
    said = response.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        seconds = float(said[:12])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - clock.now().timestamp()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_WAIT)


def age_of(response: requests.Response) -> float | None:
    """Return the seconds for which the response may be kept, or None without a header about it.

    The header is Cache-Control or Expires (RFC 9111, sections 5.2.2 and 5.3).
    """
    said = response.headers.get("Cache-Control", "").lower()
    if "no-cache" in said or "no-store" in said:
        return 0.0
    if found := MAX_AGE.search(said):
        return float(found[1])
    expires = response.headers.get("Expires")
    if expires is None:
        return None
    try:
        return email.utils.parsedate_to_datetime(expires).timestamp() - clock.now().timestamp()
    except (ValueError, OverflowError):  # an invalid date is in the past
        return 0.0


# --- Errors for people ---


def _host_of(request: requests.PreparedRequest) -> str:
    """Return the host of the request.

    Raise InvalidSchema or InvalidURL for a request that may not be sent.
    """
    try:
        url = urlsplit(str(request.url))
    except ValueError:
        raise requests.exceptions.InvalidURL(
            _("The address of the request cannot be read. Check it.")
        ) from None
    if url.scheme not in ("http", "https"):
        raise requests.exceptions.InvalidSchema(
            _("The address of the request must begin with http:// or https://.")
        )
    if not url.hostname or not HOST.fullmatch(url.hostname):
        raise requests.exceptions.InvalidURL(_("The address of the request has no host. Give one."))
    return url.hostname


def _port_of(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _causes(exc: BaseException) -> list[BaseException]:
    """Return an exception and the exceptions nested in it, outermost first.

    requests and urllib3 nest them in `args`, `reason`, `__cause__` and `__context__`.
    """
    found: list[BaseException] = []
    waiting: list[Any] = [exc]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            waiting += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
    return found


def _told(exc: Exception, host: str) -> requests.RequestException:
    """Return the error as one sentence. Network libraries quote whole URLs and headers.

    A tenant could use different errors to scan ports. So a tenant gets the same sentence for every
    reason why a host that they named cannot be reached. The log has the reason.
    """
    trouble = _cause(exc, host)
    if (
        not is_by_tenant()
        or not isinstance(trouble, NOT_THERE)
        or isinstance(trouble, (AddressRefused, BundleUnreadable))
    ):
        return trouble
    log.info("outgoing.untold", host=host, why=str(trouble))
    return Unreachable(_(UNTOLD, host=host))


def _cause(exc: Exception, host: str) -> requests.RequestException:
    causes = _causes(exc)
    for each in causes:
        if isinstance(each, OURS):
            return each
    if any(
        isinstance(each, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError)
        for each in causes
    ):
        return DeadlineExceeded(
            _(
                "%(host)s did not answer in time. Check that it is reachable from this server.",
                host=host,
            )
        )
    kind = type(exc) if isinstance(exc, requests.RequestException) else _kind_of(exc)
    for cause, text in SENTENCES:
        for each in causes:
            if isinstance(each, cause):
                return kind(_(text, host=host, why=_why(each)))
    if not host:
        return kind(
            _(
                "The request cannot be sent (%(name)s). Check its address and the credential.",
                name=type(exc).__name__,
            )
        )
    return kind(
        _(
            "The connection to %(host)s broke before the response was complete. Try again later.",
            host=host,
        )
    )


def _kind_of(exc: Exception) -> type[requests.RequestException]:
    if isinstance(exc, UnicodeEncodeError):
        return requests.exceptions.InvalidHeader
    if isinstance(exc, urllib3.exceptions.SSLError):
        return requests.exceptions.SSLError
    return (
        requests.exceptions.InvalidURL if isinstance(exc, ValueError) else requests.ConnectionError
    )


def _why(exc: BaseException) -> str:
    """Return the words of a cause that quote nothing from the request."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, ssl.SSLError):
        return exc.reason.replace("_", " ").lower() if exc.reason else _("no TLS")
    return type(exc).__name__


NOT_THERE = (requests.ConnectionError, requests.Timeout)
UNTOLD = gettext_noop(
    "%(host)s could not be called. Check its name, its port and its TLS certificate. The "
    "server log has the cause."
)
OURS = (
    AddressRefused,
    NameUnknown,
    Unreachable,
    DeadlineExceeded,
    AnswerTooLarge,
    BundleUnreadable,
)
# The first cause that is found selects the sentence.
SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (
        ssl.SSLCertVerificationError,
        gettext_noop(
            "The TLS certificate of %(host)s is not trusted: %(why)s. Fix the certificate, or "
            "trust its CA."
        ),
    ),
    (
        ssl.SSLError,
        gettext_noop(
            "%(host)s did not agree on a TLS connection: %(why)s. Check its name and port."
        ),
    ),
    (
        requests.exceptions.InvalidProxyURL,
        gettext_noop("HTTPS_PROXY names a proxy that is not an HTTP proxy. Name an HTTP proxy."),
    ),
    (
        requests.exceptions.ProxyError,
        gettext_noop(
            "The proxy that HTTPS_PROXY names is unreachable, or refused %(host)s. Check the proxy."
        ),
    ),
    (
        requests.exceptions.InvalidHeader,
        gettext_noop(
            "A header has a line break or another forbidden character. Check the credential."
        ),
    ),
    (
        UnicodeEncodeError,
        gettext_noop("A header has a character that is not Latin-1. Check the credential."),
    ),
    (
        requests.exceptions.ContentDecodingError,
        gettext_noop("%(host)s sent a body that cannot be decompressed. Check the address."),
    ),
    (
        ConnectionResetError,
        gettext_noop(
            "%(host)s closed the connection before its response was complete. Try again later."
        ),
    ),
    (
        http.client.RemoteDisconnected,
        gettext_noop("%(host)s closed the connection without a response. Try again later."),
    ),
    (
        requests.exceptions.InvalidURL,
        gettext_noop("The address of the request cannot be called. Check its host and port."),
    ),
    (
        ValueError,
        gettext_noop(
            "The address of the request cannot be called. Check its scheme, host and port."
        ),
    ),
)
