"""`manage.py export NAME --to DIR --then COMMAND`: the operator's way to the files, on the server itself."""

import getpass
import re
import subprocess
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from certctrl.errors import Refusal
from issuance import export
from issuance.models import Certificate
from issuance.names import normalize_name


def a_labels(name: str) -> str:
    """The name as it is stored; what is no host name at all finds nothing."""
    try:
        return normalize_name(name, private=True)
    except Refusal:
        return ""


class Command(BaseCommand):
    help = "Write key and chain of a certificate into a folder (key 0600), then run a command, such as a reload."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the certificate's domain, or its id")
        parser.add_argument("--to", required=True, type=Path, help="the folder; made when it is missing")
        parser.add_argument("--then", help="a shell command that runs after the files are in place")
        parser.add_argument("--owner", help="the owner's e-mail address, where two have the same name")

    def handle(self, *args: Any, **options: Any) -> None:
        certificate = self.find(options["name"], options["owner"])
        try:
            paths = export.to_folder(certificate, options["to"], actor=f"operator {getpass.getuser()}")
        except Refusal as refusal:
            raise CommandError(refusal.what) from None
        except OSError as error:
            raise CommandError(f"{options['to']} could not be written: {error.strerror or error}.") from None
        for path in paths:
            self.stdout.write(str(path))
        if options["then"]:
            self.run(options["then"])

    def find(self, name: str, owner: str | None) -> Certificate:
        rows = Certificate.objects.filter(retired_at=None)
        rows = rows.filter(pk=name) if re.fullmatch("[0-9]{1,18}", name) else rows.filter(domain=a_labels(name))
        if owner:
            rows = rows.filter(owner__email__iexact=owner)
        found = list(rows.order_by("-pk"))
        if not found:
            raise CommandError(f"There is no certificate {name}.")
        if len(found) > 1:
            each = ", ".join(f"{row.pk} of {row.owner}" for row in found)
            raise CommandError(f"Several certificates are named {name}: {each}. Give the id.")
        return found[0]

    def run(self, command: str) -> None:
        code = subprocess.run(command, shell=True, check=False).returncode  # noqa: S602  (the operator's own words)
        if code:
            raise CommandError(f"The files are in place, and the command ended with {code}: {command}", returncode=code)
