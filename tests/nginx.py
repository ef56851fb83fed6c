"""A real nginx on loopback."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import serving

PROGRAM = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
CONFIGURATION = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{lines}
}}
"""


def configuration(folder: Path) -> Path:
    return folder / "nginx.conf"


def command(folder: Path, *more: str) -> list[str]:
    own = ["-c", str(configuration(folder)), "-p", str(folder), "-e", "stderr"]
    return [str(PROGRAM), *own, *more]


@contextmanager
def running(folder: Path, lines: str, port: int) -> Iterator[None]:
    """Run nginx with these lines in its `http` block, which listen on the port."""
    user = "user root;" if os.getuid() == 0 else ""
    text = CONFIGURATION.format(folder=folder, user=user, lines=lines)
    configuration(folder).write_text(text)
    with serving(command(folder), port, folder / "log"):
        yield
