"""Sockets that know the deadline: each operation is armed with what is left of `clock.limit()`.

A time-out on a socket is for one operation, and starts again with each byte of an answer that drips. Arming it before
each operation makes it total. Connecting, the TLS handshake and sendall are total in Python itself.
"""

import socket
import ssl
from typing import Any

from certctrl import clock
from certctrl.addresses import SockAddr


def _seconds() -> float | None:
    """What is left of clock.limit() for the next operation on a socket; None outside of any limit."""
    rest = clock.rest()
    if rest <= 0:
        raise TimeoutError("the deadline has passed")
    return None if rest == float("inf") else rest


class DeadlineSocket(socket.socket):
    """A socket whose every operation is armed with what is left of clock.limit()."""

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
    """The same over TLS; SSLSocket does everything by these three."""

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
    """The first that answers; each may take its share of the time, so that a silent one leaves some to the next."""
    trouble: OSError = OSError("no address")
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return _connect(address, clock.time_left() / left, options)
        except OSError as exc:
            trouble = exc
    raise trouble
