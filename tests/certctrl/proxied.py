"""An nginx with the lines of the guide in front of a web process."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from lab.ca import PROJECT
from tests import nginx
from tests.fakes.dripping import certificate_for
from tests.servers import free_port


def guide() -> tuple[str, str]:
    """Return the guide's lines: the upstream with its server, and the location for a path."""
    whole, location = re.findall(
        r"```nginx\n(.*?)```", (PROJECT / "docs/guides/production.md").read_text(), re.DOTALL
    )
    return whole, location


def below_a_path() -> str:
    """Return the guide's server with the location for a path."""
    whole, location = guide()
    return replaced(
        whole, re.search(r"    location / \{.*?\n    \}\n", whole, re.DOTALL)[0], location
    )


def replaced(text: str, old: str, new: str) -> str:
    assert old in text, f"the guide no longer has {old!r}"
    return text.replace(old, new)


@contextlib.contextmanager
def proxy(folder: Path, lines: str, web: int) -> Iterator[str]:
    """Start nginx with the guide's lines before a web process. Return the origin for browsers."""
    folder.mkdir()
    port = free_port()
    certificate_for(folder, "localhost", "127.0.0.1")
    pem = str(folder / "server.pem")
    lines = replaced(lines, "server 127.0.0.1:8080;", f"server 127.0.0.1:{web};")
    lines = replaced(lines, "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    lines = replaced(lines, "/etc/ssl/certs.example.com.pem", pem)
    lines = replaced(lines, "/etc/ssl/certs.example.com.key", pem)
    with nginx.running(folder, lines, port):
        yield f"https://localhost:{port}"
