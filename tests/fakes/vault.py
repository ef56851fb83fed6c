"""The transit engine of Vault over HTTP, with keys of the type aes256-gcm96.

It follows https://developer.hashicorp.com/vault/api-docs/secret/transit: paths, members, the form
of a ciphertext, and the texts of its errors.
"""

import base64
import json
import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: TID251

from tests.fakes.httpserver import FakeHTTP, Handler


class VaultHandler(Handler):
    def do_GET(self) -> None:
        token = self.headers.get("X-Vault-Token", "")
        status, content = self.fake.answer(self.command, self.path, token, self.json())
        self.send(status, json.dumps(content).encode())

    do_POST = do_GET


class FakeVault(FakeHTTP):
    """The server. Use it as a context manager.

    `keys` are the attributes of each key. `status` is the status of the next responses, if it is
    set. `seen` has the method, the path and the token of each request.
    """

    handler = VaultHandler

    def __init__(self, token: str = "hvs.a-token") -> None:
        self.token = token
        self.keys: dict[str, dict[str, Any]] = {
            "certctrl": {
                "type": "aes256-gcm96",
                "exportable": False,
                "allow_plaintext_backup": False,
            }
        }
        self.values = {"certctrl": AESGCM.generate_key(256)}
        self.status: int | None = None
        self.seen: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return self.origin

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, Any]:
        self.seen.append((method, path, token))
        if self.status:
            return self.status, {"errors": ["Vault is sealed"] if self.status == 503 else []}
        if token != self.token:
            return 403, {"errors": ["permission denied"]}
        _, version, mount, what, name = path.split("/")
        if (version, mount) != ("v1", "transit") or name not in self.keys:
            return 404, {"errors": []}
        if (method, what) == ("GET", "keys"):
            return 200, {"data": {"name": name} | self.keys[name]}
        value, context = AESGCM(self.values[name]), base64.b64decode(body["associated_data"])
        if (method, what) == ("POST", "encrypt"):
            nonce = os.urandom(12)
            sealed = nonce + value.encrypt(nonce, base64.b64decode(body["plaintext"]), context)
            text = f"vault:v1:{base64.b64encode(sealed).decode()}"
            return 200, {"data": {"ciphertext": text, "key_version": 1}}
        try:
            sealed = base64.b64decode(body["ciphertext"].removeprefix("vault:v1:"), validate=True)
            plain = value.decrypt(sealed[:12], sealed[12:], context)
        except InvalidTag:
            return 400, {"errors": ["cipher: message authentication failed"]}
        except ValueError:
            return 400, {"errors": ["invalid ciphertext: could not decode base64"]}
        return 200, {"data": {"plaintext": base64.b64encode(plain).decode()}}
