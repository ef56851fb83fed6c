"""The steps of a new user, which `make run` takes once.

Three calls get a certificate from the lab's CA.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import requests

from certctrl import clock
from lab.loopback import HOST, KEY_ALGORITHM, KEY_NAME, ZONE, Lab

DOMAIN = f"demo.{ZONE}"
NAME = "lab"  # of the credential and of the account
TIMEOUT = 30  # seconds for one call
PATIENCE = 240  # seconds for the attempt; longer than the lease of a killed worker


class DemoProblem(Exception):
    """The lab's certificate was not issued. The sentence has the response of the server."""


@dataclass
class Issued:
    """The ids of the created rows, and the chain (PEM, leaf first)."""

    user_id: int
    dns_provider_id: int
    acme_account_id: int
    certificate_id: int
    chain: str

    def ids(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


def dns_provider(lab: Lab) -> dict[str, Any]:
    key = {"key_name": KEY_NAME, "algorithm": KEY_ALGORITHM, "secret": lab.secret}
    return {
        "provider": "rfc2136",
        "name": NAME,
        "server": HOST,
        "port": lab.dns_port,
        "ttl": 1,
        **key,
    }


def acme_account(lab: Lab, email: str) -> dict[str, Any]:
    url = {"ca_provider": "custom", "directory_url": lab.directory_url}
    return {**url, "name": NAME, "email": email, "terms_accepted": True}


def certificate(domain: str, dns_provider_id: int, acme_account_id: int) -> dict[str, Any]:
    """Return a request for the domain and its wildcard, with a key that may be exported."""
    ids = {"acme_account_id": acme_account_id, "dns_provider_id": dns_provider_id}
    return {"domain": domain, "sans": [f"*.{domain}"], **ids, "server_decrypt_export": True}


class Api:
    """A client of the server's HTTP API, as the administrator."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = requests.Session()
        self.session.trust_env = False  # loopback only; ignore proxies from the environment
        self.user_id = 0

    def log_in(self, email: str, password: str) -> None:
        body = {"action": "login", "email": email, "password": password}
        self.user_id = self._call("POST", "/auth/general", body)["user"]["id"]

    def log_out(self) -> None:
        """End the session, so that it is not among those of the administrator."""
        with suppress(requests.RequestException):
            self.session.post(f"{self.address}/auth/logout", timeout=TIMEOUT)

    def get(self, path: str) -> Any:
        return self._call("GET", f"/apiv1/users/{self.user_id}/{path}")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._call("POST", f"/apiv1/users/{self.user_id}/{path}", body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = self.session.request(method, self.address + path, json=body, timeout=TIMEOUT)
            content = answer.json()
        except requests.RequestException as exc:
            raise DemoProblem(
                f"{method} {path} failed ({type(exc).__name__}). See the logs in log/."
            ) from None
        if not answer.ok:
            raise DemoProblem(f"{method} {path} answered {answer.status_code}: {what_of(content)}")
        return content["data"]


def what_of(content: Any) -> str:
    """Return the sentence of an error's body."""
    error = content.get("error", {}) if isinstance(content, dict) else {}
    return str(error.get("what", "no reason given"))


class Demo:
    """Creates the missing ones of credential, account and certificate, and waits for the chain.

    `wait` is called with a number of seconds, between two looks at the attempt.
    """

    def __init__(self, api: Api, lab: Lab, email: str, wait: Callable[[float], None]) -> None:
        self.api = api
        self.lab = lab
        self.email = email
        self.wait = wait

    def issue(self) -> Issued:
        """Return the ids and the chain.

        Raise DemoProblem for a refused call or a failed attempt.
        """
        provider = self._have("dns-providers", dns_provider(self.lab), name=NAME)
        account = self._have("acme-accounts", acme_account(self.lab, self.email), name=NAME)
        wanted = certificate(DOMAIN, provider["id"], account["id"])
        row = self._have("certificates", wanted, domain=DOMAIN)
        if row.get("status") == "failed":
            self.api.post(f"certificates/{row['id']}/renew", {})
        return Issued(
            self.api.user_id, provider["id"], account["id"], row["id"], self._chain(row["id"])
        )

    def _have(self, path: str, body: dict[str, Any], **known_by: str) -> Any:
        """Return the existing row, or create one."""
        there = (row for row in self.api.get(path) if known_by.items() <= row.items())
        return next(there, None) or self.api.post(path, body)

    def _chain(self, certificate_id: int) -> str:
        for result in self._results(certificate_id):
            if result["status"] == "SUCCESS":
                return str(self.api.get(f"certificates/{certificate_id}?detail=most")["cert"])
            if result["status"] in {"FAILED", "CANCELLED"}:
                break
            self.wait(0.2)
        reason = result.get("error_message") or "no reason given"
        raise DemoProblem(f"The attempt for {DOMAIN} has the state {result['status']}: {reason}")

    def _results(self, certificate_id: int) -> Iterator[Any]:
        """Yield the attempt again and again, for PATIENCE seconds."""
        end = clock.monotonic() + PATIENCE
        while clock.monotonic() < end:
            yield self.api.get(f"certificates/{certificate_id}/issue-result")


def curl(address: str, path: str, body: dict[str, Any], jar: str) -> str:
    """Return a call that can be pasted into a shell."""
    quoted = shlex.quote(json.dumps(body))
    return (
        f"curl -s {jar} cookies.txt -H 'Content-Type: application/json' {address}{path} -d {quoted}"
    )


def calls(address: str, email: str, password: str, issued: Issued | dict[str, int]) -> list[str]:
    """Return calls for login and another certificate, with bodies."""
    ids = issued.ids() if isinstance(issued, Issued) else issued
    login = {"action": "login", "email": email, "password": password}
    wanted = certificate(f"another.{ZONE}", ids["dns_provider_id"], ids["acme_account_id"])
    return [
        curl(address, "/auth/general", login, "-c"),
        curl(address, f"/apiv1/users/{ids['user_id']}/certificates", wanted, "-b"),
    ]
