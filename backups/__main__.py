"""`python -m backups FILE --recovery-key KEY`: check a backup, and get its settings.

This needs no settings and no database. So it is the first step of a new server.
"""

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

from backups import contents, encrypted
from backups.encrypted import BackupProblem
from backups.reading import Reading


def main() -> None:
    parser = ArgumentParser(prog="python -m backups", description=__doc__)
    parser.add_argument("file", type=Path, help="the backup")
    parser.add_argument("--recovery-key", required=True, help="a file with the private key")
    parser.add_argument("--settings", type=Path, help="write its settings into this new file")
    options = parser.parse_args()
    try:
        held = Reading(options.file).read(encrypted.recovery_keys(options.recovery_key))
        if options.settings:
            write(options.settings, contents.settings_file(held))
    except BackupProblem as problem:
        sys.exit(problem.what)
    found = f"{options.file} is complete. It was made at {held.made_at} and holds:"
    sys.stdout.write(f"{found}\n{held.table()}\n")


def write(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise BackupProblem(
            f"{path} cannot be written ({os.strerror(exc.errno or 0)}). Name a new file."
        ) from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main()
