"""Tell calls to a DNS API to a function that keeps them.

A DNS provider knows no attempt, and no account at a CA. The attempt says here who wants to know.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class ApiCall:
    """A request to a DNS API, without its secrets, and how it ended.

    `began` is a reading of `clock.monotonic()`. Without a response, `error` says why.
    """

    party: str  # the name of the provider
    owner_id: int | None  # of the credential
    method: str
    url: str
    began: float
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def answer(self) -> str:
        """The HTTP status, the RCODE of a name server, or why there was no response."""
        return str(self.status or self.headers.get("rcode") or self.error)


Watcher = Callable[[ApiCall], None]
_watcher: ContextVar[Watcher | None] = ContextVar("_watcher", default=None)


@contextmanager
def by(watcher: Watcher) -> Iterator[None]:
    """Hand every call inside the block to this function."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def tell(call: ApiCall) -> None:
    """Hand a call to the function that wants to know, if there is one."""
    if watcher := _watcher.get():
        watcher(call)


def bare(url: str) -> str:
    """Return the URL without user, password, query and fragment, where secrets may be."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
