"""Migrate the database. `deploy/run release` calls this before each start of a new version."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError


class Command(BaseCommand):
    help = __doc__ or ""

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate. Raise CommandError, in one sentence, while the database cannot be used.

        The caller then starts the command again.
        """
        try:
            call_command("migrate", interactive=False, verbosity=options["verbosity"])
        except OperationalError as exc:
            why = str(exc).partition("\n")[0].rstrip(".")
            raise CommandError(
                f"The database cannot be updated: {why}. Run `release` again."
            ) from None
