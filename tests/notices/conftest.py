from collections.abc import Callable, Iterator

import pytest

from accounts.models import User
from notices import raising, webhooks
from notices.models import Notice, Webhook
from tests.fakes.receiver import Receiver

Kind = Notice.Kind


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
