"""The surroundings of the guide on loopback: Cloudflare, Let's Encrypt, and a client."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.tsig
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lab.ca import PROJECT
from lab.nameserver import NameServer
from lab.zones import apex
from tests.fakes.cloudflare import Cloudflare, Primary
from tests.patience import LIMIT, until
from tests.servers import free_port, serving

DOMAIN = "example.com"
OTHER = "lab.test"
ZONE_ID = "023e105f4ecef8ad9ca31a8372d0c353"
TOKEN = "v1.0-only-for-this-test-0123456789"
EMAIL = "reader@example.com"
PASSWORD = "Correct-horse-1"
TSIG_SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@dataclass
class Outside:
    """The servers that certctrl calls: name server, CA, Cloudflare."""

    folder: Path
    dns: NameServer
    ca_port: int
    cloudflare: Cloudflare

    def settings(self, **more: str) -> dict[str, str]:
        """Return the two base URLs, their trust settings, and settings for short turns."""
        directory = f"https://127.0.0.1:{self.ca_port}/directory"
        return {
            "LAB": "0",
            "ADMIN_EMAIL": EMAIL,
            "ADMIN_PASSWORD": PASSWORD,
            "ACME_CAS": json.dumps({"letsencrypt": {"directory_url": directory}}),
            "CLOUDFLARE_API_URL": self.cloudflare.url,
            "ALLOW_PRIVATE": "127.0.0.1",
            "ACME_CA_BUNDLE": str(self.root_path),
            "DNS_RESOLVERS": "127.0.0.1",
            "DNS_PORT": str(self.dns.port),
            "LEASE": "12",
            "TURN": "5",
            "RESEND": "4",
            **more,
        }

    @property
    def root_path(self) -> Path:
        return self.folder / "lab-root.pem"

    def issued(self) -> int:
        """Return how many certificates the CA has signed."""
        return len(list((self.folder / "issued").iterdir()))


@contextmanager
def outside(folder: Path) -> Iterator[Outside]:
    """Run a name server for both zones, the lab's CA and the fake Cloudflare."""
    key = dns.tsig.Key("lab", TSIG_SECRET, "hmac-sha256")
    with NameServer({zone: apex() for zone in (DOMAIN, OTHER)}, [key]) as names:
        zones = {ZONE_ID: DOMAIN, "372e67954025e0ba6aaa6d586b9e0b59": OTHER}
        with Cloudflare(zones, TOKEN, Primary(names.port, key), most_per_page=2) as cloudflare:
            port = free_port()
            run = [sys.executable, "-m", "lab.ca", "--data", str(folder)]
            run += ["--listen", f"127.0.0.1:{port}", "--resolver", f"127.0.0.1:{names.port}"]
            root = folder / "lab-root.pem"
            with serving(
                run, port, folder.with_suffix(".log"), lambda: accepts(port, root), cwd=PROJECT
            ):
                yield Outside(folder, names, port, cloudflare)


def accepts(port: int, root: Path) -> bool:
    try:
        return requests.request(
            "GET", f"https://127.0.0.1:{port}/directory", verify=str(root), timeout=LIMIT
        ).ok
    except (requests.RequestException, OSError):
        return False


class Reader:
    """Send the guide's calls unchanged, with the cookie of the login."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.session = requests.Session()
        self.session.trust_env = False
        answer = self.call(
            "POST", "/auth/general", {"action": "login", "email": EMAIL, "password": PASSWORD}
        )
        self.user_id = answer["user"]["id"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the member `data` of a success."""
        answer = self.raw(method, path, body)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()["data"]

    def raw(self, method: str, path: str, body: Any = None) -> requests.Response:
        return self.session.request(method, self.address + path, json=body, timeout=LIMIT)

    def mine(self, method: str, path: str, body: Any = None) -> Any:
        return self.call(method, f"/apiv1/users/{self.user_id}/{path}", body)

    def three_calls(self, **besides: Any) -> dict[str, Any]:
        """Create the guide's credential, account and certificate. Return the certificate."""
        credential = {"provider": "cloudflare", "api_token": TOKEN, "zone_id": ZONE_ID}
        account = {"ca_provider": "letsencrypt", "email": EMAIL, "terms_accepted": True}
        certificate = {
            "domain": DOMAIN,
            "sans": [f"*.{DOMAIN}"],
            "dns_provider_id": self.mine("POST", "dns-providers", credential)["id"],
            "acme_account_id": self.mine("POST", "acme-accounts", account)["id"],
            "auto_renew": True,
            "renew_days_before": 30,
            "key_type": "ecdsa",
            "key_size": 256,
        }
        made: dict[str, Any] = self.mine("POST", "certificates", certificate | besides)
        return made

    def until_success(self, certificate_id: int, attempt: int) -> dict[str, Any]:
        """Poll issue-result as the guide says. Return the last response."""
        path = f"certificates/{certificate_id}/issue-result?issue_history_id={attempt}"
        until(lambda: self.mine("GET", path)["status"] in {"SUCCESS", "FAILED", "CANCELLED"}, path)
        result: dict[str, Any] = self.mine("GET", path)
        assert result["status"] == "SUCCESS", result
        return result


def verified(pem: str, root: Path) -> x509.Certificate:
    """Return the leaf of a chain, checked with `openssl verify`."""
    chain = root.with_name("to-verify.pem")
    chain.write_text(pem)
    run = ["openssl", "verify", "-CAfile", str(root), "-untrusted", str(chain), str(chain)]
    said = subprocess.run(run, capture_output=True, text=True, check=False)
    assert said.stdout.strip().endswith("OK"), said.stdout + said.stderr
    return x509.load_pem_x509_certificate(pem.encode())


def names_of(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


def public_bytes(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded: bytes = key.public_bytes(serialization.Encoding.DER, form)
    return encoded
