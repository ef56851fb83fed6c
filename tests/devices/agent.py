"""A device that enrols: it sends what agents send, and knows nothing of the server's code."""

import base64
import uuid
from typing import Any

from nacl.public import PrivateKey  # noqa: TID251

from tests.conftest import JSONClient

REGISTRATION = "/apiv1/device/registration"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class Agent:
    """One machine. `client` sends no cookie. `device_code` is there after `start()`."""

    def __init__(self) -> None:
        self.client = JSONClient(raise_request_exception=False)
        self.public_id = str(uuid.uuid4())
        self.key = PrivateKey.generate()
        self.device_code = ""
        self.user_code = ""

    def start(self, **changes: Any) -> Any:
        body = {
            "action": "device_start",
            "scopes": ["openid", "profile", "email"],
            "interval": 5,
            "expires_in": 900,
        }
        response = self.client.post("/auth/device", body | changes)
        if response.status_code == 200:
            self.device_code = response.data_member["device_code"]
            self.user_code = response.data_member["user_code"]
        return response

    def poll(self) -> dict[str, Any]:
        response = self.client.post(
            "/auth/device", {"action": "device_poll", "device_code": self.device_code}
        )
        assert response.status_code == 200, response.content
        return response.data_member

    def body(self, **changes: Any) -> dict[str, Any]:
        body = {
            "device_public_id": self.public_id,
            "dev_pk": b64(bytes(self.key.public_key)),
            "platform": "linux",
            "model": "x86_64",
            "app_version": "1.0.0",
            "name": "CLI Device host",
            "ip": "unknown",
            "user_agent": "cert-ctrl/1.0.0",
        } | changes
        return {name: value for name, value in body.items() if value is not None}

    def register(self, user_id: Any, code: str | None = None, **changes: Any) -> Any:
        return self.client.post(
            REGISTRATION, self.body(user_id=user_id, registration_code=code, **changes)
        )

    def refresh(self, token: str) -> Any:
        return self.client.post("/auth/refresh", {"refresh_token": token})

    def notify(self, token: str, version: str = "1.2.3") -> Any:
        event = {"type": "agent_version", "agent": "cert-ctrl", "version": version}
        body = {"schema": "certctrl.device.notify.v1", "events": [event]}
        return self.client.post(
            "/apiv1/devices/self/notify", body, HTTP_AUTHORIZATION=f"Bearer {token}"
        )


def decide(person: JSONClient, user_code: str, approve: bool = True) -> Any:
    body = {"action": "device_verify", "user_code": user_code, "approve": approve}
    return person.post("/auth/device", body)


def enrolled(agent: Agent, person: JSONClient, user_id: int) -> dict[str, Any]:
    """Enrol the agent with a code. Return `device` and `session`."""
    agent.start()
    assert decide(person, agent.user_code).status_code == 200
    code = agent.poll()["registration_code"]
    response = agent.register(user_id, code)
    assert response.status_code in (200, 201), response.content
    return response.data_member
