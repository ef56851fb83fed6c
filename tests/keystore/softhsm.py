"""A token of SoftHSM in a folder, and AES keys in it."""

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOOL = shutil.which("softhsm2-util")
PIN = "5678"


class SoftHSM:
    """SoftHSM reads SOFTHSM2_CONF when it starts, so a process has one instance with many tokens.

    Keys are made in a process of their own, because a process has one login.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "tokens").mkdir()
        self.conf = folder / "softhsm2.conf"
        self.conf.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
        os.environ["SOFTHSM2_CONF"] = str(self.conf)

    def token(self) -> str:
        """Make a token and return its label."""
        label = f"token-{uuid.uuid4().hex[:8]}"
        self._tool("--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin", PIN)
        return label

    def key(self, token: str, label: str, bits: int = 256, **attributes: bool) -> None:
        wanted = {"EXTRACTABLE": False, "SENSITIVE": True, "ENCRYPT": True, "DECRYPT": True}
        wanted |= attributes
        template = ", ".join(f"pkcs11.Attribute.{each}: {is_on}" for each, is_on in wanted.items())
        self._python(
            token,
            f"session.generate_key(pkcs11.KeyType.AES, {bits}, label={label!r}, store=True, "
            f"template={{{template}}})",
        )

    def delete(self, token: str) -> None:
        self._tool("--delete-token", "--token", token)

    @staticmethod
    def _tool(*arguments: str) -> None:
        subprocess.run([str(TOOL), *arguments], check=True, capture_output=True)

    @staticmethod
    def _python(token: str, statement: str) -> Any:
        text = (
            "import pkcs11\n"
            f"token = pkcs11.lib({MODULE!r}).get_token(token_label={token!r})\n"
            f"with token.open(user_pin={PIN!r}, rw=True) as session:\n"
            f"    {statement}\n"
        )
        subprocess.run([sys.executable, "-c", text], check=True)
