"""The owner's own HTTP service, with the same interface as lego's provider "httpreq".

https://go-acme.github.io/lego/dns/httpreq/ (the default mode, not RAW)
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from certctrl import errors, outgoing
from certctrl.sentences import sentence as _
from dnsproviders.base import Field, Provider, ProviderError, is_html
from dnsproviders.models import TxtRecord

# Status codes of a service that does not have this interface (RFC 9110, section 15). They are
# permanent. 400, 404 and 422 are not, because services also use them for a passing failure: of a
# DNS provider behind them, or of a path that is being deployed.
NOT_THIS_CONTRACT = {405, 411, 415, 501}


def checked_endpoint(value: str) -> str:
    """Return the URL without its last slash.

    Raise ValueError when it is not an http or https URL. Raise it also when the URL has a user, a
    password, a query or a fragment.
    """
    if "@" in value.partition("://")[2].partition("/")[0]:
        raise ValueError(
            _("must not have a user name or password; give username and password instead")
        )
    if "?" in value or "#" in value:
        raise ValueError(
            _("must not have a query or a fragment, because /present and /cleanup are added to it")
        )
    url = outgoing.called(value)
    if not url or url.scheme not in ("http", "https") or not value.isascii():
        raise ValueError(_("must be a URL like https://dns.example.com/acme"))
    return value.rstrip("/")


def checked_username(value: str) -> str:
    if ":" in value:
        raise ValueError(_("must not have a colon, which basic authentication cannot send"))
    return value


class HttpReq(Provider):
    name = _("HTTP request")
    is_named_by_owner = True
    fields = (
        Field(
            "endpoint",
            _("Endpoint"),
            most=500,
            gets_secrets=True,
            check=checked_endpoint,
            help=_("/present and /cleanup are added."),
        ),
        Field(
            "username",
            _("User name"),
            required=False,
            check=checked_username,
            help=_("User name of basic authentication."),
        ),
        Field(
            "password",
            _("Password"),
            secret=True,
            required=False,
            help=_("Password of basic authentication."),
        ),
    )

    @classmethod
    def party(cls, public: Mapping[str, Any]) -> str:
        return str(urlsplit(public["endpoint"]).netloc)

    @classmethod
    def check_together(cls, given: Mapping[str, Any]) -> None:
        for name, other in (("username", "password"), ("password", "username")):
            if given.get(other) and not given.get(name):
                raise errors.MissingField(
                    _(
                        "%(name)s is missing, but %(other)s is given. Give both or neither.",
                        name=name,
                        other=other,
                    ),
                    field=name,
                )

    def zone_of(self, name: str) -> str:
        """Return the name itself, because this interface has no zones."""
        return name

    def present(self, record: TxtRecord) -> None:
        self._done(self._post("present", record))

    def cleanup(self, record: TxtRecord) -> int:
        """Return 1 for every success, because the answer does not say whether the record existed.

        Return 0 for a 404 that is empty or JSON. Other 404 answers are failures, because web
        servers send a page or a line of text for an unknown path.
        """
        response = self._post("cleanup", record)
        if response.status_code == 404 and (not response.content.strip() or _is_json(response)):
            return 0
        self._done(response)
        return 1

    def check(self) -> None:
        """Send a GET, to see whether the service answers and accepts the password.

        The interface has no request that reads.
        """
        response = self._send("GET", "")
        if response.status_code == 403:
            raise self.refusal(response)

    def refusal(self, response: requests.Response) -> ProviderError:
        if response.status_code in NOT_THIS_CONTRACT:
            what = _(
                "%(name)s answered %(status_code)s%(said)s. The endpoint must support POST.",
                name=self.name,
                status_code=response.status_code,
                said=self.said(response),
            )
            return ProviderError("dns_refused", what, permanent=True)
        return super().refusal(response)

    def _post(self, action: str, record: TxtRecord) -> requests.Response:
        return self._send(
            "POST", f"/{action}", json={"fqdn": f"{record.name}.", "value": record.value}
        )

    def _send(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        return self.send(method, f"{self.public['endpoint']}{path}", auth=self._auth(), **kwargs)

    def _auth(self) -> tuple[bytes, bytes] | None:
        """Return user name and password in UTF-8, for basic authentication (RFC 7617, section 2.1).

        They are bytes, because requests would encode text as Latin-1.
        """
        if "password" not in self.secret:
            return None
        return str(self.public["username"]).encode(), self.secret["password"].reveal().encode()

    def _done(self, response: requests.Response) -> None:
        if not response.ok:
            raise self.refusal(response)
        # A login page or a parking page answers 200 to every request.
        if is_html(response):
            what = _(
                "%(name)s answered %(status_code)s with an HTML page. Check the address "
                "of the endpoint.",
                name=self.name,
                status_code=response.status_code,
            )
            raise ProviderError("dns_bad_answer", what)

    def words(self, response: requests.Response) -> str:
        return "" if is_html(response) else response.content[:600].decode(errors="replace")


def _is_json(response: requests.Response) -> bool:
    try:
        response.json()
    except (ValueError, RecursionError):
        return False
    return True
