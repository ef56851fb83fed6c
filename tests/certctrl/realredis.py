"""A real redis-server on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from standalone.redisserver import RedisServer
from tests.servers import free_port, serving


@contextmanager
def running(folder: Path, *lines: str) -> Iterator[int]:
    """Its port, once it listens. `lines` of its configuration have {port} where that belongs."""
    port, server = free_port(), RedisServer.found(folder, "")
    assert server, "Install redis-server"
    config = folder / f"redis-{port}.conf"
    common = ["bind 127.0.0.1", f"dir {folder}", 'save ""', *(lines or ("port {port}",))]
    config.write_text("\n".join(common).replace("{port}", str(port)) + "\n")
    with serving([server.binary, str(config)], port, config.with_suffix(".log")):
        yield port
