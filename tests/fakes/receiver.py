"""A webhook receiver on loopback. It keeps all posts, and `standardwebhooks` verifies them."""

from dataclasses import dataclass
from typing import Any

import standardwebhooks

from tests.fakes.httpserver import FakeHTTP, Handler


@dataclass(frozen=True)
class Posted:
    path: str
    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str) -> Any:
        """Return the decoded body. Raise WebhookVerificationError if the signature is wrong."""
        return standardwebhooks.Webhook(secret).verify(self.body, self.headers)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class ReceiverHandler(Handler):
    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.fake.posted.append(Posted(self.path, headers, self.body()))
        answers = self.fake.answers
        self.send(answers.pop(0) if answers else 204, **self.fake.headers)


class Receiver(FakeHTTP):
    """The receiver. Use it as a context manager.

    `answers` are the statuses of the next responses. Later responses have 204. All have `headers`.
    """

    handler = ReceiverHandler

    def __init__(self, *answers: int, headers: dict[str, str] | None = None) -> None:
        self.answers = list(answers)
        self.headers = headers or {}
        self.posted: list[Posted] = []

    @property
    def url(self) -> str:
        return f"{self.origin}/hook"
