"""Enrolment: by a person (the device code grant), or by an API key."""

import base64
import platform
import socket
from collections.abc import Callable
from typing import Any

from certctrl_agent import __version__
from certctrl_agent.errors import AgentError, ServerAway
from certctrl_agent.server import Answer, Server, refused, store_session
from certctrl_agent.state import State

GRANT = "/auth/device"
PENDING = ("authorization_pending", "pending")
DENIED = ("access_denied", "denied")
SLOWER = 5  # seconds that `slow_down` adds
TRIES = 4  # of a registration whose response was lost

Show = Callable[[dict[str, Any]], None]
Pause = Callable[[float], None]


def with_person(
    state: State, server: Server, name: str, ca_file: str | None, show: Show, pause: Pause
) -> dict[str, Any]:
    """Start a grant, `show` it, and `pause` between polls until a person has decided."""
    asked = {
        "action": "device_start",
        "scopes": ["openid", "profile", "email"],
        "interval": 5,
        "expires_in": 900,
    }
    grant = accepted(server.ask("POST", GRANT, body=asked), "start the enrolment").data
    show(grant)
    ready = decided(server, grant, pause)
    body = described(state, name) | {
        "user_id": ready["user_id"],
        "registration_code": ready["registration_code"],
    }
    return register(state, server, "/apiv1/device/registration", body, None, ca_file, pause)


def decided(server: Server, grant: dict[str, Any], pause: Pause) -> dict[str, Any]:
    interval = max(1.0, float(grant["interval"]))
    remaining = float(grant["expires_in"])
    while remaining > 0:
        body = {"action": "device_poll", "device_code": grant["device_code"]}
        try:
            polled = accepted(server.ask("POST", GRANT, body=body), "poll").data
        except ServerAway as away:
            polled = {"status": PENDING[0]}
            interval = max(interval, away.retry_after)
        status = polled.get("status")
        if status == "ready":
            return dict(polled)
        if status in DENIED:
            raise AgentError("The enrolment was denied. Nothing was changed.")
        if status == "expired":
            break
        if status == "slow_down":
            interval += SLOWER
        elif status not in PENDING:
            raise AgentError(f"The server responded with the unknown status {status!r}.")
        pause(interval)
        remaining -= interval
    raise AgentError("The code has expired, and nobody has approved it. Run login again.")


def with_key(
    state: State, server: Server, name: str, ca_file: str | None, api_key: str, pause: Pause
) -> dict[str, Any]:
    """Enrol with an API key, or with the enrolment key of a fleet."""
    body = described(state, name)
    return register(state, server, "/apiv1/me/devices", body, api_key, ca_file, pause)


def described(state: State, name: str) -> dict[str, Any]:
    return {
        "device_public_id": state.public_id(),
        "dev_pk": base64.b64encode(bytes(state.key().public_key)).decode(),
        "platform": platform.system().lower(),
        "model": platform.machine(),
        "app_version": __version__,
        "name": name or socket.gethostname(),
        "ip": "unknown",
        "user_agent": f"certctrl-agent/{__version__}",
    }


def register(
    state: State,
    server: Server,
    path: str,
    body: dict[str, Any],
    api_key: str | None,
    ca_file: str | None,
    pause: Pause,
) -> dict[str, Any]:
    """Send the registration again if its response was lost. The server knows the device then."""
    for number in range(1, TRIES + 1):
        try:
            answer = server.ask("POST", path, body=body, token=api_key)
            break
        except ServerAway as away:
            if number == TRIES:
                raise
            pause(max(2.0**number, away.retry_after))
    data = accepted(answer, "enrol this device").data
    device = data["device"]
    known = {
        "server": server.origin,
        "ca_file": ca_file,
        "id": device["id"],
        "public_id": body["device_public_id"],
        "name": body["name"],
    }
    with state.lock("work"), state.lock("tokens"):
        if (before := state.load("device")) and is_other(before, known):
            forget_server(state)
        store_session(state, data)
        state.save("device", known)
    return known


def is_other(before: dict[str, Any], known: dict[str, Any]) -> bool:
    return any(before.get(name) != known[name] for name in ("server", "id"))


def forget_server(state: State) -> None:
    """Forget what another server said. Installed files stay."""
    for name in ("progress", "plan", "reports", "installs", "problems"):
        state.forget(name)
    for kind in ("certificates", "cas"):
        for number in state.names(kind):
            state.forget(f"{kind}/{number}")


def accepted(answer: Answer, what: str) -> Answer:
    if answer.status not in (200, 201):
        raise refused(f"The server did not {what}", answer)
    return answer
