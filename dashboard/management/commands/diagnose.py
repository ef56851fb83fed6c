"""`manage.py diagnose [FILE]`: write the diagnostic bundle, a ZIP without secrets."""

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from certctrl import clock
from dashboard import diagnosis


class Command(BaseCommand):
    help = "Write a ZIP that says how this server is, without secrets."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", type=Path, help="the ZIP; it must not exist yet")

    def handle(self, *args: Any, **options: Any) -> None:
        path = options["file"] or Path(f"certctrl-diagnosis-{clock.now():%Y%m%d-%H%M%S}.zip")
        content = diagnosis.bundle()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as exc:
            raise CommandError(f"{path} cannot be written: {exc.strerror}. Name another.") from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        self.stdout.write(f"{path} ({len(content) // 1024 + 1} KiB). Read it before you send it.")
