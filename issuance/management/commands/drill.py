"""`manage.py drill --issuer R11`: replace everything that an issuer, or an account, issued."""

import getpass
import threading
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts.models import User
from authorities.models import AcmeAccount
from certctrl.errors import ApiError
from issuance import drills
from issuance.models import Drill

SECONDS = 5.0  # seconds between two counts of --watch
MOST = 20
never = threading.Event()


def told(counted: dict[str, int]) -> str:
    """Return the counts of a drill as a sentence without its full stop."""
    line = f"{counted['left']} of {counted['total']} left"
    line += f", {counted['failing']} of them failing" if counted["failing"] else ""
    return line + (
        f"; {counted['skipped']} skipped, since renewal is switched off"
        if counted["skipped"]
        else ""
    )


class Command(BaseCommand):
    help = (
        "Replace everything that an issuer, or an account, issued, at the pace that the CA"
        " allows; staff only."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--issuer", help="common name of the issuer, as R11")
        what.add_argument("--account", type=int, help="id of the ACME account")
        what.add_argument(
            "--status", action="store_true", help="show the drills there are, newest first"
        )
        what.add_argument(
            "--stop", type=int, metavar="ID", help="bring no more certificates forward"
        )
        what.add_argument(
            "--resume", type=int, metavar="ID", help="resume a drill that was stopped"
        )
        parser.add_argument("--why", default="", help="a note for those who read it later")
        parser.add_argument(
            "--by",
            help="e-mail address of the member of staff who starts it; by default the first one",
        )
        parser.add_argument("--dry-run", action="store_true", help="count, and start nothing")
        parser.add_argument(
            "--watch",
            action="store_true",
            help="stay until nothing is left; Ctrl-C leaves it running",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.act(options)
        except ApiError as refusal:
            raise CommandError(refusal.what) from None

    def act(self, options: dict[str, Any]) -> None:
        if options["status"]:
            return self.show()
        if options["dry_run"]:
            return self.preview(options)
        drill = self.begin(options)
        self.stdout.write(
            f"Drill {drill.pk}, {drill}: {drill.status}, {told(drills.count(drill))}."
        )
        return self.watch(drill) if options["watch"] else None

    def begin(self, options: dict[str, Any]) -> Drill:
        by = self.person(options["by"])
        actor = f"operator {getpass.getuser()}"
        if options["stop"] is not None:
            return drills.stop(self.find(options["stop"]), by, actor)
        if options["resume"] is not None:
            return drills.resume(self.find(options["resume"]), by, actor)
        return drills.start(
            by, options["issuer"] or "", self.account(options), options["why"], actor
        )

    def preview(self, options: dict[str, Any]) -> None:
        if options["issuer"] is None and options["account"] is None:
            raise CommandError("--dry-run counts what --issuer or --account would replace.")
        counted = drills.preview(options["issuer"] or "", self.account(options))
        self.stdout.write(f"{told(counted)}. Nothing was started.")

    def show(self) -> None:
        rows = Drill.objects.select_related("account").order_by("-pk")[:MOST]
        for drill in rows:
            self.stdout.write(
                f"Drill {drill.pk}, {drill}: {drill.status}, {told(drills.count(drill))}."
            )
            for each in (
                drills.skipped(drill).select_related("owner")[:MOST] if not drill.ended_at else ()
            ):
                self.stdout.write(f"    skipped: {each.domain} of {each.owner}")
        if not rows:
            self.stdout.write("There are no drills.")

    def watch(self, drill: Drill) -> None:
        """Print a line when the count changes, until the drill is over.

        The workers do the work. They do not depend on this command.
        """
        said = ""
        while drill.status == "running":
            line = told(drills.count(drill))
            if line != said:
                self.stdout.write(f"{line}.")
            said = line
            try:
                never.wait(SECONDS)
            except KeyboardInterrupt:
                return self.stdout.write("The drill continues without this command.")
            drill.refresh_from_db()
        return self.stdout.write(f"Drill {drill.pk} {drill.status}: {told(drills.count(drill))}.")

    def find(self, pk: int) -> Drill:
        drill = Drill.objects.select_related("account").filter(pk=pk).first()
        if not drill:
            raise CommandError(f"There is no drill {pk}. See --status.")
        return drill

    def account(self, options: dict[str, Any]) -> AcmeAccount | None:
        if options["account"] is None:
            return None
        account = AcmeAccount.objects.filter(pk=options["account"]).first()
        if not account:
            raise CommandError(f"There is no ACME account {options['account']}. Check the id.")
        return account

    def person(self, email: str | None) -> User:
        staff = User.objects.filter(is_staff=True, is_active=True).order_by("pk")
        found = staff.filter(email__iexact=email).first() if email else staff.first()
        if not found:
            who = f"{email} is no member of staff" if email else "There is no member of staff"
            raise CommandError(f"{who}. Give --by the address of a member of staff.")
        return found
