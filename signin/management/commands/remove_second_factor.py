"""Remove the second factor of a user who lost the app and the recovery codes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import User
from certctrl import errors
from signin import secondfactor


class Command(BaseCommand):
    help = "Remove the second factor of a user. The password alone then signs in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="the e-mail address of the user")

    def handle(self, *args: Any, **options: Any) -> None:
        email = options["email"]
        user = User.objects.named(email).first()
        if not user:
            raise CommandError(f"There is no user {email}.")
        try:
            secondfactor.remove(user)
        except errors.Conflict as refused:
            raise CommandError(refused.what) from None
        self.stdout.write(f"{user.email} signs in without a second factor now.")
