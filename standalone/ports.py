"""Ports that this process may give to its children, held so that two servers which start at once choose others."""

import socket
import sys
from collections.abc import Iterable

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM

_held: dict[tuple[str, int], tuple[object, socket.socket]] = {}


def take(
    host: str, port: int, owner: object, kinds: Iterable[socket.SocketKind] = (TCP, UDP)
) -> bool:
    """Hold a port for this owner until the process ends; False where somebody listens there or another holds it."""
    try:
        for kind in kinds:
            bind(host, port, kind)
    except OSError:
        return False
    return _hold(host, port, owner)


def _hold(host: str, port: int, owner: object) -> bool:
    """Between our look at a port and the moment when a child listens there, another server of ours may look too. An
    abstract Unix socket has one holder, and goes with it. Only Linux has them."""
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
    """Raises OSError where nothing can listen there now."""
    for family, _, _, _, place in socket.getaddrinfo(host, port, type=kind):
        with socket.socket(family, kind) as probe:
            if kind == TCP:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
