"""Each refusal of a mail server names the setting or address to change."""

import smtplib
from pathlib import Path
from typing import Any

import pytest

from notices import smtp
from notices.models import Delivery
from tests.fakes import dripping
from tests.fakes.mailbox import Mailbox

pytestmark = pytest.mark.django_db
SETTINGS = (
    "EMAIL_EHLO",
    "EMAIL_HOST_USER",
    "EMAIL_HOST_PASSWORD",
    "EMAIL_USE_TLS",
    "EMAIL_PORT",
    "EMAIL_HOST",
    "NOTICE_FROM",
)


@pytest.fixture
def why(world: Any, tell: Any) -> Any:
    """Return why a mail was not sent."""

    def sent() -> str:
        tell()
        world.sweep()
        return str(Delivery.objects.get().error_what)

    return sent


def named(what: str) -> set[str]:
    return {word for word in SETTINGS if word in what.replace(",", " ").replace(".", " ").split()}


def test_we_greet_with_the_senders_domain_and_not_with_this_machines_name(mailbox, why):
    assert why() == ""
    assert mailbox.greetings == ["example.com"]


def test_the_operator_may_name_another(mailbox, why, settings):
    settings.EMAIL_EHLO = "mail.example.net"
    assert why() == ""
    assert mailbox.greetings == ["mail.example.net"]


def test_a_domain_beyond_ascii_is_greeted_with_as_an_a_label(mailbox, settings):
    settings.NOTICE_FROM = "notices@bücher.example"
    assert smtp.greeting_name() == "xn--bcher-kva.example"


def test_a_refused_greeting_is_not_the_addresss_fault(mailbox, why):
    mailbox.to_greeting = "504 5.5.2 example.com: need a fully-qualified name"
    what = why()
    assert what.startswith("The mail server refused the host name example.com (504): 5.5.2")
    assert named(what) == {"EMAIL_EHLO"}


@pytest.mark.parametrize(
    ("says", "setting"),
    [
        ("504 5.5.2 <a1b2c3>: Helo command rejected: need fully-qualified hostname", "EMAIL_EHLO"),
        ("550 5.7.1 EHLO name is bogus", "EMAIL_EHLO"),
        (
            "550 5.1.8 <notices@example.com>: Sender address rejected: Domain not found",
            "NOTICE_FROM",
        ),
        ("550 5.7.23 SPF check failed", "NOTICE_FROM"),
        ("554 5.7.1 <alice@example.org>: Relay access denied", "EMAIL_HOST_USER"),
        ("530 5.7.0 Authentication required", "EMAIL_HOST_USER"),
        ("530 5.7.0 Must issue a STARTTLS command first", "EMAIL_USE_TLS"),
    ],
)
def test_a_recipient_refused_for_what_came_before_is_not_blamed(mailbox, why, says, setting):
    mailbox.says = says
    what = why()
    assert setting in named(what)
    assert "refused the address" not in what


@pytest.mark.parametrize(
    "says",
    [
        "550 5.1.1 <alice@example.org>: Recipient address rejected",
        "550 <helo@sender.example>: no such user",
    ],
)
def test_a_refused_recipient_is_the_addresss_own(mailbox, why, says):
    mailbox.says = says
    assert why() == f"The mail server refused the address (550): {says[4:]}"


def test_a_refused_sender_names_its_setting(mailbox, why):
    mailbox.to_sender = "550 we do not know you"
    what = why()
    assert what.startswith("The mail server refused the sender (550): we do not know you")
    assert named(what) == {"NOTICE_FROM"}


def test_a_refused_log_in_names_user_and_password_and_shows_neither(mailbox, why, settings, caplog):
    settings.EMAIL_HOST_USER = "certctrl"
    settings.EMAIL_HOST_PASSWORD = "hunter2"
    what = why()
    assert named(what) == {"EMAIL_HOST_USER", "EMAIL_HOST_PASSWORD"}
    assert "hunter2" not in what + caplog.text


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_password_beyond_ascii_arrives_as_written(mailbox, why, settings, monkeypatch, mechanism):
    mailbox.password = " pä$s#'\"€ ".encode()
    settings.EMAIL_HOST_USER = "ü"
    settings.EMAIL_HOST_PASSWORD = mailbox.password.decode()
    other = "auth_login" if mechanism == "PLAIN" else "auth_plain"
    monkeypatch.setattr(smtplib.SMTP, other, refuse)
    assert why() == ""
    assert mailbox.logins[-1] == mailbox.password
    assert len(mailbox.mails) == 1


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise smtplib.SMTPAuthenticationError(504, b"not this mechanism")


def test_a_mail_server_without_starttls_names_the_settings_of_tls(mailbox, why, settings):
    settings.EMAIL_USE_TLS = True
    what = why()
    assert what.startswith("The mail server offers no STARTTLS.")
    assert "EMAIL_USE_TLS" in named(what)


def test_tls_from_the_start_at_a_plain_smtp_port_names_the_setting(mailbox, why, settings):
    settings.EMAIL_USE_SSL = True
    what = why()
    assert what.startswith("TLS with the mail server failed")
    assert "EMAIL_USE_TLS" in named(what)


@pytest.mark.parametrize("from_the_start", [True, False])
def test_an_unknown_certificate_is_said_to_be_one(
    tmp_path: Path, world, tell, settings, mailbox, from_the_start
):
    context, _ = dripping.certificate_for(tmp_path, "127.0.0.1")
    settings.EMAIL_USE_SSL = from_the_start
    settings.EMAIL_USE_TLS = not from_the_start
    with Mailbox(context, tls=from_the_start) as box:
        settings.EMAIL_PORT = box.port
        tell()
        world.sweep()
        what = Delivery.objects.get().error_what
        assert what.startswith("The TLS certificate of the mail server is not trusted: self")
        assert what.endswith("or the CAs that this machine trusts.")
        assert not box.mails


def test_an_unknown_host_names_its_settings(mailbox, why, settings):
    settings.EMAIL_HOST = "mail.invalid"
    what = why()
    assert what.startswith("The name of the mail server is unknown.")
    assert named(what) == {"EMAIL_HOST", "EMAIL_PORT"}


@pytest.mark.parametrize("service", ["postmark", "nobody"])
def test_a_mail_service_that_is_not_set_up_names_its_settings(mailbox, why, settings, service):
    settings.EMAIL_BACKEND = f"anymail.backends.{service}.EmailBackend"
    settings.ANYMAIL = {}
    assert why().endswith("The operator must check EMAIL_BACKEND and ANYMAIL.")
