"""Send requests to an ACME CA. They are signed and carry a nonce; refusals become exceptions."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import requests
from josepy.errors import Error as JoseError
from josepy.jwk import JWKEC

from authorities import errors, exchanges
from authorities.acme import jws
from authorities.acme.problems import (
    ProblemResponse,
    absolute,
    is_bad_nonce,
    json_of,
    refusal_of,
    trouble_of,
)
from authorities.base import Reach, RenewalInfoResource
from authorities.errors import Refused
from certctrl import clock, outgoing
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient.names import registered_domain, shown

KEPT_CONNECTIONS = 64
KEPT_NONCES = 32  # for each connection; some CAs also send one with each GET, which uses none
# Seconds until the directory is read again, whatever its headers ask for. It also takes MAX_AGE
# without such a header.
MIN_AGE, MAX_AGE = 60.0, 3600.0
BAD_NONCE_RETRIES = 5
# The library raises these errors for resources that it cannot read.
UNREADABLE = (JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError)
NEEDED = ("newNonce", "newAccount", "newOrder")
NONCE = re.compile(r"[!-~]{1,1000}")
JOSE = "application/jose+json"
Directory = dict[str, Any]  # RFC 8555, section 7.1.1


@dataclass
class Connection:
    """Data of this process about a CA: its directory, and unused nonces, the newest last.

    All threads and all accounts share it, because a nonce does not belong to an account. Lists
    need no lock for this. `certctrl.outgoing` keeps the sockets.
    """

    directory_url: str
    nonces: list[str] = field(default_factory=list)
    directory: Directory | None = None  # None: read it before the next use
    good_until: float = 0.0  # a reading of `clock.monotonic()`

    @cached_property
    def home(self) -> str:
        return _host_of(self.directory_url)

    @property
    def host(self) -> str:
        return urlsplit(self.directory_url).netloc.rpartition("@")[2] or self.directory_url

    def kept_nonce(self) -> str:
        """Return the newest unused nonce, which is then used; empty when there is none."""
        try:
            return self.nonces.pop()
        except IndexError:
            return ""


@lru_cache(maxsize=KEPT_CONNECTIONS)
def connection_to(directory_url: str) -> Connection:
    """Return this process's connection to the CA."""
    return Connection(directory_url)


os.register_at_fork(after_in_child=connection_to.cache_clear)  # a nonce can be used once


class Network:
    """Requests that are signed with one account key, over one Connection.

    Refusals become exceptions. A request with an old nonce is sent again at once.
    """

    def __init__(self, key: JWKEC, connection: Connection, reach: Reach) -> None:
        self.key = key
        self.connection = connection
        self.reach = reach

    def ask(
        self,
        url: str,
        message: Any,
        what: str,
        *,
        kid: str = "",
        accept: str = "application/json",
        named: bool = False,
    ) -> requests.Response:
        """POST a signed message. With `message` None, read the URL (POST-as-GET, RFC 8555, 6.3).

        `what` names the request in error messages. Set `named` when the CA itself gave the URL:
        then "not found" raises NotYet.

        A refusal because of the nonce is retried with a new nonce, five times at most. Some CAs
        refuse an old nonce with another error. So a refusal without a new nonce is retried once
        when the request used a kept nonce.
        """
        for retries_left in range(BAD_NONCE_RETRIES, -1, -1):
            kept = self.connection.kept_nonce()
            response = self._signed(url, message, kept or self._new_nonce(), kid, accept)
            refusal = refusal_of(response)
            if refusal is None:
                return response
            bad = is_bad_nonce(refusal)
            brought_one = bool(_nonce_of(response))
            if bad or not brought_one:
                # Kept nonces are as old as the refused one.
                del self.connection.nonces[: -1 if brought_one else None]
            is_busy = refusal.retry_after is not None or refusal.status == 429
            is_too_old = bool(kept) and not brought_one and not is_busy
            if not retries_left or not (bad or is_too_old):
                raise self._trouble(refusal, what, message, named=named)
        raise AssertionError("the last try returns or raises")

    def _signed(
        self, url: str, message: Any, nonce: str, kid: str, accept: str
    ) -> requests.Response:
        payload = message.json_dumps().encode() if message else b""
        body = jws.sign(self.key, payload, nonce=nonce, url=url, kid=kid)
        headers = {"Content-Type": JOSE, "Accept": accept}
        return self._send_request("POST", url, body, headers)

    def prepare(self) -> None:
        """Read the directory and fetch a nonce, unless they are kept.

        Then the next request is one exchange. Raise Trouble when the CA cannot be reached.
        """
        directory_of(self)
        if not self.connection.nonces:
            self.connection.nonces.append(self._new_nonce())

    def _new_nonce(self) -> str:
        response = self._send_request("HEAD", directory_of(self)["newNonce"])
        if refusal := refusal_of(response):
            trouble = self._trouble(refusal, "a nonce", None)
            # The request itself was not sent, so the CA did not refuse it.
            raise Trouble(errors.ERROR, trouble.what) if isinstance(trouble, Refused) else trouble
        nonce = _nonce_of(response)
        if not nonce:
            raise Trouble(
                errors.ERROR,
                _(
                    "%(label)s sends no nonces, so it is not an ACME server. Check the "
                    "directory_url.",
                    label=self.label,
                ),
            )
        return nonce

    @property
    def label(self) -> str:
        return _("The CA at %(host)s", host=self.connection.host)

    def _send_request(
        self,
        method: str,
        url: str,
        sent: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> requests.Response:
        """Send every request of this class. Raise Trouble when no response comes."""
        self._refuse_elsewhere(url)
        began = clock.monotonic()
        try:
            with outgoing.named_by_tenant(self.reach.is_named_by_tenant):
                response = (
                    self._follow(url)
                    if method == "GET"
                    else outgoing.call(method, url, sent, headers)
                )
        except Refused as refused:  # the URL of a redirect
            exchanges.record(method, url, sent, began, error=refused.what)
            raise
        except requests.RequestException as exc:
            self.connection.directory = None
            self.connection.nonces.clear()
            what = _("%(label)s could not be reached. %(exc)s", label=self.label, exc=exc)
            exchanges.record(method, url, sent, began, error=what)
            raise Trouble(errors.UNREACHABLE, what) from None
        response.encoding = "utf-8"
        nonce = _nonce_of(response)
        if nonce and method != "HEAD":  # the caller uses the nonce that it asked for
            self.connection.nonces.append(nonce)
            del self.connection.nonces[:-KEPT_NONCES]
        exchanges.record(method, url, sent, began, response)
        return response

    def _follow(self, url: str) -> requests.Response:
        """GET a URL. A redirect must lead to a host of the CA."""
        session = outgoing.session()
        session.check_redirect = self._refuse_elsewhere
        return session.get(url)

    def _refuse_elsewhere(self, url: str) -> None:
        """Raise Refused when the CA gives a URL on a host that is not the CA's.

        Raise it also for http when the directory is https.
        """
        directory_url = self.connection.directory_url
        host, home = hosts = _host_of(url), self.connection.home
        if host and _is_https(directory_url) and not _is_https(url):
            what = _(
                "%(label)s sent an http address at %(host)s, although its directory is "
                "https. It is not called.",
                label=self.label,
                host=shown(host),
            )
            raise Refused(errors.BAD_URL, what)
        if not host or host == home or host in self.reach.hosts:
            return
        if not any(map(outgoing.literal, hosts)) and registered_domain(host) == registered_domain(
            home
        ):
            return
        what = _(
            "%(label)s sent an address at %(host)s, which is not in the domain of its "
            "directory. It is not called. If it belongs to the CA, the operator can list "
            "it in `hosts` of the CA in ACME_CAS.",
            label=self.label,
            host=shown(host),
        )
        raise Refused(errors.BAD_URL, what)

    def _trouble(
        self, refusal: ProblemResponse, what: str, message: Any, *, named: bool = False
    ) -> Exception:
        if refusal.status >= 500 or refusal.status in (404, 405):
            self.connection.directory = None  # the CA may have new URLs
        with_eab = bool(getattr(message, "external_account_binding", None))
        return trouble_of(
            refusal,
            _("%(label)s refused %(what)s", label=self.label, what=what),
            with_eab,
            named=named,
        )

    def read_directory(self) -> Directory:
        """Read the CA's directory, keep it, and return it.

        Raise Trouble when the URL does not show one.
        """
        response = self._send_request("GET", self.connection.directory_url)
        if refusal := refusal_of(response):
            said = trouble_of(refusal, _("%(label)s does not show its directory", label=self.label))
            pause = said.retry_after if isinstance(said, Trouble) else None
            raise Trouble(errors.ERROR, said.what, retry_after=pause)
        document = json_of(response, self.label)
        missing = [name for name in NEEDED if not isinstance(document.get(name), str)]
        if missing:
            what = _(
                "%(directory_url)s is not an ACME directory, because it has no "
                "%(missing)s. Check the directory_url.",
                directory_url=self.connection.directory_url,
                missing=missing[0],
            )
            raise Trouble(errors.ERROR, what)
        base = str(response.url)
        directory = {
            name: absolute(base, value) if isinstance(value, str) else value
            for name, value in document.items()
        }
        asked = outgoing.age_of(response)
        seconds = MAX_AGE if asked is None else min(max(asked, MIN_AGE), MAX_AGE)
        self.connection.good_until = clock.monotonic() + seconds
        self.connection.directory = directory
        return directory

    def read_renewal_info(self, url: str) -> RenewalInfoResource:
        """Return the renewal window at the URL (RFC 9773). Raise Refused when there is none."""
        response = self._send_request("GET", url)
        if refusal := refusal_of(response):
            what = _("%(label)s does not say when to renew", label=self.label)
            said = trouble_of(refusal, what)
            if isinstance(said, Trouble):
                raise said
            raise Refused(errors.ERROR, joined(": ", [what, said.what]))
        try:
            return RenewalInfoResource.of(json_of(response, self.label), outgoing.wait_of(response))
        except (*UNREADABLE, Trouble):
            what = _("%(label)s sent no renewal window as in RFC 9773.", label=self.label)
            raise Refused(errors.ERROR, what) from None


def _nonce_of(response: requests.Response) -> str:
    """Return the nonce of the response unchanged; empty when there is none."""
    nonce = response.headers.get("Replay-Nonce", "").strip()
    return nonce if NONCE.fullmatch(nonce) else ""


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower().rstrip(".")
    except ValueError:  # a URL that does not parse cannot be requested
        return ""


def _is_https(url: str) -> bool:
    return url[:6].lower() == "https:"


def directory_of(network: Network) -> Directory:
    """Return the CA's directory. It is read again when it is too old, and after an error."""
    connection = network.connection
    directory = connection.directory
    is_old = clock.monotonic() > connection.good_until
    return network.read_directory() if directory is None or is_old else directory
