"""The command `rotate_master_key`: rotate the master key while the server runs."""

import getpass
from argparse import ArgumentParser
from contextlib import ExitStack
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from keystore import masterkeys, rotation
from keystore.masterkeys import FileKeys, Intent, MasterKeyProblem


class Command(BaseCommand):
    help = (
        "Rotate the master key while the server runs. Generate a new key, put it first in the "
        "file of MASTER_KEYS_PATH, and wrap every data key with it. If the command is killed, "
        "run it again. It continues. All processes must read this same file. With keys in "
        "MASTER_KEYS or MASTER_KEYS_ELSEWHERE, put the new key first, restart the server, then "
        "run this. It makes no key there."
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

        parser.add_argument(
            "--list",
            action="store_true",
            help="try each master key, show how many wraps need it, and end",
        )

    @property
    def actor(self) -> str:
        return f"operator {getpass.getuser()}"

    def handle(
        self, *args: Any, no_new_key: bool, drop_old: bool, list: bool, **options: Any
    ) -> None:
        try:
            if list:
                self._list()
                return
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

    def _list(self) -> None:
        current = masterkeys.current().id
        counts = rotation.wraps_of_keys()
        keys = masterkeys.all_keys()
        for key_id, key in keys.items():
            try:
                is_same = key.unwrap(key.wrap(b"a test", b"test"), b"test") == b"a test"
                state = "works" if is_same else "does not return what it wrapped"
            except MasterKeyProblem as problem:
                state = problem.what
            wraps = "wraps, " if key_id == current else ""
            self.stdout.write(f"{key_id}: {wraps}{counts.get(key_id, 0)} wraps need it. {state}")
        for key_id in sorted(set(counts) - set(keys)):
            self.stdout.write(f"{key_id}: is missing, {counts[key_id]} wraps need it.")

    def _rotate(
        self, file: FileKeys | None, intent: Intent | None, no_new_key: bool, drop_old: bool
    ) -> None:
        if file and intent and not no_new_key:
            rotation.begin(file, intent, self.actor)
        self._rewrap()
        if intent:
            intent.write("")
        if drop_old:
            self._drop_old(file)

    def _rewrap(self) -> None:
        outcome = rotation.rewrap_all(self.actor)
        self.stdout.write(
            f"Wrapped {outcome.moved} data keys with master key {masterkeys.current().id}."
        )
        if outcome.stuck:
            reasons = "\n".join(sorted(set(outcome.stuck.values()))[:10])
            count = len(outcome.stuck)
            raise CommandError(
                f"{count} data keys were not wrapped again, and no master key was removed. "
                f"Fix this, then run the command again:\n{reasons}"
            )

    def _drop_old(self, file: FileKeys | None) -> None:
        dropped = rotation.drop_unneeded(file, self.actor) if file else set()
        needed = rotation.needed_ids()
        old = set(masterkeys.all_keys()) - {masterkeys.current().id}
        self._say("Removed from the file: {}.", dropped)
        self._say(
            "A running process used old keys again. Run this command once more with "
            "--no-new-key. The keys: {}.",
            old & needed,
        )
        self._say(
            "Nothing needs these keys any more. Remove them from the settings: {}.", old - needed
        )

    def _say(self, sentence: str, key_ids: set[str]) -> None:
        if key_ids:
            self.stdout.write(sentence.format("master key " + ", ".join(sorted(key_ids))))
