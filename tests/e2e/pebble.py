"""Debian's Pebble, a strict ACME CA, with a real name server on loopback.

haproxy sends one request at a time to Pebble, because this old version deadlocks under parallel
clients.
"""

import base64
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import dns.name
import dns.query
import dns.rdatatype
import dns.resolver
import dns.tsigkeyring
import dns.update
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.patience import LIMIT

PROGRAMS = {"pebble": "pebble", "named": "bind9", "haproxy": "haproxy"}
ZONE = "pebble.test"
ALGORITHM = "hmac-sha256"


def missing() -> str:
    """Return the Debian packages that Pebble needs and that are not installed, or ""."""
    return " ".join(
        package for program, package in PROGRAMS.items() if not shutil.which(program, path=path())
    )


def path() -> str:
    """Return a PATH with the folders of daemons, which an ordinary user's PATH omits."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


@dataclass
class Pebble:
    """How to use a running lab. The zone accepts TXT updates by RFC 2136 with the TSIG key."""

    folder: pathlib.Path
    zone: str = ZONE
    key_name: str = "labkey"
    secret: str = field(
        default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode(), repr=False
    )
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def directory_url(self) -> str:
        return f"https://localhost:{self.ports['gate']}/dir"

    @property
    def ca_bundle(self) -> str:
        """Return the value of ACME_CA_BUNDLE for this server's TLS certificate."""
        return str(self.folder / "tls.pem")

    def root_pem(self) -> str:
        """Return the root of Pebble's certificates. Pebble makes another one at each start."""
        context = ssl.create_default_context(cafile=self.ca_bundle)
        url = f"https://localhost:{self.ports['management']}/roots/0"
        with urllib.request.urlopen(url, context=context, timeout=LIMIT) as answer:
            return answer.read().decode()

    # --- the zone ---

    def publish(self, name: str, value: str) -> None:
        self._update(lambda update, owner: update.add(owner, 60, "TXT", f'"{value}"'), name)

    def withdraw(self, name: str, value: str) -> None:
        self._update(lambda update, owner: update.delete(owner, "TXT", f'"{value}"'), name)

    def txt(self, name: str) -> set[str]:
        """The TXT values at a name."""
        query = dns.message.make_query(name, "TXT")
        answer = dns.query.tcp(query, "127.0.0.1", port=self.ports["dns"], timeout=LIMIT)
        return {b"".join(each.strings).decode() for rrset in answer.answer for each in rrset}

    def left_over(self) -> dict[str, set[str]]:
        """Return every TXT record in the zone, by a zone transfer."""
        found: dict[str, set[str]] = {}
        keyring = dns.tsigkeyring.from_text({self.key_name: self.secret})
        transfer = dns.query.xfr(
            "127.0.0.1",
            self.zone,
            port=self.ports["dns"],
            keyring=keyring,
            keyalgorithm=ALGORITHM,
            timeout=LIMIT,
        )
        for message in transfer:
            for rrset in message.answer:
                if rrset.rdtype == dns.rdatatype.TXT:
                    values = {b"".join(each.strings).decode() for each in rrset}
                    found.setdefault(rrset.name.to_text(), set()).update(values)
        return found

    def _update(
        self, change: Callable[[dns.update.UpdateMessage, dns.name.Name], None], name: str
    ) -> None:
        keyring = dns.tsigkeyring.from_text({self.key_name: self.secret})
        update = dns.update.UpdateMessage(self.zone, keyring=keyring, keyalgorithm=ALGORITHM)
        change(update, dns.name.from_text(name))
        answer = dns.query.tcp(update, "127.0.0.1", port=self.ports["dns"], timeout=LIMIT)
        assert answer.rcode() == 0, f"the name server answered {answer.rcode()}"

    # --- the processes ---

    def spawn(self, name: str, command: list[str], env: Mapping[str, str] | None = None) -> None:
        program = shutil.which(command[0], path=path())
        assert program
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_for(self, port: int, name: str) -> None:
        """Wait until the port is open. Fail with the end of the log when the process died."""
        pause = threading.Event()
        end = datetime.now(UTC) + timedelta(seconds=LIMIT)
        while datetime.now(UTC) < end and self.processes[name].poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            pause.wait(0.02)
        log = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{name} did not come up: {log}")


@contextmanager
def running(
    folder: pathlib.Path,
    *,
    zone: str = ZONE,
    strict: bool = True,
    nonce_reject: int = 10,
    validation_delay: bool = False,
    authz_reuse: int = 0,
    eab: Mapping[str, str] | None = None,
    retry_after: int = 1,
) -> Iterator[Pebble]:
    """Start everything in `folder`, stop it at the end.

    A request is sent six times at most. When a tenth of all nonces is refused, one request in a
    million fails; when a fifth is, one in 16,000.
    `nonce_reject` and `authz_reuse` are per cent; `eab` maps key ids to base64url HMAC keys and
    makes a binding required. With `authz_reuse` 0, Pebble still gives an account one of a hundred
    valid authorizations again.
    """
    lab = Pebble(folder, zone)
    lab.ports = free_ports("acme", "management", "dns", "gate", "http", "tls")
    _make_tls(folder)
    environment = {"GOMAXPROCS": "1", "PEBBLE_WFE_NONCEREJECT": str(nonce_reject)}
    environment["PEBBLE_AUTHZREUSE"] = str(authz_reuse)
    if not validation_delay:
        environment["PEBBLE_VA_NOSLEEP"] = "1"
    try:
        lab.spawn("dns", _bind(lab))
        lab.spawn("pebble", _pebble(lab, strict, eab, retry_after), environment)
        lab.spawn("gate", _gate(lab))
        for name, port in (("dns", "dns"), ("pebble", "acme"), ("gate", "gate")):
            lab.wait_for(lab.ports[port], name)
        yield lab
    finally:
        lab.stop()


def free_ports(*names: str) -> dict[str, int]:
    sockets = [socket.socket() for _ in names]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return dict(zip(names, ports, strict=True))


def _make_tls(folder: pathlib.Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    now = datetime.now(UTC)
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(own_id, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "tls.pem").write_bytes(pem)
    (folder / "tls.key").write_bytes(private)
    (folder / "gate.pem").write_bytes(pem + private)


def _bind(lab: Pebble) -> list[str]:
    folder = lab.folder / "bind"
    folder.mkdir()
    (folder / "zone").write_text(
        f"$ORIGIN {lab.zone}.\n$TTL 60\n@ SOA ns1 hostmaster 1 3600 600 86400 60\n@ NS ns1\n"
        "ns1 A 127.0.0.1\n* A 127.0.0.1\n"
    )
    config = lab.folder / "named.conf"
    config.write_text(f"""
key "{lab.key_name}" {{ algorithm {ALGORITHM}; secret "{lab.secret}"; }};
options {{
  directory "{folder}"; pid-file "{folder}/named.pid"; session-keyfile "{folder}/session.key";
  listen-on port {lab.ports["dns"]} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  recursion no; dnssec-validation no; notify no; allow-transfer {{ key {lab.key_name}; }};
  empty-zones-enable no; minimal-responses yes;
}};
controls {{ }};
logging {{ channel e {{ stderr; severity warning; }}; category default {{ e; }}; }};
zone "{lab.zone}" {{ type primary; file "zone";
                     update-policy {{ grant {lab.key_name} zonesub TXT; }}; }};
""")
    config.chmod(0o600)
    return ["named", "-f", "-c", str(config), "-n", "1"]


def _pebble(
    lab: Pebble, strict: bool, eab: Mapping[str, str] | None, retry_after: int
) -> list[str]:
    config = lab.folder / "pebble.json"
    listen = {
        "listenAddress": f"127.0.0.1:{lab.ports['acme']}",
        "managementListenAddress": f"127.0.0.1:{lab.ports['management']}",
        "certificate": str(lab.folder / "tls.pem"),
        "privateKey": str(lab.folder / "tls.key"),
    }
    rest = {
        "httpPort": lab.ports["http"],
        "tlsPort": lab.ports["tls"],
        "ocspResponderURL": "",
        "externalAccountBindingRequired": bool(eab),
        "externalAccountMACKeys": dict(eab or {}),
        "domainBlocklist": [f"blocked.{lab.zone}"],
        "retryAfter": {"authz": retry_after, "order": retry_after},
    }
    config.write_text(json.dumps({"pebble": listen | rest}))
    command = ["pebble", "-config", str(config), "-dnsserver", f"127.0.0.1:{lab.ports['dns']}"]
    return [*command, "-strict"] if strict else command


def _gate(lab: Pebble) -> list[str]:
    config = lab.folder / "haproxy.cfg"
    config.write_text(f"""
global
  maxconn 2000
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 120s
  timeout queue 120s
frontend gate
  bind 127.0.0.1:{lab.ports["gate"]} ssl crt {lab.folder}/gate.pem alpn http/1.1
  default_backend pebble
backend pebble
  http-reuse always
  server p 127.0.0.1:{lab.ports["acme"]} ssl verify none maxconn 1
""")
    return ["haproxy", "-db", "-f", str(config)]
