"""`manage.py restore FILE`: restore a backup into an empty database."""

import getpass
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups import encrypted, restoring
from backups.encrypted import BackupProblem
from keystore.masterkeys import MasterKeyProblem


class Command(BaseCommand):
    help = (
        "Restore a backup into a migrated, empty database. Stop the server first, and never start "
        "the lost one again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the backup")
        parser.add_argument(
            "--recovery-key", required=True, metavar="KEY", help="a file with the private key"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            keys = encrypted.recovery_keys(options["recovery_key"])
            held = restoring.restore(options["file"], keys, f"operator {getpass.getuser()}")
        except (BackupProblem, MasterKeyProblem) as problem:
            raise CommandError(problem.what) from None
        self.stdout.write(held.table())
        self.stdout.write(f"Restored the backup of {held.made_at}.")
