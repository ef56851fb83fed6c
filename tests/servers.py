"""Processes of tests that listen on a port of loopback."""

import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from certctrl.supervisor import bound_to
from tests.patience import LIMIT, until

# The system gives higher ports to outgoing connections. Such a port could be taken again before
# the server has started.
PORTS = range(10_240, 32_768)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(
    command: Sequence[str | Path],
    port: int,
    log: Path,
    ready: Callable[[], bool] | None = None,
    end: int = signal.SIGTERM,
    **options: Any,
) -> Iterator[None]:
    """Run a server from the moment when it is `ready` or else listens. Its output is in `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=bound_to(os.getpid()),
            **options,
        )
    is_ready = ready or (lambda: listens(port))
    try:
        until(lambda: process.poll() is not None or is_ready(), f"{command[0]} listens")
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield
    finally:
        process.send_signal(end)
        process.wait(LIMIT)
