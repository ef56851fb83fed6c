"""Requests to the server, with the tokens of this device."""

import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import certifi
import requests

from certctrl_agent import __version__
from certctrl_agent.errors import (
    AgentError,
    LoginNeeded,
    NotReady,
    RefusedByServer,
    ServerAway,
)
from certctrl_agent.state import State

CONNECT_SECONDS = 10
READ_SECONDS = 20
LARGEST = 4 * 1024 * 1024  # bytes of a response
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SELF = "/apiv1/devices/self"
USER_AGENT = f"certctrl-agent/{__version__}"


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def data(self) -> Any:
        """Return the member `data`."""
        if not isinstance(self.body, dict) or "data" not in self.body:
            raise ServerAway(f'The server responded with {self.status}, but without "data".')
        return self.body["data"]

    @property
    def error(self) -> dict[str, Any]:
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return error if isinstance(error, dict) else {}


def checked_origin(url: str) -> str:
    """Return the origin without a slash at its end. Raise AgentError if it is not safe."""
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if not parts.hostname or parts.username or parts.query or parts.fragment:
        raise AgentError(
            f"{url} is not the address of a server. Example: https://certs.example.com"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise AgentError(f"{url} is not encrypted, and tokens would be sent to it. Use https://")
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


class Server:
    """One server. `ca_file` is a PEM file with the CAs to trust instead of the machine's."""

    def __init__(self, origin: str, ca_file: str | None = None) -> None:
        self.origin = checked_origin(origin)
        self.http = requests.Session()
        self.http.headers["User-Agent"] = USER_AGENT
        self.http.auth = no_netrc
        self.trusted = ca_file or True

    def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: Any = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        seconds: float = READ_SECONDS,
        around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Answer:
        """Send one request. Raise ServerAway if the server did not respond as a server does.

        The context of `around` is entered while the request is under way.
        """
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        try:
            with around():
                response = self.http.request(
                    method,
                    self.origin + path,
                    json=body,
                    params=params,
                    headers=sent,
                    timeout=(CONNECT_SECONDS, seconds),
                    verify=self.trusted,  # here, because REQUESTS_CA_BUNDLE wins over the session's
                    allow_redirects=False,
                    stream=True,
                )
            with response:
                raw = response.raw.read(LARGEST + 1, decode_content=True)
        except (requests.RequestException, OSError) as error:
            raise ServerAway(f"{self.origin} does not respond: {reason(error)}.") from None
        except Exception as error:  # urllib3's own, from the body of a response
            raise ServerAway(f"{self.origin} broke off its response ({reason(error)}).") from None
        if len(raw) > LARGEST:
            raise ServerAway(f"The response of {self.origin}{path} has over {LARGEST} bytes.")
        try:
            parsed = json.loads(raw) if raw else None
        except ValueError:
            parsed = None
        answer = Answer(response.status_code, parsed, dict(response.headers.lower_items()))
        if answer.status in (429, 502, 503, 504) or answer.status >= 500:
            raise ServerAway(
                f"{self.origin} responded with {answer.status}{said(answer)}", pause_of(answer)
            )
        return answer

    def trusted_cas(self) -> str:
        """Return the file or the folder with the CAs by which `ask` checks the server."""
        settings = self.http.merge_environment_settings(
            self.origin, {}, stream=None, verify=self.trusted, cert=None
        )
        verify = settings["verify"]
        return verify if isinstance(verify, str) else certifi.where()


def no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep requests from replacing the token by a password of ~/.netrc."""
    return request


def reason(error: BaseException) -> str:
    """Return the innermost cause in one line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{error}".strip().rstrip(".").replace("\n", " ")[:200] or type(error).__name__


def said(answer: Answer) -> str:
    what = answer.error.get("what")
    return f": {what}" if isinstance(what, str) and what else "."


def pause_of(answer: Answer) -> float:
    """Return the seconds of Retry-After, or of the member `retry_after`."""
    params = answer.error.get("params")
    inner = params.get("retry_after") if isinstance(params, dict) else None
    for value in (answer.headers.get("retry-after"), inner):
        try:
            return max(0.0, min(float(str(value)), 3600.0))
        except ValueError:
            continue
    return 0.0


class DeviceClient:
    """The server as this device sees it. It refreshes its tokens, and stores them first."""

    def __init__(self, state: State) -> None:
        device = state.device()
        self.state = state
        self.server = Server(device["server"], device.get("ca_file"))

    def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request. After a 401 or 403, refresh the tokens once and send it again."""
        token = self.tokens()["access_token"]
        answer = self.server.ask(method, SELF + path, token=token, **options)
        if answer.status in (401, 403) and not is_policy(answer):
            token = self.refreshed(token)
            answer = self.server.ask(method, SELF + path, token=token, **options)
        return answer

    def get(self, path: str, what: str) -> Any:
        """Return the `data` of a resource. `what` is its name in errors."""
        answer = self.ask("GET", path)
        if answer.status == 200:
            return answer.data
        if answer.status == 409 and "WRAP_PENDING" in json.dumps(answer.body):
            raise NotReady(f"The server has not wrapped the key of {what} for this device yet.")
        if answer.status == 401:
            raise LoginNeeded(
                f"The server does not accept this device{said(answer)} "
                "Run: certctrl-agent login SERVER"
            )
        raise refused(f"The server does not give {what}", answer)

    def tokens(self) -> dict[str, str]:
        tokens: dict[str, str] | None = self.state.load("tokens")
        if tokens is None:
            raise LoginNeeded("This device has no tokens. Run: certctrl-agent login SERVER")
        return tokens

    def refreshed(self, spent: str) -> str:
        """Return another access token than `spent`.

        The new tokens are on the disk before one of them is used, because the server accepts
        each refresh token once.
        """
        with self.state.lock("tokens"):
            tokens = self.tokens()
            if tokens["access_token"] != spent:
                return tokens["access_token"]  # another process of this device was faster
            body = {"refresh_token": tokens["refresh_token"]}
            self.state.save("tokens", tokens)  # a full disk fails here, before the token is spent
            answer = self.server.ask("POST", "/auth/refresh", body=body)
            if answer.status != 200:
                raise LoginNeeded(
                    f"The server does not refresh the tokens of this device{said(answer)} "
                    "Run: certctrl-agent login SERVER"
                )
            return store_session(self.state, answer.data)


def is_policy(answer: Answer) -> bool:
    """Whether a 403 is about the key's policy, and not about the token."""
    return answer.status == 403 and "EXPORT_FORBIDDEN" in json.dumps(answer.body)


def refused(what: str, answer: Answer) -> RefusedByServer:
    text = f"{what} ({answer.status}){said(answer)}"
    return RefusedByServer(text, answer.status, answer.error.get("code"))


def store_session(state: State, data: Any) -> str:
    """Store the tokens of a response. Return the access token."""
    session = data.get("session", data) if isinstance(data, dict) else {}
    tokens = {name: session.get(name) for name in ("access_token", "refresh_token")}
    if not all(isinstance(token, str) and token for token in tokens.values()):
        raise ServerAway("The server responded without tokens.")
    state.save("tokens", tokens)
    return str(tokens["access_token"])
