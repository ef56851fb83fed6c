"""A device that shares no code with the server, and an attacker who has all of the database."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standalone.embedded import DATABASE_FILE, MASTER_KEY_FILE
from tests.e2e.guide import EMAIL, PASSWORD, Reader
from tests.e2e.processes import PROJECT
from tests.patience import LIMIT
from tests.standalone.starting import Up

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux", reason="processes die with their parent on Linux only"
    ),
]
POLICIES = ("MASTER_ONLY", "HYBRID", "DEVICE_REQUIRED")
FORMS = {"MASTER_ONLY": "plaintext", "HYBRID": "aes256gcm", "DEVICE_REQUIRED": "aes256gcm"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path / "data", ADMIN_EMAIL=EMAIL, ADMIN_PASSWORD=PASSWORD, LAB="0")
    yield up.wait()
    if up.process.poll() is None:
        up.end(signal.SIGKILL)


class Device:
    """The script as a process. `next()` is the next thing that it says."""

    def __init__(self, url: str, folder: Path, keys: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, PROJECT / "tests/e2e/device.py", url, str(folder), str(keys)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def next(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the device ended"
        return dict(json.loads(line))

    def private_key(self, pk: int) -> bytes:
        """Return the secret number of an EC key that the device has written (RFC 5915)."""
        der = base64.b64decode("".join((self.folder / f"{pk}.key").read_text().split("\n")[1:-2]))
        start = der.index(b"\x04\x20") + 2
        return der[start : start + 32]


def test_a_device_opens_what_its_policy_allows_and_a_dump_no_more(server, tmp_path) -> None:
    owner = Reader(server.address)
    device = Device(server.address, tmp_path / "device", keys=2 * len(POLICIES))
    try:
        code = device.next()["user_code"]
        approval = {"action": "device_verify", "user_code": code, "approve": True}
        assert owner.call("POST", "/auth/device", approval) == {"status": "approved"}
        certificates = issued_for(owner, device.next()["device_id"])
        first = opened_by(device)
        for pk in certificates.values():
            owner.mine("POST", f"certificates/{pk}/issues")
        second = opened_by(device)
        assert device.process.wait(LIMIT) == 0
    finally:
        device.process.kill()
    for policy, pk in certificates.items():
        assert first[pk]["form"] == second[pk]["form"] == FORMS[policy]
        assert first[pk]["serial"] != second[pk]["serial"]

    opens: dict[str, list[bool]] = {policy: [] for policy in POLICIES}
    for uuid, found in attacked(server, tmp_path).items():
        assert found["opened_by"] in ([], [uuid]), "a wrap opened another row"
        opens[found["policy"]].append(bool(found["opened_by"]))
    assert opens == {
        "MASTER_ONLY": [True, True],
        "HYBRID": [True, True],
        "DEVICE_REQUIRED": [False, False],
    }
    places = (tmp_path / "data", server.out)
    assert written(EMAIL.encode(), *places), "the search finds texts of the database"
    for pk in certificates.values():
        assert not written(device.private_key(pk), *places)


def issued_for(owner: Reader, device: int) -> dict[str, int]:
    """Issue a certificate of each policy for the device. Return their ids."""
    ca = owner.mine("POST", "cas", {"name": "Home"})["id"]
    account = {"provider": "SELF_CA", "ca_id": ca, "name": "home", "email": EMAIL}
    account_id = owner.mine("POST", "acme-accounts", account)["id"]
    certificates = {}
    for policy in POLICIES:
        body = {
            "domain_name": f"{policy.lower().replace('_', '-')}.example.com",
            "acct_id": account_id,
            "key_dist_policy": policy,
            "server_decrypt_export": policy == "MASTER_ONLY",
        }
        pk = certificates[policy] = owner.mine("POST", "certificates", body)["id"]
        path = f"/apiv1/me/devices/{device}/certificates"
        assigned = owner.raw("POST", path, {"cert_id": pk})
        if policy == "DEVICE_REQUIRED":
            assert assigned.status_code == 202, assigned.text
        else:
            assert assigned.status_code == 204, assigned.text
            owner.mine("POST", f"certificates/{pk}/issues")
    return certificates


def opened_by(device: Device) -> dict[int, dict[str, Any]]:
    """Return what the device says of its next keys, by the id of the certificate."""
    said = [device.next() for _ in POLICIES]
    return {each["cert_id"]: each for each in said}


def attacked(server: Up, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what an attacker opens with a dump of the database and the master keys."""
    keys = server.folder / MASTER_KEY_FILE
    env = {
        "PATH": os.environ["PATH"],
        "DJANGO_SETTINGS_MODULE": "certctrl.settings",
        "DATABASE_URL": f"sqlite:///{server.folder / DATABASE_FILE}",
        "MASTER_KEYS_PATH": str(keys),
        "SECRET_KEY": "x" * 50,
    }
    dump = folder / "dump.json"
    dumped = ["manage.py", "dumpdata", "keystore", "--output", str(dump)]
    subprocess.run([sys.executable, *dumped], env=env, cwd=PROJECT, check=True)
    attack = [sys.executable, PROJECT / "tests/e2e/dump.py", dump, keys]
    found = subprocess.run(attack, capture_output=True, text=True, check=True)
    return dict(json.loads(found.stdout))


def written(secret: bytes, *places: Path) -> list[Path]:
    """Return the files in which the secret is: raw, in hexadecimal digits or in base64."""
    inner = [base64.b64encode(secret[skip:])[:-4] for skip in range(3)]
    spellings = [secret, secret.hex().encode(), secret.hex().upper().encode(), *inner]
    files = [
        file for place in places for file in ([place] if place.is_file() else place.rglob("*"))
    ]
    contents = {file: file.read_bytes() for file in files if file.is_file()}
    assert contents
    return [file for file, text in contents.items() if any(each in text for each in spellings)]
