"""SMTP: the greeting name, UTF-8 passwords, and the setting that each refusal is about."""

import re
import smtplib
import socket
import ssl
from email.utils import parseaddr
from functools import partial
from typing import Any

from django.conf import settings
from django.core.mail.backends import smtp

from certctrl.log import mask
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble

LOG_IN = _("The operator must check EMAIL_HOST_USER and EMAIL_HOST_PASSWORD.")
START_TLS = _(
    "The operator must check EMAIL_USE_TLS (STARTTLS, port 587), EMAIL_USE_SSL (port "
    "465) and EMAIL_PORT."
)
ADDRESS = re.compile(r"<[^>]*>|\S+@\S+")
# Servers often refuse the recipient because of an earlier step (Postfix: smtpd_delay_reject).
OF_GREETING = re.compile(r"\b(helo|ehlo)\b", re.I)
OF_TLS = re.compile(r"\bstarttls\b|encryption required|encrypted connection", re.I)
OF_LOGIN = re.compile(
    r"authentication required|authenticate first|auth(?:entication)? (?:is )?(?:needed|failed)"
    r"|relay(?:ing)?\b.*\b(?:denied|prohibited)|not permitted to relay|unable to relay"
    r"|access not permitted",
    re.I,
)
OF_SENDER = re.compile(
    r"\b5\.1\.[78]\b|\bsender\b|\breturn.path\b|\bfrom\b address|\bSPF\b|\bDMARC\b", re.I
)


class EmailBackend(smtp.EmailBackend):
    @property
    def connection_class(self) -> Any:
        return partial(_greeting, _OverTLS if self.use_ssl else _Plain)


def greeting_name() -> str:
    """Return EMAIL_EHLO, or else the domain of NOTICE_FROM.

    Mail servers refuse the host name of a container.
    """
    domain: str = settings.EMAIL_EHLO or parseaddr(settings.NOTICE_FROM)[1].rpartition("@")[2]
    try:
        return domain.encode("idna").decode()
    except UnicodeError:
        return domain.encode("ascii", "ignore").decode()


def _greeting(client: type[smtplib.SMTP], host: str, port: int, **options: Any) -> smtplib.SMTP:
    return client(host, port, **options | {"local_hostname": greeting_name()})


class _UTF8(str):
    """A string that encodes to UTF-8 (RFC 4616, RFC 4954). smtplib would encode it to ASCII."""

    __slots__ = ()

    def encode(self, *args: Any) -> bytes:
        return super().encode("utf-8")


class _Plain(smtplib.SMTP):
    def login(self, user: str, password: str, *, initial_response_ok: bool = True) -> Any:
        return super().login(_UTF8(user), _UTF8(password), initial_response_ok=initial_response_ok)

    def auth_plain(self, challenge: Any = None) -> str:
        return _UTF8(super().auth_plain(challenge))

    def auth_cram_md5(self, challenge: Any = None) -> str | None:  # type: ignore[override]
        answer = super().auth_cram_md5(challenge)
        return None if answer is None else _UTF8(answer)


class _OverTLS(_Plain, smtplib.SMTP_SSL):
    pass


# --- failures, and the setting that each is about ---


def trouble_of(exc: Exception) -> Trouble:
    """Return a Trouble whose sentence says what failed and what the operator must check.

    The server's answer to a login is left out, because it may repeat the password.
    """
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        code, words = next(iter(exc.recipients.values()))
        return _earlier(code, words) or _said(
            "mail_address_refused", _("refused the address"), code, words
        )
    if isinstance(exc, smtplib.SMTPAuthenticationError):
        return Trouble(
            "mail_login_refused",
            _(
                "The mail server refused the login (%(smtp_code)s). %(log_in)s",
                smtp_code=exc.smtp_code,
                log_in=LOG_IN,
            ),
        )
    if isinstance(exc, smtplib.SMTPHeloError):
        return _greeting_refused(exc.smtp_code, exc.smtp_error)
    if isinstance(exc, smtplib.SMTPSenderRefused):
        return _earlier(exc.smtp_code, exc.smtp_error) or _sender_refused(
            exc.smtp_code, exc.smtp_error
        )
    if isinstance(exc, smtplib.SMTPConnectError):
        return _said("mail_unreachable", _("refused the connection"), exc.smtp_code, exc.smtp_error)
    if isinstance(exc, smtplib.SMTPResponseException):
        blamed = _earlier(exc.smtp_code, exc.smtp_error)
        return blamed or Trouble(
            "mail_failed",
            _(
                "The mail server answered %(smtp_code)s: %(smtp_error)s",
                smtp_code=exc.smtp_code,
                smtp_error=_words(exc.smtp_error),
            ),
        )
    if isinstance(exc, smtplib.SMTPNotSupportedError):
        return _not_offered(str(exc))
    return _of_the_connection(exc)


def _earlier(code: int, words: bytes | str) -> Trouble | None:
    """Return the Trouble of an earlier step, if the refusal is about one. Else return None."""
    text = _words(words)
    told = ADDRESS.sub("", text)
    if OF_GREETING.search(told):
        return _greeting_refused(code, words)
    if OF_TLS.search(told):
        return Trouble(
            "mail_tls",
            _(
                "The mail server requires TLS (%(code)s): %(said)s %(start_tls)s",
                code=code,
                said=text,
                start_tls=START_TLS,
            ),
        )
    if code in (530, 535) or OF_LOGIN.search(told):
        return Trouble(
            "mail_login_refused",
            _(
                "The mail server requires a login (%(code)s): %(said)s %(log_in)s",
                code=code,
                said=text,
                log_in=LOG_IN,
            ),
        )
    return _sender_refused(code, words) if OF_SENDER.search(told) else None


def _greeting_refused(code: int, words: bytes | str) -> Trouble:
    what = _said(
        "mail_greeting_refused",
        _("refused the host name %(name)s", name=greeting_name()),
        code,
        words,
    ).what
    return Trouble(
        "mail_greeting_refused",
        _(
            "%(what)s The operator must set EMAIL_EHLO to a host name that the mail server "
            "accepts.",
            what=what,
        ),
    )


def _sender_refused(code: int, words: bytes | str) -> Trouble:
    what = _said("mail_sender_refused", _("refused the sender"), code, words).what
    return Trouble(
        "mail_sender_refused", _("%(what)s The operator must check NOTICE_FROM.", what=what)
    )


def _not_offered(words: str) -> Trouble:
    if "STARTTLS" in words:
        return Trouble(
            "mail_tls", _("The mail server offers no STARTTLS. %(start_tls)s", start_tls=START_TLS)
        )
    if "AUTH" in words:
        return Trouble(
            "mail_login_refused",
            _(
                "The mail server offers no login on this connection. %(start_tls)s %(log_in)s",
                start_tls=START_TLS,
                log_in=LOG_IN,
            ),
        )
    return Trouble(
        "mail_failed", _("The mail server accepts ASCII addresses only. Give another address.")
    )


def _of_the_connection(exc: Exception) -> Trouble:
    where = _("The operator must check EMAIL_HOST and EMAIL_PORT.")
    if isinstance(exc, smtplib.SMTPServerDisconnected):
        return Trouble(
            "mail_unreachable",
            _(
                "The mail server closed the connection, or did not answer in time. %(where)s",
                where=where,
            ),
        )
    if isinstance(exc, ssl.SSLCertVerificationError):
        what = _(
            "The TLS certificate of the mail server is not trusted: %(verify_message)s.",
            verify_message=_words(exc.verify_message),
        )
        return Trouble(
            "mail_tls",
            _(
                "%(what)s The operator must check EMAIL_HOST, or the CAs that this machine trusts.",
                what=what,
            ),
        )
    if isinstance(exc, ssl.SSLError):
        return Trouble(
            "mail_tls",
            _(
                "TLS with the mail server failed (%(reason)s). %(start_tls)s",
                reason=exc.reason or _("no reason"),
                start_tls=START_TLS,
            ),
        )
    if isinstance(exc, socket.gaierror):
        return Trouble(
            "mail_unreachable", _("The name of the mail server is unknown. %(where)s", where=where)
        )
    if isinstance(exc, smtplib.SMTPException):
        return Trouble(
            "mail_login_refused",
            _(
                "The mail server offers no login method that this server supports. %(log_in)s",
                log_in=LOG_IN,
            ),
        )
    return Trouble(
        "mail_unreachable",
        _(
            "The mail server could not be reached (%(name)s). %(where)s",
            name=type(exc).__name__,
            where=where,
        ),
    )


def _said(code: str, what: str, status: int, words: bytes | str) -> Trouble:
    return Trouble(
        code,
        _(
            "The mail server %(what)s (%(status)s): %(said)s",
            what=what,
            status=status,
            said=_words(words),
        ),
    )


def _words(said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return mask(" ".join(text.split()))[:200]
