"""Java's own reading of a PKCS#12 file."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_keytool = pytest.mark.skipif(
    not shutil.which("keytool"),
    reason="needs Java's keytool (apt-get install default-jre-headless)",
)


def listed(bundle: bytes, password: str, folder: Path) -> str:
    """Return the output of `keytool -list -v`. Raise AssertionError for an invalid file."""
    path = folder / "bundle.pfx"
    path.write_bytes(bundle)
    command = [
        "keytool",
        "-list",
        "-v",
        "-storetype",
        "PKCS12",
        "-keystore",
        str(path),
        "-storepass:env",
        "PASSWORD",
    ]
    said = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PASSWORD": password, "LC_ALL": "C"},
    )
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout
