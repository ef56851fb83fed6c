"""`manage.py export NAME --to DIR --then COMMAND`: write the files on the server itself."""

import getpass
import re
import subprocess
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet

from authorities import catalog
from certctrl.errors import ApiError
from issuance import services
from issuance.identifiers import normalize_name
from issuance.models import Certificate

ID = re.compile("[0-9]{1,18}")
MOST_NAMED = 20


def a_labels(name: str) -> str:
    """Return the name as A-labels; empty when it is not a host name."""
    try:
        return normalize_name(name, private=True)
    except ApiError:
        return ""


class Command(BaseCommand):
    help = (
        "Write key and chain of a certificate into a folder (a new key is 0600), then run a"
        " command, as a reload."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="?", help="the certificate's domain, or its id")
        parser.add_argument("--id", help="the certificate's id, instead of a name")
        parser.add_argument(
            "--owner",
            help="the owner's e-mail address or id, where several certificates are so named",
        )
        parser.add_argument(
            "--to", required=True, type=Path, help="the folder; made when it is missing"
        )
        parser.add_argument("--then", help="a shell command that runs after the files are in place")

    def handle(self, *args: Any, **options: Any) -> None:
        certificate = self.find(options["name"] or "", options["owner"], options["id"])
        try:
            paths, closed = services.to_folder(
                certificate, options["to"], actor=f"operator {getpass.getuser()}"
            )
        except (ApiError, services.NotReplaced) as refusal:
            raise CommandError(refusal.what) from None
        for path in paths:
            self.stdout.write(str(path))
        for path in closed:
            self.stderr.write(
                f"Every user of this machine could read {path}. Its mode is 0600 now."
            )
        if options["then"]:
            self.run(options["then"])

    def find(self, name: str, owner: str | None, pk: str | None) -> Certificate:
        """Return the certificate with this name or id.

        An id is enough on its own. A name is enough only when no other user can have made a
        certificate with it. Raise CommandError.
        """
        if bool(name) == bool(pk):
            raise CommandError("No certificate is named. Give its domain, or --id.")
        wanted = pk or name
        rows = Certificate.objects.select_related("owner", "account", "current").order_by("pk")
        if ID.fullmatch(wanted):
            rows = rows.filter(pk=wanted)
        elif pk:
            raise CommandError(f"--id is a number, not {pk}.")
        else:
            rows = rows.filter(domain=a_labels(name))
        if owner:
            rows = (
                rows.filter(owner=int(owner))
                if ID.fullmatch(owner)
                else rows.filter(owner__email__iexact=owner)
            )
        there = list(rows.filter(retired_at=None))
        if not there:
            raise CommandError(f"There is no certificate {wanted}. Check the id or the domain.")
        if len(there) == 1 and (owner or ID.fullmatch(wanted)):
            return there[0]
        return self.only(name, there, rows)

    def only(
        self, name: str, there: Sequence[Certificate], rows: QuerySet[Certificate]
    ) -> Certificate:
        """Return the certificate with this name. Raise CommandError when that is not certain.

        Any user can make a record of any name, and have a CA of their own sign it. So the one
        certificate of a CA that this server knows wins. If there is not exactly one, the name must
        have only one certificate, and must never have had another owner.
        """
        issued = [each for each in there if each.current]
        known = [each for each in issued if is_of_known_ca(each)]
        if len(known) == 1:
            return known[0]
        has_one_owner = len({each.owner_id for each in rows}) == 1
        if has_one_owner and len(issued or there) == 1:
            return (issued or there)[0]
        lines = [f"  {described(each)}" for each in there[:MOST_NAMED]]
        head = (
            f"Several certificates have the name {name}. Give the id of one (--id), or its --owner:"
        )
        raise CommandError("\n".join([head, *lines]))

    def run(self, command: str) -> None:
        # The operator wrote the command, so a shell may run it.
        code = subprocess.run(command, shell=True, check=False).returncode  # noqa: S602
        if code:
            raise CommandError(
                f"The files are in place, but the command ended with {code}: {command}",
                returncode=code,
            )


def is_of_known_ca(certificate: Certificate) -> bool:
    """Return whether a CA that this server knows by name signed the certificate.

    Private CAs and custom CAs do not count, because their owner named them.
    """
    version = certificate.current
    return bool(version) and version.account.ca_provider not in (catalog.SELF_CA, catalog.CUSTOM)  # type: ignore[union-attr]


def described(certificate: Certificate) -> str:
    """Return id, owner, account and expiry of a certificate, as text for a list."""
    version = certificate.current
    until = f"valid until {version.not_after:%Y-%m-%dT%H:%MZ}" if version else "never issued"
    account = f"account {certificate.account} ({certificate.account.ca_provider})"
    return f"{certificate.pk}: owner {certificate.owner}, {account}, {until}"
