"""Real web servers on loopback that serve the targets of a plan."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.agent.pki import Issued
from tests.agent.plans import copy, run, tls
from tests.nginx import command, configuration, running
from tests.servers import free_port, serving

PATH = os.environ.get("PATH", "") + ":/usr/sbin"
HAPROXY = shutil.which("haproxy", path=PATH)
SITE = """
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name www.example.com;
        ssl_certificate {folder}/tls/www.pem;
        ssl_certificate_key {folder}/tls/www.key;
    }}
"""
HAPROXY_CFG = """
global
    stats socket {folder}/admin.sock mode 600 level admin
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend web
    bind 127.0.0.1:{port} ssl crt {folder}/tls/www.pem
    http-request return status 200
"""


class WebServer:
    """One server in a folder. It begins with the files of `first`."""

    def __init__(self, folder: Path, first: Issued) -> None:
        self.folder = folder
        self.port = free_port()
        self.key, self.chain = folder / "tls/www.key", folder / "tls/www.pem"
        (folder / "tls").mkdir(parents=True)
        self.key.write_text(first.key_pem)
        self.chain.write_text(first.fullchain)

    def break_configuration(self) -> None:
        with self.configuration.open("a") as file:
            file.write("no_such_word;\n")

    def plan(self, number: int = 7, **changes: Any) -> list[dict[str, Any]]:
        """Copy, test, reload, and prove by a handshake."""
        files = {"private.key": str(self.key), "fullchain.pem": str(self.chain)}
        check = tls(self.port, grace_seconds=20) | changes
        return [
            copy(files, number, verify=check),
            run("test", self.test, depends_on=["copy"]),
            run("reload", self.reload, depends_on=["test"]),
        ]

    configuration: Path
    test: list[str]
    reload: list[str]


@contextlib.contextmanager
def nginx(folder: Path, first: Issued) -> Iterator[WebServer]:
    server = WebServer(folder, first)
    server.configuration = configuration(folder)
    server.test = command(folder, "-t")
    server.reload = command(folder, "-s", "reload")
    with running(folder, SITE.format(folder=folder, port=server.port), server.port):
        yield server


@contextlib.contextmanager
def haproxy(folder: Path, first: Issued) -> Iterator[WebServer]:
    """HAProxy reads the key of `www.pem` from `www.pem.key`. Its master reloads with SIGUSR2."""
    server = WebServer(folder, first)
    server.key = server.key.rename(folder / "tls/www.pem.key")
    server.configuration = cfg = folder / "haproxy.cfg"
    pid = folder / "pid"
    cfg.write_text(HAPROXY_CFG.format(folder=folder, port=server.port))
    server.test = [str(HAPROXY), "-c", "-f", str(cfg)]
    server.reload = ["sh", "-c", f"kill -USR2 $(cat {pid})"]
    start = [str(HAPROXY), "-W", "-f", str(cfg), "-p", str(pid)]
    with serving(start, server.port, folder / "log"):
        yield server
