"""A client that shares no code with the server, and has read only the text of its contract."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.guide import EMAIL, PASSWORD
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


def test_a_client_in_the_field_is_answered_as_the_contract_says(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", ADMIN_EMAIL=EMAIL, ADMIN_PASSWORD=PASSWORD, LAB="0")
    try:
        up.wait()
        client = [sys.executable, PROJECT / "tests/e2e/client.py", up.address, EMAIL, PASSWORD]
        done = subprocess.run(client, capture_output=True, text=True, timeout=10 * LIMIT)
    finally:
        up.end()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "devices"
