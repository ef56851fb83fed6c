"""A real nginx with the lines of the guide, on a free port."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certctrl.supervisor import bound_to
from lab.ca import PROJECT
from tests.standalone.starting import free_port, until

PROGRAM = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
AROUND = """
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
def nginx(folder: Path, lines: str, web: int) -> Iterator[str]:
    """Start nginx with the guide's lines before a web process. Return the origin for browsers."""
    folder.mkdir()
    port = free_port()
    make_certificate(folder / "certificate.pem", folder / "key.pem")
    lines = replaced(lines, "server 127.0.0.1:8080;", f"server 127.0.0.1:{web};")
    lines = replaced(lines, "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    lines = replaced(lines, "/etc/ssl/certs.example.com.pem", str(folder / "certificate.pem"))
    lines = replaced(lines, "/etc/ssl/certs.example.com.key", str(folder / "key.pem"))
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user, lines=lines))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "-c", folder / "nginx.conf", "-p", folder, "-e", "stderr"],
            stdout=log,
            stderr=log,
            preexec_fn=bound_to(os.getpid()),
        )
    try:
        until(lambda: process.poll() is not None or listens(port), "nginx listens")
        assert process.poll() is None, (folder / "log").read_text()
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def make_certificate(chain: Path, key_file: Path) -> None:
    """Make a self-signed certificate for localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    )
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(
        now - timedelta(days=1)
    )
    builder = builder.not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    chain.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
