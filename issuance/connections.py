"""What a thread keeps of each ACME CA that it talks to."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

KEPT_CONNECTIONS = 16  # for each thread


@dataclass
class Connection:
    """What a thread keeps of a CA: its directory, and nonces that it handed out. Sockets are kept by `outgoing`."""

    directory_url: str
    nonces: list[str] = field(default_factory=list)
    directory: Any = None  # as `issuance.acme` reads it; None: to be read
    read_at: float = 0.0

    @property
    def host(self) -> str:
        return urlsplit(self.directory_url).netloc.rpartition("@")[2] or self.directory_url


_kept = threading.local()


def connection_to(directory_url: str) -> Connection:
    """This thread's connection to the CA: one for all of its accounts there, since nonces belong to no account."""
    if not hasattr(_kept, "connections"):
        _kept.connections = OrderedDict()
    connections: OrderedDict[str, Connection] = _kept.connections
    connection = connections.pop(directory_url, None) or Connection(directory_url)
    connections[directory_url] = connection
    while len(connections) > KEPT_CONNECTIONS:
        connections.popitem(last=False)
    return connection
