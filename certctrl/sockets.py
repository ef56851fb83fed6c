"""Sockets that follow the deadline of `clock.limit()`.

A normal socket time-out starts again with each byte. A slow server could extend it for ever. Here
each operation gets the time that is left. Python itself limits the total time of connect, the TLS
handshake and sendall.
"""

import socket
import ssl
from typing import Any

from certctrl import clock
from certctrl.addresses import SockAddr


def _seconds() -> float | None:
    """Return the seconds left for the next socket operation, or None outside of any limit.

    Raise TimeoutError when no time is left.
    """
    left = clock.remaining()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return None if left == float("inf") else left


class DeadlineSocket(socket.socket):
    """A socket whose every operation has the time that is left of clock.limit()."""

    def recv(self, *args: Any) -> bytes:
        self.settimeout(_seconds())
        return super().recv(*args)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_seconds())
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any) -> None:
        self.settimeout(_seconds())
        super().sendall(*args)


class DeadlineTLSSocket(ssl.SSLSocket):
    """The same over TLS. SSLSocket uses these three methods for everything."""

    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(_seconds())
        super().do_handshake(block)

    def read(self, *args: Any, **kwargs: Any) -> Any:
        self.settimeout(_seconds())
        return super().read(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_seconds())
        return super().send(*args, **kwargs)


def _connect(address: SockAddr, seconds: float, options: Any) -> DeadlineSocket:
    if seconds <= 0:
        raise TimeoutError("the deadline has passed")
    sock = DeadlineSocket(
        socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM
    )
    try:
        for option in options or ():
            sock.setsockopt(*option)
        sock.settimeout(seconds)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_to_any(addresses: list[SockAddr], options: Any) -> DeadlineSocket:
    """Return a connection to the first address that accepts.

    Each address gets a share of the time, so that a silent one leaves time for the next. Raise the
    last OSError when no address accepts.
    """
    trouble: OSError = OSError("no address")
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return _connect(address, clock.time_left() / left, options)
        except OSError as exc:
            trouble = exc
    raise trouble
