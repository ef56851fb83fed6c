"""Writes each mail into a file of the folder that MAIL_FOLDER names, whole or not at all."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend


class EmailBackend(BaseEmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        folder = Path(os.environ["MAIL_FOLDER"])
        for each in email_messages:
            part = folder.parent / uuid.uuid4().hex
            part.write_bytes(each.message().as_bytes())
            part.rename(folder / part.name)
        return len(email_messages)
