"""The fault proxy in its own process, and its control port."""

import json
import pathlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.e2e import pebble
from tests.patience import LIMIT
from tests.servers import serving

PROJECT = pathlib.Path(__file__).resolve().parents[2]


@dataclass
class Proxy:
    """The URLs of a running proxy, and its counts."""

    directory_url: str
    control_url: str

    def __post_init__(self) -> None:
        self.session = requests.Session()
        self.session.trust_env = False

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return "https://" + urlsplit(self.directory_url).netloc

    def change(self, **document: Any) -> None:
        """Set faults, windows or limits. Raise AssertionError when the proxy refuses them."""
        self._call("POST", "", document)

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The rules in force."""
        return self._call("GET")["faults"]

    @property
    def tally(self) -> dict[str, Any]:
        return self._call("GET")["tally"]

    @property
    def judged(self) -> list[dict[str, Any]]:
        """Every newOrder that was accepted or refused by the proxy."""
        return self._call("GET", "/orders")["orders"]

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """Return the orders that the CA accepted, the earliest first."""
        return sorted((each for each in self.judged if each["url"]), key=lambda each: each["at"])

    def _call(self, method: str, path: str = "", document: Any = None) -> Any:
        answer = self.session.request(method, self.control_url + path, json=document, timeout=LIMIT)
        assert answer.ok, answer.text
        return answer.json()


@contextmanager
def running(
    folder: pathlib.Path, upstream: str, certificate: str, key: str, **config: Any
) -> Iterator[Proxy]:
    """Start the proxy for a CA's directory. `config` has members of `lab.faultproxy.Config`."""
    ports = pebble.free_ports("listen", "control")
    places = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    document = {
        **places,
        "upstream": upstream,
        "certificate": certificate,
        "key": key,
        "ca": certificate,
        **config,
    }
    (folder / "faultproxy.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "lab.faultproxy", "--config", str(folder / "faultproxy.json")]
    proxy = Proxy(
        f"https://localhost:{ports['listen']}{urlsplit(upstream).path}",
        f"http://127.0.0.1:{ports['control']}/_faults",
    )
    port = ports["control"]
    with serving(command, port, folder / "faultproxy.log", lambda: _is_up(proxy), cwd=PROJECT):
        yield proxy


def before(lab: pebble.Pebble, **config: Any) -> AbstractContextManager[Proxy]:
    """A proxy in front of a running Pebble, with the lab's TLS certificate.

    The lab's zone is a public suffix.
    """
    pem = str(lab.folder / "tls.pem")
    key = str(lab.folder / "tls.key")
    return running(lab.folder, lab.directory_url, pem, key, suffixes=[lab.zone], **config)


def _is_up(proxy: Proxy) -> bool:
    try:
        proxy.change()
    except requests.ConnectionError:
        return False
    return True
