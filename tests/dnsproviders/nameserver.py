"""Real name servers on loopback, with a key that may update one zone: Debian's knot and bind9."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import dns.tsig
import pytest

from certctrl import clock
from dnsproviders.rfc2136 import RFC2136
from tests.dnsproviders.making import provider_of

KEY_NAME = "certctrl.key"
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
WRONG = "BBECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PACKAGES = {"knotd": "knot", "named": "bind9"}
ZONE_FILE = """$ORIGIN lab.test.
$TTL 60
@ SOA ns1 hostmaster 1 3600 600 86400 60
@ NS ns1
ns1 A 127.0.0.1
elsewhere NS ns.elsewhere.test.
"""
KNOT = """
server:
    listen: 127.0.0.1@{port}
    rundir: {home}
log:
  - target: stderr
    any: warning
database:
    storage: {home}
key:
  - id: {key}
    algorithm: hmac-sha256
    secret: {secret}
  - id: readonly.key
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: update
    key: {key}
    action: update
template:
  - id: default
    storage: {home}
    zonefile-sync: -1
    journal-content: none
    acl: update
zone:
  - domain: lab.test
    file: lab.zone
  - domain: deep.lab.test
    file: deep.zone
"""
BIND = """
key "{key}" {{ algorithm hmac-sha256; secret "{secret}"; }};
key "readonly.key" {{ algorithm hmac-sha256; secret "{secret}"; }};
options {{ directory "{home}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no;
           pid-file none; session-keyfile none; }};
controls {{ }};
zone "lab.test" {{ type primary; file "lab.zone"; update-policy {{ grant {key} subdomain lab.test. TXT; }}; }};
zone "deep.lab.test" {{ type primary; file "deep.zone"; update-policy {{ grant {key} zonesub TXT; }}; }};
"""
COMMANDS = {"knotd": ["-c"], "named": ["-g", "-c"]}


@dataclass
class NameServer:
    kind: str
    port: int

    def provider(self, secret: str = SECRET, key_name: str = KEY_NAME, **public: Any) -> RFC2136:
        place = {"server": "127.0.0.1", "port": self.port, "algorithm": "hmac-sha256"} | public
        found: RFC2136 = provider_of(RFC2136, {"secret": secret}, key_name=key_name, **place)
        return found

    def txt(self, name: str) -> set[str]:
        """The values at a name, asked without a key as everybody asks."""
        answer = dns.query.tcp(dns.message.make_query(name, "TXT"), "127.0.0.1", timeout=5, port=self.port)
        rrsets = [each for each in answer.answer if each.rdtype == dns.rdatatype.TXT]
        return {b"".join(rdata.strings).decode() for each in rrsets for rdata in each}


@contextmanager
def running(kind: str, home: Path) -> Iterator[NameServer]:
    """Start knotd or named in a folder of its own; skips the test where the package is absent."""
    binary = shutil.which(kind, path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if not binary:
        pytest.skip(f"{kind} is absent: apt-get install {PACKAGES[kind]}")
    port = free_port()
    (home / "lab.zone").write_text(ZONE_FILE)
    (home / "deep.zone").write_text(ZONE_FILE.replace("lab.test.", "deep.lab.test."))
    config = home / f"{kind}.conf"
    text = {"knotd": KNOT, "named": BIND}[kind]
    config.write_text(text.format(port=port, home=home, key=KEY_NAME, secret=SECRET))
    with (home / "log").open("w") as log:
        process = subprocess.Popen([binary, *COMMANDS[kind], str(config)], stdout=log, stderr=log, cwd=home)
        try:
            _wait_for(process, port, home / "log")
            yield NameServer(kind, port)
        finally:
            process.terminate()
            process.wait(20)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until both zones are served."""
    end = clock.monotonic() + 30
    while clock.monotonic() < end:
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            if all(_serves(port, zone) for zone in ("lab.test", "deep.lab.test")):
                return
        else:
            break
    pytest.fail(f"the name server did not start: {log.read_text()[-2000:]}")


def _serves(port: int, zone: str) -> bool:
    try:
        answer = dns.query.tcp(dns.message.make_query(zone, "SOA"), "127.0.0.1", timeout=1, port=port)
    except (OSError, EOFError, dns.exception.Timeout):
        return False
    return bool(answer.answer)
