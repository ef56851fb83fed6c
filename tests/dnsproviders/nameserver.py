"""Real name servers on loopback, with a key that may update a zone: Debian's knot, bind9,
pdns-server and nsd.
"""

import shutil
import sqlite3
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

from dnsproviders.providers.rfc2136 import RFC2136
from tests.dnsproviders.making import provider_of
from tests.patience import LIMIT
from tests.servers import free_port, serving

KEY_NAME = "certctrl.key"
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
WRONG = "BBECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PACKAGES = {
    "knotd": "knot",
    "named": "bind9",
    "pdns_server": "pdns-server pdns-backend-sqlite3",
    "nsd": "nsd",
}
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
options {{ directory "{home}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
           recursion no; pid-file none; session-keyfile none; }};
controls {{ }};
zone "lab.test" {{ type primary; file "lab.zone";
                   update-policy {{ grant {key} subdomain lab.test. TXT; }}; }};
zone "deep.lab.test" {{ type primary; file "deep.zone";
                        update-policy {{ grant {key} zonesub TXT; }}; }};
"""
# BIND that serves the key only, and 127.0.0.2, from which the test asks.
BIND_WITHOUT_QUERIES = """
key "{key}" {{ algorithm hmac-sha256; secret "{secret}"; }};
options {{ directory "{home}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
           recursion no; pid-file none; session-keyfile none;
           allow-query {{ key {key}; 127.0.0.2; }}; }};
controls {{ }};
zone "lab.test" {{ type primary; file "lab.zone"; allow-update {{ key {key}; }}; }};
zone "deep.lab.test" {{ type primary; file "deep.zone"; allow-update {{ key {key}; }}; }};
"""
BIND_BY_ADDRESS = """
options {{ directory "{home}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
           recursion no; pid-file none; session-keyfile none; }};
controls {{ }};
zone "lab.test" {{ type primary; file "lab.zone"; allow-update {{ 127.0.0.1; }}; }};
zone "deep.lab.test" {{ type primary; file "deep.zone"; allow-update {{ 127.0.0.2; }}; }};
"""
# The key's view has another lab.test than everybody's, and no deep.lab.test.
BIND_VIEWS = """
key "{key}" {{ algorithm hmac-sha256; secret "{secret}"; }};
options {{ directory "{home}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
           recursion no; pid-file none; session-keyfile none; }};
controls {{ }};
view "inside" {{ match-clients {{ key {key}; }};
  zone "lab.test" {{ type primary; file "inside.zone"; allow-update {{ key {key}; }}; }}; }};
view "outside" {{ match-clients {{ any; }};
  zone "lab.test" {{ type primary; file "lab.zone"; }};
  zone "deep.lab.test" {{ type primary; file "deep.zone"; }};
  zone "other.test" {{ type primary; file "other.zone"; }}; }};
"""
PDNS = """
launch=gsqlite3
gsqlite3-database={home}/pdns.sqlite
local-address=127.0.0.1
local-port={port}
socket-dir={home}
setuid=
setgid=
daemon=no
guardian=no
dnsupdate=yes
allow-dnsupdate-from=127.0.0.0/8
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
"""
NSD = """
server:
    ip-address: 127.0.0.1@{port}
    username: ""
    zonesdir: "{home}"
    database: ""
    pidfile: "{home}/nsd.pid"
    xfrdfile: "{home}/xfrd.state"
    xfrdir: "{home}"
    zonelistfile: "{home}/zone.list"
    server-count: 1
remote-control:
    control-enable: no
zone:
    name: lab.test
    zonefile: lab.zone
zone:
    name: deep.lab.test
    zonefile: deep.zone
"""
CONFIGS = {"knotd": KNOT, "named": BIND, "pdns_server": PDNS, "nsd": NSD}
COMMANDS = {
    "knotd": ["-c", "{config}"],
    "named": ["-g", "-c", "{config}"],
    "pdns_server": ["--config-dir={home}", "--config-name="],
    "nsd": ["-d", "-c", "{config}"],
}
PATH = "/usr/sbin:/usr/local/sbin:/usr/bin"
SCHEMA = Path("/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql")


@dataclass
class NameServer:
    kind: str
    port: int

    def provider(self, secret: str = SECRET, key_name: str = KEY_NAME, **public: Any) -> RFC2136:
        place = {"server": "127.0.0.1", "port": self.port, "algorithm": "hmac-sha256"} | public
        key = {"key_name": key_name} if key_name else {}
        found: RFC2136 = provider_of(
            RFC2136, {"secret": secret} if key_name else {}, **key, **place
        )
        return found

    def txt(self, name: str, source: str = "127.0.0.1") -> set[str]:
        """Return the values at a name, asked without a key."""
        query = dns.message.make_query(name, "TXT")
        answer = dns.query.tcp(query, "127.0.0.1", timeout=LIMIT, port=self.port, source=source)
        rrsets = [each for each in answer.answer if each.rdtype == dns.rdatatype.TXT]
        return {b"".join(rdata.strings).decode() for each in rrsets for rdata in each}


@contextmanager
def running(
    kind: str, home: Path, config_text: str = "", source: str = "127.0.0.1"
) -> Iterator[NameServer]:
    """Start a name server in its own folder. Skip the test when its package is missing."""
    binary = shutil.which(kind, path=PATH)
    if not binary:
        pytest.skip(f"{kind} is absent: apt-get install {PACKAGES[kind]}")
    port = free_port()
    (home / "lab.zone").write_text(ZONE_FILE)
    (home / "deep.zone").write_text(ZONE_FILE.replace("lab.test.", "deep.lab.test."))
    (home / "other.zone").write_text(ZONE_FILE.replace("lab.test.", "other.test."))
    (home / "inside.zone").write_text(
        ZONE_FILE.replace("SOA ns1 hostmaster", "SOA inside hostmaster")
    )
    config = home / ("pdns.conf" if kind == "pdns_server" else f"{kind}.conf")
    config.write_text(
        (config_text or CONFIGS[kind]).format(port=port, home=home, key=KEY_NAME, secret=SECRET)
    )
    if kind == "pdns_server":
        _fill_powerdns(home)
    command = [each.format(config=config, home=home) for each in COMMANDS[kind]]

    def ready() -> bool:
        return all(_serves(port, zone, source) for zone in ("lab.test", "deep.lab.test"))

    with serving([binary, *command], port, home / "log", ready, cwd=home):
        yield NameServer(kind, port)


def _fill_powerdns(home: Path) -> None:
    """Create the two zones, and the key that may update them."""
    with sqlite3.connect(home / "pdns.sqlite") as database:
        database.executescript(SCHEMA.read_text())
    for zone, file in (("lab.test", "lab.zone"), ("deep.lab.test", "deep.zone")):
        _pdnsutil(home, "load-zone", zone, str(home / file))
        _pdnsutil(home, "set-meta", zone, "TSIG-ALLOW-DNSUPDATE", KEY_NAME)
    for name in (KEY_NAME, "readonly.key"):
        _pdnsutil(home, "import-tsig-key", name, "hmac-sha256", SECRET)


def _pdnsutil(home: Path, *words: str) -> None:
    subprocess.run(
        ["pdnsutil", f"--config-dir={home}", *words],
        check=True,
        capture_output=True,
        env={"PATH": PATH},
    )


def _serves(port: int, zone: str, source: str) -> bool:
    query = dns.message.make_query(zone, "SOA")
    try:
        answer = dns.query.tcp(query, "127.0.0.1", timeout=1, port=port, source=source)
    except (OSError, EOFError, dns.exception.Timeout):
        return False
    return bool(answer.answer)
