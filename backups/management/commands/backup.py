"""`manage.py backup --to FILE`: write all that a lost server needs into one encrypted file."""

import getpass
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backups import encrypted, making
from backups.encrypted import BackupProblem
from keystore.masterkeys import MasterKeyProblem


class Command(BaseCommand):
    help = (
        "Write the database, the master keys and the settings into one file, encrypted for the "
        "recovery keys (age). The server may run meanwhile. First show what the file will hold."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--to", type=Path, metavar="FILE", help="the file, which must be new")
        what.add_argument("--list", action="store_true", help="show what it would hold, and end")
        parser.add_argument(
            "--recipient",
            action="append",
            metavar="AGE1",
            help="a public recovery key, instead of those in BACKUP_RECIPIENTS; may be repeated",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.act(options)
        except (BackupProblem, MasterKeyProblem) as problem:
            raise CommandError(problem.what) from None

    def act(self, options: dict[str, Any]) -> None:
        if options["list"]:
            self.stdout.write(making.contents().table())
            return
        recipients = encrypted.recipients(options["recipient"] or settings.BACKUP_RECIPIENTS)
        path: Path = options["to"].absolute()
        if not options["yes"]:
            self.stdout.write(making.contents().table())
            if input(f"Write this into {path}? [y/N] ").strip().lower() not in ("y", "yes"):
                raise CommandError("Nothing was written.")
        held = making.make(path, recipients, f"operator {getpass.getuser()}")
        self.stdout.write(f"Wrote {sum(held.counts.values()):,} rows into {path}.")
