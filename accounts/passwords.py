"""Limits how many passwords are hashed at the same time.

A hash costs CPU time and memory, and anybody may send any number of logins. A login that waits for
a place holds no database connection. It waits at most `PATIENCE` seconds.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth.hashers import Argon2PasswordHasher
from django.contrib.auth.password_validation import MinimumLengthValidator
from django.core.exceptions import ValidationError

from certctrl import outward
from certctrl.errors import Unavailable
from certctrl.sentences import sentence as _

AT_ONCE = 2  # in each process
MOST_WAITING = 16
PATIENCE = 3.0  # seconds
PAUSE = 5  # seconds, sent as Retry-After
FULL = _(
    "Too many logins are in progress, so this one was not checked. Try again in a few seconds."
)

_places = threading.BoundedSemaphore(AT_ONCE)
_queue = threading.BoundedSemaphore(MOST_WAITING)


@contextmanager
def hashing(undone: Callable[[], None]) -> Iterator[None]:
    """Hold one of the `AT_ONCE` places.

    If no place becomes free in time, call `undone()` and raise Unavailable.
    """
    if not (_places.acquire(blocking=False) or _waited()):
        undone()
        raise Unavailable(FULL, retry_after=PAUSE)
    try:
        yield
    finally:
        _places.release()


def _waited() -> bool:
    """Wait for a place. Return whether it was taken.

    Return False immediately if `MOST_WAITING` logins wait already.
    """
    if not _queue.acquire(blocking=False):
        return False
    try:
        outward.give_connection_back()
        return _places.acquire(timeout=PATIENCE)
    finally:
        _queue.release()


class Argon2(Argon2PasswordHasher):
    """Argon2id with the numbers of OWASP's Password Storage Cheat Sheet, for a small server."""

    time_cost = 2
    memory_cost = 19 * 1024  # KiB
    parallelism = 1


class LongEnough(MinimumLengthValidator):
    """Refuses a short password, in words that are in the catalog."""

    def get_error_message(self) -> str:
        return _("A password has at least %(least)s characters.", least=self.min_length)

    get_help_text = get_error_message


class FourKinds:
    """Refuses a password without an upper-case letter, a lower-case one, a digit and another."""

    def validate(self, password: str, user: Any = None) -> None:
        kinds = (str.isupper, str.islower, str.isdigit, lambda each: not each.isalnum())
        if not all(any(map(kind, password)) for kind in kinds):
            raise ValidationError(self.get_help_text(), code="password_kinds")

    def get_help_text(self) -> str:
        return _("A password has upper-case and lower-case letters, digits and another character.")
