"""A real SMTP server on loopback that keeps every mail that it accepts."""

import email
import email.policy
import logging
import socket
import ssl
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

logging.getLogger("mail.log").setLevel(logging.ERROR)  # the logger of aiosmtpd


class Mailbox:
    """The server. Use it as a context manager.

    - `answers`: the replies to the next mails (DATA). None accepts the mail.
    - `says`: the reply to each RCPT.
    - `to_sender`: the reply to each MAIL, if not empty.
    - `to_greeting`: the reply to EHLO and HELO, if not empty.

    With `context` the server offers STARTTLS. With `tls=True` it uses TLS from the start.
    """

    def __init__(self, context: ssl.SSLContext | None = None, *, tls: bool = False) -> None:
        self.context = context
        self.tls = tls
        self.greetings: list[str] = []
        self.to_greeting = self.to_sender = ""
        self.password = b"right"
        self.mails: list[EmailMessage] = []
        self.senders: list[str] = []
        self.recipients: list[str] = []
        self.answers: list[str | None] = []
        self.says = "250 OK"
        self.logins: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        self._controller = _Sink(self, self._socket)
        self._controller.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._controller.stop()

    @property
    def subjects(self) -> list[str]:
        return [each["Subject"] for each in self.mails]

    def texts(self) -> list[str]:
        return [each.get_content() for each in self.mails]

    # --- the hooks of aiosmtpd ---

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, name: str, answers: list[str]
    ) -> list[str]:
        self.greetings.append(name)
        session.host_name = name
        return [self.to_greeting] if self.to_greeting else answers

    async def handle_HELO(self, server: Any, session: Any, envelope: Any, name: str) -> str:
        session.host_name = name
        return self.to_greeting or "250 mailbox"

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if not self.to_sender:
            envelope.mail_from = address
        return self.to_sender or "250 OK"

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.says.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.says

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        answer = self.answers.pop(0) if self.answers else None
        if answer:
            return answer
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.senders.append(envelope.mail_from)
        self.recipients += envelope.rcpt_tos
        return "250 Message accepted"

    def log_in(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        self.logins.append(data.password)
        return AuthResult(success=data.password == self.password, handled=False)


class _Sink(Controller):
    def __init__(self, mailbox: Mailbox, listener: socket.socket) -> None:
        self.listener = listener
        super().__init__(
            mailbox,
            hostname="127.0.0.1",
            port=mailbox.port,
            authenticator=mailbox.log_in,
            auth_require_tls=False,
            tls_context=None if mailbox.tls else mailbox.context,
            ssl_context=mailbox.context if mailbox.tls else None,
        )

    def _create_server(self) -> Any:
        return self.loop.create_server(
            self._factory_invoker, sock=self.listener, ssl=self.ssl_context
        )
