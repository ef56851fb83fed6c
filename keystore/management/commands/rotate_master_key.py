"""The command `rotate_master_key`: rotate the master key while the server runs."""

import getpass
from argparse import ArgumentParser
from contextlib import ExitStack
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from accounts import audit
from accounts.models import User
from keystore import masterkeys, rotation
from keystore.masterkeys import FileKeys, Intent, MasterKeyProblem


class Command(BaseCommand):
    help = (
        "Rotate the master key while the server runs. Generate a new key, put it first in the "
        "file of MASTER_KEYS_PATH, and wrap every data key with it. If the command is killed, "
        "run it again. It continues. All processes must read this same file. With keys in "
        "MASTER_KEYS, put the new key first, restart the server, then run this."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--no-new-key",
            action="store_true",
            help="only wrap the data keys that are not wrapped with the first key yet",
        )
        parser.add_argument(
            "--drop-old",
            action="store_true",
            help="remove unused old keys from the file (backups of the database may still need "
            "them)",
        )

    def handle(self, *args: Any, no_new_key: bool, drop_old: bool, **options: Any) -> None:
        try:
            with ExitStack() as stack:
                file = masterkeys.file_keys()
                intent = stack.enter_context(file.locked()) if file else None
                self._rotate(file, intent, no_new_key, drop_old)
        except MasterKeyProblem as problem:
            raise CommandError(problem.what) from None
        except OperationalError as exc:
            raise CommandError(
                f"The database was busy ({type(exc).__name__}). Run this command again."
            ) from exc

    def _rotate(
        self, file: FileKeys | None, intent: Intent | None, no_new_key: bool, drop_old: bool
    ) -> None:
        if file and intent and not no_new_key:
            rotation.begin(file, intent)
        self._rewrap()
        if intent:
            intent.write("")
        if drop_old:
            self._drop_old(file)

    def _rewrap(self) -> None:
        outcome = rotation.rewrap_all()
        current = masterkeys.current().id
        self._note("master_key.rotated", current, moved=outcome.moved, stuck=len(outcome.stuck))
        self.stdout.write(f"Wrapped {outcome.moved} data keys with master key {current}.")
        if outcome.stuck:
            reasons = "\n".join(sorted(set(outcome.stuck.values()))[:10])
            count = len(outcome.stuck)
            raise CommandError(
                f"{count} data keys were not wrapped again, and no master key was removed. "
                f"Fix this, then run the command again:\n{reasons}"
            )

    def _drop_old(self, file: FileKeys | None) -> None:
        dropped = rotation.drop_unneeded(file) if file else set()
        for key_id in sorted(dropped):
            self._note("master_key.removed", key_id)
        needed = rotation.needed_ids()
        old = set(masterkeys.all_keys()) - {masterkeys.current().id}
        self._say("Removed from the file: {}.", dropped)
        self._say(
            "A running process used old keys again. Run this command once more with "
            "--no-new-key. The keys: {}.",
            old & needed,
        )
        self._say(
            "Nothing needs these keys of MASTER_KEYS any more. Remove them there: {}.", old - needed
        )

    def _note(self, action: str, key_id: str, **detail: Any) -> None:
        """Write an audit event. Its owner is the first user, as the log needs an owner."""
        owner = User.objects.order_by("pk").first()
        if owner:
            actor = f"operator {getpass.getuser()}"
            audit.record(owner, actor, action, f"master_key:{key_id}", **detail)

    def _say(self, sentence: str, key_ids: set[str]) -> None:
        if key_ids:
            self.stdout.write(sentence.format("master key " + ", ".join(sorted(key_ids))))
