from collections.abc import Callable, Iterator
from typing import Any

import pytest

from accounts.models import User
from notices import raising, webhooks
from notices.models import Notice, Webhook
from tests.fakes.mailbox import Mailbox
from tests.fakes.receiver import Receiver

Kind = Notice.Kind


@pytest.fixture
def mailbox(settings: Any) -> Iterator[Mailbox]:
    """A mail server that gets all mails of the test."""
    with Mailbox() as mailbox:
        settings.EMAIL_BACKEND = settings.SMTP_BACKEND
        settings.EMAIL_HOST = "127.0.0.1"
        settings.EMAIL_PORT = mailbox.port
        settings.NOTICE_FROM = "certctrl <notices@example.com>"
        settings.MAIL_IS_SET_UP = True
        yield mailbox


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def hook(alice: User, receiver: Receiver) -> tuple[Webhook, str]:
    """Alice's webhook at the receiver, and its secret."""
    return webhooks.create_webhook(alice, {"url": receiver.url})


@pytest.fixture
def tell(alice: User) -> Callable[..., bool]:
    """`tell("example.com")` makes a notice that alice's certificate was renewed."""

    def build(domain: str = "example.com", kind: str = Kind.RENEWED, owner: User = alice) -> bool:
        data = {"domain": domain, "certificate_id": 7}
        return raising.raise_once(
            owner,
            kind,
            f"{kind}:{domain}",
            f"{domain} was renewed",
            f"All is well with {domain}.",
            data,
        )

    return build
