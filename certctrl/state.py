"""The values that the embedded server keeps from one start to the next."""

import json
import os
from pathlib import Path
from typing import Any


class Unreadable(SystemExit):
    """The file cannot be read. The sentence says what it contained and what to do."""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as exc:
        raise Unreadable(f"{path} cannot be read ({exc.strerror}).") from None
    except ValueError:  # not JSON, or not UTF-8
        content = None
    if not isinstance(content, dict):
        raise Unreadable(
            f"{path} is {'damaged' if path.stat().st_size else 'empty'}. It holds what this server "
            "made for itself: SECRET_KEY, the password of its Redis, and the ports and the key of "
            f"its lab. Put it back from a backup. Without a backup: mv {path} {path}.damaged and "
            "start again. Then all this is made anew, and everybody has to log in again. "
            "Certificates and their keys are in the database and stay as they are."
        )
    return content


class StateFile(dict[str, Any]):
    """Secrets and ports that the next start needs, in a file of mode 0600.

    The file is replaced as a whole. Raises Unreadable for a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(_read(path) if path.exists() else {})

    def once(self, name: str, value: Any) -> Any:
        """Return the stored value of `name`. Store `value` first when there is none."""
        if name not in self:
            self.keep(**{name: value})
        return self[name]

    def keep(self, **values: Any) -> None:
        self.update(values)
        new = self.path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
