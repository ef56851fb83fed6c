"""`manage.py up` as a person starts it, with real processes and a new data folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.ca import PROJECT
from tests.patience import LIMIT, until
from tests.servers import free_port


def processes() -> Iterator[tuple[int, str]]:
    """Yield the pid of each living process, with its command line and environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield (
                int(folder.name),
                (folder / "cmdline").read_text() + (folder / "environ").read_text(),
            )
        except OSError:
            continue


class Up:
    """One start. `said` is its output so far."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        inherited = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ
        }
        self.environment = inherited | {"DATA_DIR": str(folder), "PORT": str(self.port)} | settings
        self.out = folder.with_suffix(f".{self.port}.out")
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=PROJECT,
                env=self.environment,
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> str:
        return self.out.read_text()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> "Up":
        until(
            lambda: "Ctrl-C stops it" in self.said or self.process.poll() is not None,
            f"started\n{self.said}",
        )
        assert self.process.poll() is None, self.said
        return self

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def living(self) -> list[int]:
        """Return the processes of this data folder."""
        return [pid for pid, told in processes() if str(self.folder) in told and pid != os.getpid()]

    def manage(self, *command: str, **settings: str) -> str:
        run = [sys.executable, "manage.py", *command]
        return subprocess.run(
            run,
            cwd=PROJECT,
            env=self.environment | settings,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
