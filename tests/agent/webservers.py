"""Real web servers on loopback that serve the targets of a plan."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from certctrl.supervisor import bound_to
from tests.agent.pki import Issued
from tests.agent.plans import copy, run, tls
from tests.standalone.starting import free_port, until

PATH = os.environ.get("PATH", "") + ":/usr/sbin"
NGINX = shutil.which("nginx", path=PATH)
HAPROXY = shutil.which("haproxy", path=PATH)
NGINX_CONF = """
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
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name www.example.com;
        ssl_certificate {folder}/tls/www.pem;
        ssl_certificate_key {folder}/tls/www.key;
    }}
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
def running(server: WebServer, command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, preexec_fn=bound_to(os.getpid())
        )
    try:
        until(lambda: process.poll() is not None or listens(server.port), "the server listens")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


@contextlib.contextmanager
def nginx(folder: Path, first: Issued) -> Iterator[WebServer]:
    server = WebServer(folder, first)
    user = "user root;" if os.getuid() == 0 else ""
    server.configuration = conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder, port=server.port, user=user))
    command = [str(NGINX), "-c", str(conf), "-p", str(folder), "-e", "stderr"]
    server.test = [*command, "-t"]
    server.reload = [*command, "-s", "reload"]
    with running(server, command, folder / "log"):
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
    with running(server, [str(HAPROXY), "-W", "-f", str(cfg), "-p", str(pid)], folder / "log"):
        yield server
