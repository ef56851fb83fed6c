"""Recognise the servers of this machine, and propose a plan for each site that has TLS."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from certctrl_agent.commands import PATH

SECONDS = 20
ANY = ("", "*", "0.0.0.0", "::", "[::]", "_default_")  # noqa: S104
FULL, KEY, CHAIN = "fullchain.pem", "private.key", "chain.pem"


@dataclass(frozen=True)
class Site:
    """A name with its files, and where it is served. `files` are pairs of content and target."""

    server: str
    name: str
    files: tuple[tuple[str, str], ...]
    address: str
    port: int


@dataclass(frozen=True)
class Program:
    """A server that is installed. `configuration` is its text."""

    name: str
    test: tuple[str, ...]
    reload: tuple[str, ...]
    configuration: str
    folder: Path  # that relative paths of the configuration begin at

    def sites(self) -> list[Site]:
        found = {"nginx": nginx, "apache": apache, "haproxy": haproxy, "caddy": caddy}[self.name]
        return list(dict.fromkeys(found(self.configuration, self.folder)))


def programs(root: Path = Path("/")) -> Iterator[Program]:
    """Yield the servers whose program and configuration are on this machine."""
    again: tuple[str, ...]
    test: tuple[str, ...]
    with_systemd = (root / "run/systemd/system").is_dir()

    def reload(unit: str, *otherwise: str) -> tuple[str, ...]:
        return ("systemctl", "reload", unit) if with_systemd else otherwise

    etc = root / "etc"
    if shutil.which("nginx", path=PATH) and (etc / "nginx/nginx.conf").exists():
        again = reload("nginx", "nginx", "-s", "reload")
        text = printed("nginx", "-T") or all_of(etc / "nginx", "**/*")
        yield Program("nginx", ("nginx", "-t"), again, text, etc / "nginx")
    for name, program in (("apache2", "apache2ctl"), ("httpd", "apachectl")):
        if shutil.which(program, path=PATH) and (etc / name).is_dir():
            again = reload(name, program, "graceful")
            text = all_of(etc / name, "sites-enabled/*") + all_of(etc / name, "conf*/*.conf")
            yield Program("apache", (program, "configtest"), again, text, etc / name)
    if shutil.which("haproxy", path=PATH) and (file := etc / "haproxy/haproxy.cfg").exists():
        again = reload("haproxy", "service", "haproxy", "reload")
        test = ("haproxy", "-c", "-f", str(file))
        yield Program("haproxy", test, again, readable(file), file.parent)
    if shutil.which("caddy", path=PATH) and (file := etc / "caddy/Caddyfile").exists():
        # Without --force, Caddy does not read the files again when its configuration is the same.
        again = ("caddy", "reload", "--force", "--config", str(file))
        test = ("caddy", "validate", "--config", str(file))
        yield Program("caddy", test, again, readable(file), file.parent)


def printed(*command: str) -> str:
    """Return what a command prints, or "" when it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=SECONDS,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def all_of(folder: Path, pattern: str) -> str:
    return "\n".join(readable(path) for path in sorted(folder.glob(pattern)) if path.is_file())


def readable(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# --- Configurations ---


def nginx(text: str, folder: Path) -> Iterator[Site]:
    for block in nginx_servers(text):
        chain, key = block.get("ssl_certificate"), block.get("ssl_certificate_key")
        listens = [words for words in block.get("listen", []) if "ssl" in words[1:]]
        if not chain or not key or not listens or "$" in chain[0][0] + key[0][0]:
            continue
        address, port = split_address(listens[0][0], 443)
        names = block.get("server_name", [[""]])[0]
        targets = ((FULL, absolute(chain[0][0], folder)), (KEY, absolute(key[0][0], folder)))
        yield Site("nginx", plain_name(names), targets, address, port)


def nginx_servers(text: str) -> Iterator[dict[str, list[list[str]]]]:
    """Yield the directives of each `server` block: their arguments by their names."""
    token = re.compile(r'#[^\n]*|"((?:\\.|[^"\\])*)"|\'((?:\\.|[^\'\\])*)\'|([{};])|([^\s{};]+)')
    stack: list[tuple[str, dict[str, list[list[str]]]]] = []
    words: list[str] = []
    for found in token.finditer(text):
        quoted = found[1] if found[1] is not None else found[2]
        match found[3]:
            case "{":
                stack.append((words[0] if words else "", {}))
                words = []
            case "}":
                name, block = stack.pop() if stack else ("", {})
                words = []
                if name == "server":
                    yield block
            case ";":
                if words and stack:
                    stack[-1][1].setdefault(words[0], []).append(words[1:] or [""])
                words = []
            case _ if quoted is not None:
                words.append(quoted)
            case _ if found[4]:
                words.append(found[4])


def apache(text: str, folder: Path) -> Iterator[Site]:
    hosts = re.finditer(r"<VirtualHost\s+([^>]+)>(.*?)</VirtualHost>", text, re.S | re.I)
    for host in hosts:
        directives = {
            found[1].lower(): found[2].strip().strip('"')
            for found in re.finditer(r"^[ \t]*(\w+)[ \t]+(.*?)[ \t]*$", host[2], re.M)
        }
        chain, key = directives.get("sslcertificatefile"), directives.get("sslcertificatekeyfile")
        if not chain or not key:
            continue
        address, port = split_address(host[1].split()[0], 443)
        targets = [(FULL, absolute(chain, folder)), (KEY, absolute(key, folder))]
        if issuers := directives.get("sslcertificatechainfile"):
            targets[0] = ("certificate.pem", targets[0][1])
            targets.append((CHAIN, absolute(issuers, folder)))
        name = plain_name([directives.get("servername", "").rpartition("://")[2].split(":")[0]])
        yield Site("apache", name, tuple(targets), address, port)


def haproxy(text: str, folder: Path) -> Iterator[Site]:
    """HAProxy reads the key of `site.pem` from `site.pem.key`."""
    for found in re.finditer(r"^[ \t]*bind[ \t]+(\S+)[ \t]+(.*\bcrt[ \t]+(\S+).*)$", text, re.M):
        address, port = split_address(found[1].split(",")[0], 443)
        chain = absolute(found[3], folder)
        if "ssl" not in found[2].split() or Path(chain).is_dir():
            continue
        yield Site("haproxy", "", ((FULL, chain), (KEY, f"{chain}.key")), address, port)


def caddy(text: str, folder: Path) -> Iterator[Site]:
    for found in re.finditer(r"^([^\s#{][^{\n]*)\{(.*?)^\}", text, re.S | re.M):
        files = re.search(r"^[ \t]*tls[ \t]+(\S+)[ \t]+(\S+)[ \t]*$", found[2], re.M)
        if not files:
            continue
        first = found[1].split(",")[0].strip().removeprefix("https://")
        name, _, port = first.partition(":")
        number = int(port) if port.isdigit() else 443
        targets = ((FULL, absolute(files[1], folder)), (KEY, absolute(files[2], folder)))
        yield Site("caddy", plain_name([name]), targets, "127.0.0.1", number)


def absolute(path: str, folder: Path) -> str:
    return str(folder / path)


def plain_name(names: list[str]) -> str:
    """Return the first name that a client can ask for, or ""."""
    usable = (name for name in names if name not in ("", "_") and not set(name) & set("*~^$"))
    return next(usable, "")


def split_address(text: str, port: int) -> tuple[str, int]:
    """Return the address and the port of `443`, `*:443`, `10.0.0.1:443` or `[::1]:443`."""
    if text.isdigit():
        return "127.0.0.1", int(text)
    address, colon, number = text.rpartition(":")
    if not colon or not number.isdigit():
        address, number = text, str(port)
    return ("127.0.0.1" if address in ANY else address.strip("[]")), int(number)


# --- The plan ---


def proposal(program: Program, sites: list[Site], certificate: int) -> dict[str, Any]:
    """Return the body of a PUT of `install-config` for these sites of one program."""
    copies = dict[tuple[tuple[str, str], ...], dict[str, Any]]()
    for site in sites:
        verify = {"type": "tls", "address": site.address, "port": site.port}
        copies.setdefault(
            site.files,
            {
                "id": f"copy-{program.name}-{len(copies) + 1}",
                "type": "copy",
                "ob_type": "cert",
                "ob_id": certificate,
                "from": [name for name, _ in site.files],
                "to": [target for _, target in site.files],
                "verify": verify | ({"sni": site.name} if site.name else {}),
            },
        )
    ids = [copy["id"] for copy in copies.values()]
    test = {
        "id": f"test-{program.name}",
        "type": "exec",
        "tags": ["test"],
        "depends_on": ids,
        "cmd_argv": list(program.test),
    }
    reload = {
        "id": f"reload-{program.name}",
        "type": "exec",
        "tags": ["reload"],
        "depends_on": [test["id"]],
        "cmd_argv": list(program.reload),
    }
    return {"installs": [*copies.values(), test, reload]}
