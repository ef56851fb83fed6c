"""Requests to an ACME CA: signed, with a nonce, refusals mapped."""

import binascii
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from acme import client, messages
from josepy.errors import Error as JoseError
from josepy.json_util import decode_b64jose
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from certctrl import clock, outgoing
from certctrl.turns import Trouble
from issuance import exchanges, problems
from issuance.connections import Connection
from issuance.names import registered_domain, shown
from issuance.problems import Answer, json_of, refusal_of, trouble_of
from issuance.resources import Refused, RenewalInfoResource

BAD_NONCE_RETRIES = 5
DIRECTORY_AGE = 3600.0  # seconds that a directory is believed
# What the library raises over resources that are not as it expects them.
UNREADABLE = (JoseError, ValueError, TypeError, KeyError, AttributeError, OverflowError)
NEEDED = ("newNonce", "newAccount", "newOrder")


@dataclass(frozen=True)
class Reach:
    """Where a CA is called: which hosts it may lead to besides those of its directory's domain, and whether the
    directory was named by a tenant, and not by whoever runs this server."""

    hosts: Collection[str] = ()
    is_named_by_tenant: bool = False


class Network(client.ClientNetwork):
    """The library's network over one Connection, with refusals mapped and `badNonce` tried again at once."""

    def __init__(self, key: JWKEC, connection: Connection, reach: Reach) -> None:
        super().__init__(key, alg=ES256)
        self.session.close()
        self.connection = connection
        self.reach = reach

    def ask(
        self, url: str, message: Any, what: str, *, kid: str = "", accept: str = "application/json"
    ) -> requests.Response:
        """POST a signed message, or None to read (POST-as-GET, RFC 8555, 6.3); `what` is asked, for the error."""
        for retries_left in range(BAD_NONCE_RETRIES, -1, -1):
            response = self._signed(url, message, kid, accept)
            refusal = refusal_of(response)
            if refusal is None:
                return response
            if problems.type_of(refusal.document) != "badNonce" or not retries_left:
                raise self._trouble(refusal, what, message)
            # The others are as old; the refusal itself carried a fresh one.
            del self.connection.nonces[:-1]
        raise AssertionError("the last try returns or raises")

    def _signed(self, url: str, message: Any, kid: str, accept: str) -> requests.Response:
        self.account = messages.RegistrationResource(body=messages.Registration(), uri=kid) if kid else None
        body = self._wrap_in_jws(message, cast(str, self._nonce()), url)
        headers = {"Content-Type": self.JOSE_CONTENT_TYPE, "Accept": accept}
        return self._send_request("POST", url, data=body, headers=headers)

    def _nonce(self) -> bytes:
        connection = self.connection
        if not connection.nonces:
            response = self._send_request("HEAD", directory_of(self)["newNonce"])
            if refusal := refusal_of(response):
                raise self._trouble(refusal, "a nonce", None)
        if not connection.nonces:
            raise Trouble(problems.ERROR, f"{self.label} hands out no nonces: it is no ACME server.")
        return connection.nonces.pop()

    @property
    def label(self) -> str:
        return f"The CA at {self.connection.host}"

    def _send_request(self, method: str, url: str, *_: Any, **kwargs: Any) -> requests.Response:
        """Every request of this class. Trouble when it does not get an answer; the library would log what it sends."""
        self._refuse_elsewhere(url)
        sent, began = kwargs.get("data"), clock.monotonic()
        try:
            # A fresh session each time: it is cheap, and follows the settings and forks.
            with outgoing.named_by_tenant(self.reach.is_named_by_tenant):
                response = outgoing.session().request(method, url, allow_redirects=method == "GET", **kwargs)
        except requests.RequestException as exc:
            self.connection.directory = None
            what = f"{self.label} could not be reached: {exc}"
            exchanges.record(method, url, sent, began, error=what)
            raise Trouble(problems.UNREACHABLE, what) from None
        response.encoding = "utf-8"
        self._keep_nonce(response)
        exchanges.record(method, url, sent, began, response)
        return response

    def _refuse_elsewhere(self, url: str) -> None:
        """Refused for an address that the CA hands out and that is not its own."""
        host, home = hosts = [_host_of(each) for each in (url, self.connection.directory_url)]
        if not host or host == home or host in self.reach.hosts:
            return
        if not any(map(outgoing.literal, hosts)) and registered_domain(host) == registered_domain(home):
            return
        what = (
            f"{self.label} hands out an address at {shown(host)}, which is not in the domain of its directory, so it is"
            " not called. If it is the CA's, this server's operator can name it in `hosts` of the CA in ACME_CAS."
        )
        raise Refused(problems.BAD_URL, what)

    def _keep_nonce(self, response: requests.Response) -> None:
        nonce = response.headers.get(self.REPLAY_NONCE_HEADER, "")
        try:
            decoded = decode_b64jose(nonce)
        except (JoseError, binascii.Error, ValueError):
            return
        if decoded:
            self.connection.nonces.append(decoded)

    def _trouble(self, refusal: Answer, what: str, message: Any) -> Exception:
        if refusal.status >= 500 or refusal.status in (404, 405):
            self.connection.directory = None  # perhaps the CA moved
        with_eab = bool(getattr(message, "external_account_binding", None))
        return trouble_of(refusal, f"{self.label} refused {what}", with_eab)

    def read_directory(self) -> messages.Directory:
        response = self._send_request("GET", self.connection.directory_url)
        if refusal := refusal_of(response):
            said = trouble_of(refusal, f"{self.label} does not show its directory")
            pause = said.retry_after if isinstance(said, Trouble) else None
            raise Trouble(problems.ERROR, str(said), retry_after=pause)
        document = json_of(response, self.label)
        missing = [name for name in NEEDED if not isinstance(document.get(name), str)]
        if missing:
            what = f"{self.connection.directory_url} is not an ACME directory: it has no {missing[0]}."
            raise Trouble(problems.ERROR, what)
        return messages.Directory(document)

    def read_renewal_info(self, url: str) -> RenewalInfoResource:
        response = self._send_request("GET", url)
        if refusal := refusal_of(response):
            what = f"{self.label} does not say when to renew"
            said = trouble_of(refusal, what)
            raise said if isinstance(said, Trouble) else Refused(problems.ERROR, f"{what}: {said}")
        try:
            return RenewalInfoResource.of(json_of(response, self.label), outgoing.wait_of(response))
        except (*UNREADABLE, Trouble):
            what = f"{self.label} answered no window in which to renew, as RFC 9773 has it."
            raise Refused(problems.ERROR, what) from None


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower().rstrip(".")
    except ValueError:  # nor can it be called
        return ""


def directory_of(network: Network) -> messages.Directory:
    """The CA's directory, read again after an hour and after an error."""
    connection = network.connection
    if connection.directory is None or clock.monotonic() - connection.read_at > DIRECTORY_AGE:
        connection.directory = network.read_directory()
        connection.read_at = clock.monotonic()
    directory: messages.Directory = connection.directory
    return directory
