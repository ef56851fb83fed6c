"""A device from the text of the protocol: the standard library and PyNaCl, no code of the server.

    python device.py URL FOLDER COUNT

It enrols, polls for signals, fetches what they name, opens each key, and lets OpenSSL compare it
with its certificate. It writes one JSON object on a line for each thing that it did. The key files
are in FOLDER. It ends after COUNT keys.
"""

import base64
import hashlib
import json
import pathlib
import ssl
import sys
import threading
import urllib.error
import urllib.request
import uuid
from typing import Any

from nacl.bindings import crypto_aead_aes256gcm_decrypt
from nacl.public import PrivateKey, SealedBox  # noqa: TID251

PATIENCE = 60  # requests


class Device:
    def __init__(self, url: str, folder: pathlib.Path) -> None:
        self.url = url
        self.folder = folder
        self.key = PrivateKey.generate()
        self.public_id = str(uuid.uuid4())
        self.token = ""
        self.cursor = ""

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, Any]:
        """Return status, JSON body and headers. An error is a status too."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.cursor and "/updates" in path:
            headers["If-None-Match"] = f'"{self.cursor}"'
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(asked, timeout=60) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None, answer.headers
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read()), error.headers

    def enrol(self) -> None:
        """Get a code, wait for a person, and register (protocol, section 2)."""
        start = {"action": "device_start", "scopes": ["openid"], "interval": 1, "expires_in": 600}
        _, answer, _ = self.call("POST", "/auth/device", start)
        data = answer["data"]
        say(user_code=data["user_code"])
        poll = {"action": "device_poll", "device_code": data["device_code"]}
        for _ in range(PATIENCE):
            _, answer, _ = self.call("POST", "/auth/device", poll)
            if answer["data"]["status"] == "ready":
                break
            threading.Event().wait(data["interval"])  # passes time
        ready = answer["data"]
        body = {
            "user_id": ready["user_id"],
            "device_public_id": self.public_id,
            "registration_code": ready["registration_code"],
            "dev_pk": base64.b64encode(bytes(self.key.public_key)).decode(),
            "platform": "linux",
            "model": "x86_64",
            "app_version": "1.0.0",
            "name": "a script",
            "ip": "unknown",
            "user_agent": "script/1",
        }
        _, answer, _ = self.call("POST", "/apiv1/device/registration", body)
        self.token = answer["data"]["session"]["access_token"]
        say(device_id=answer["data"]["device"]["id"])

    def signals(self) -> list[dict[str, Any]]:
        """Return the signals after the cursor (section 7)."""
        status, answer, headers = self.call("GET", "/apiv1/devices/self/updates?limit=20&wait=5")
        assert status in (200, 204), (status, answer)
        self.cursor = headers["ETag"].strip('"')
        return answer["data"]["signals"] if status == 200 else []

    def fetch(self, cert_id: int) -> None:
        """Fetch a certificate and its key, open the key, and compare them (section 6)."""
        path = f"/apiv1/devices/self/certificates/{cert_id}"
        _, detail, _ = self.call("GET", path)
        status, answer, headers = self.call("GET", f"{path}/deploy-materials")
        assert status == 200, (status, answer)
        assert headers["Cache-Control"] == "no-store"
        bundle, pem = answer["data"], detail["data"]["cert"]
        der = self.opened(bundle)
        files = self.folder / f"{cert_id}.pem", self.folder / f"{cert_id}.key"
        files[0].write_text(pem)
        files[1].write_text(
            "-----BEGIN PRIVATE KEY-----\n"
            + base64.encodebytes(der).decode()
            + "-----END PRIVATE KEY-----\n"
        )
        ssl.create_default_context().load_cert_chain(*files)  # refuses a key that does not match
        say(cert_id=cert_id, serial=detail["data"]["serial_number"], form=bundle["enc_scheme"])

    def opened(self, bundle: dict[str, str]) -> bytes:
        if bundle["enc_scheme"] == "plaintext":
            return base64.b64decode(bundle["private_key_der_b64"])
        own = hashlib.blake2b(bytes(self.key.public_key), digest_size=32).digest()
        assert base64.b64decode(bundle["device_keyfp_b64"]) == own
        data_key = SealedBox(self.key).decrypt(base64.b64decode(bundle["enc_data_key_b64"]))
        sealed = base64.b64decode(bundle["enc_privkey_b64"])
        tag = base64.b64decode(bundle["privkey_tag_b64"])
        nonce = base64.b64decode(bundle["privkey_nonce_b64"])
        return bytes(crypto_aead_aes256gcm_decrypt(sealed + tag, None, nonce, data_key))


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def main(url: str, folder: str, count: str) -> None:
    device = Device(url, pathlib.Path(folder))
    device.enrol()
    left = int(count)
    for _ in range(PATIENCE):
        for signal in device.signals():
            if signal["type"] == "cert.updated":
                device.fetch(signal["ref"]["cert_id"])
                left -= 1
        if left <= 0:
            return
    sys.exit(f"{left} keys did not come")


if __name__ == "__main__":
    main(*sys.argv[1:])
