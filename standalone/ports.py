"""Holds ports for the children of this process.

Two servers that start at the same time thus choose different ports.
"""

import socket
import sys
from collections.abc import Iterable

TCP = socket.SOCK_STREAM
UDP = socket.SOCK_DGRAM

_held: dict[tuple[str, int], tuple[object, socket.socket]] = {}


def take(
    host: str, port: int, owner: object, kinds: Iterable[socket.SocketKind] = (TCP, UDP)
) -> bool:
    """Hold a port for this owner until the process ends.

    Return False when another program listens there, or another owner holds the port.
    """
    try:
        for kind in kinds:
            bind(host, port, kind)
    except OSError:
        return False
    return _hold(host, port, owner)


def _hold(host: str, port: int, owner: object) -> bool:
    """Hold the port with an abstract Unix socket.

    Another server of ours may check the port before our child listens there. An abstract socket has
    one holder, and disappears with it. Only Linux has such sockets.
    """
    if (host, port) in _held:
        return _held[host, port][0] == owner
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        if sys.platform == "linux":
            mark.bind(f"\0certctrl {host} {port}")
    except OSError:
        mark.close()
        return False
    _held[host, port] = owner, mark
    return True


def bind(host: str, port: int, kind: socket.SocketKind = TCP) -> None:
    """Raise OSError when nothing can listen there now."""
    for family, _, _, _, place in socket.getaddrinfo(host, port, type=kind):
        with socket.socket(family, kind) as probe:
            if kind == TCP:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
