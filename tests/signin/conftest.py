"""People with second factors, a clock, and the mails that the worker sends."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import time_machine
from django.test import Client
from django_otp.oath import totp

from accounts.models import User
from certctrl import clock
from keystore import envelope
from signin import mails, secondfactor
from signin.models import MailedCode, SecondFactor
from tests.fakes.mailbox import Mailbox

NEW_PASSWORD = "Another-horse-2"
CODE = r"(?m)^ {4}((?:[a-z2-7]{4}-){3}[a-z2-7]{4})\r?$"


@pytest.fixture
def at() -> Any:
    """The time, which a test shifts."""
    with time_machine.travel("2027-03-01T12:00:00+00:00", tick=False) as traveller:
        yield traveller


def code_now(user: User) -> str:
    """Return the code that the app of the user shows now."""
    factor = SecondFactor.objects.get(user=user)
    return f"{totp(envelope.unseal(factor.secret), t0=0):06d}"


@pytest.fixture
def recovery_codes(at: Any, alice: User, rf: Any) -> list[str]:
    """Alice has a second factor. Return her recovery codes."""
    secondfactor.start(alice)
    codes = secondfactor.confirm(alice, code_now(alice), rf.post("/"))
    at.shift(60)
    return codes


@pytest.fixture
def is_open(settings: Any, mailbox: Mailbox) -> None:
    settings.REGISTRATION = "open"


def send_due(mailbox: Mailbox) -> list[str]:
    """Send what is due. Return the texts of the new mails."""
    before = len(mailbox.mails)
    for pk in MailedCode.objects.due(clock.now()).order_by("pk").values_list("pk", flat=True):
        mails.send(pk)
    return mailbox.texts()[before:]


def codes_of(mailbox: Mailbox) -> list[str]:
    """Send what is due. Return the codes in the new mails."""
    texts = send_due(mailbox)
    return [code for text in texts for code in re.findall(CODE, text)]


@pytest.fixture
def sent(mailbox: Mailbox) -> Callable[[], list[str]]:
    return lambda: send_due(mailbox)


@pytest.fixture
def mailed_code(mailbox: Mailbox) -> Callable[[], str]:
    """Return a function that sends the only mail that is due, and returns its code."""

    def read() -> str:
        (code,) = codes_of(mailbox)
        return code

    return read


@pytest.fixture
def visitor(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client
