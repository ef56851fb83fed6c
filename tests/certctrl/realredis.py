"""A real redis-server on loopback."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from certctrl import clock
from standalone.redisserver import RedisServer
from tests.standalone.starting import free_port, tick

LIMIT = 20.0


@contextmanager
def running(folder: Path, *lines: str) -> Iterator[int]:
    """Its port, once it listens. `lines` of its configuration have {port} where that belongs."""
    port, server = free_port(), RedisServer.found(folder, "")
    assert server, "Install redis-server"
    config = folder / f"redis-{port}.conf"
    common = ["bind 127.0.0.1", f"dir {folder}", 'save ""', *(lines or ("port {port}",))]
    config.write_text("\n".join(common).replace("{port}", str(port)) + "\n")
    with listening([server.binary, str(config)], port):
        yield port


@contextmanager
def listening(command: list[str], port: int, **options: Any) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    end = clock.monotonic() + LIMIT
    try:
        while not listens(port):
            assert process.poll() is None, f"{command[0]} ended"
            assert clock.monotonic() < end, f"{command[0]} does not listen"
            tick.wait(0.02)
        yield
    finally:
        process.terminate()
        process.wait(LIMIT)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
