"""What the embedded server remembers from one start to the next."""

import json
import os
from pathlib import Path
from typing import Any


class State(dict[str, Any]):
    """What must be the same at the next start: secrets and ports. A file of mode 0600, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(json.loads(path.read_text()) if path.exists() else {})

    def once(self, name: str, value: Any) -> Any:
        """The value kept under that name; this one when there is none yet."""
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
