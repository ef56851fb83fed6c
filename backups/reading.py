"""Read the lines of a backup: its contents, then the rows of each table, then their number.

This module needs no database and no settings.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backups import contents, encrypted
from backups.contents import Contents
from backups.encrypted import DAMAGED, BackupProblem

BATCH = 200  # rows
Row = list[Any]


class Reading:
    """Reads the lines of a backup in their order. Subclasses store the rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: Contents | None = None
        self.count = 0
        self._labels: Iterator[tuple[str, int]] = iter(())
        self._label = ""
        self._left = 0
        self._batch: list[Row] = []
        self._is_over = False

    def read(self, keys: Sequence[Any]) -> Contents:
        """Read the whole file. Raise BackupProblem if it is damaged or not complete."""
        encrypted.read(self.path, keys, self._take)
        if self.held is None or not self._is_over:
            raise BackupProblem(DAMAGED.format(self.path))
        return self.held

    def begin(self, held: Contents) -> None:
        """Called before the first row."""

    def store(self, label: str, batch: list[Row]) -> None:
        """Called with some rows of a table."""

    def _take(self, line: bytes) -> None:
        try:
            content = json.loads(line)
            if self.held is None:
                self._begin(contents.from_json(content))
                return
        except ValueError:
            raise BackupProblem(DAMAGED.format(self.path)) from None
        if self._left:
            self._batch.append(content)
            self._left -= 1
            self.count += 1
            if len(self._batch) >= BATCH or not self._left:
                self._flush()
        else:
            self._is_over = content == {"end": self.count}

    def _begin(self, held: Contents) -> None:
        self.begin(held)
        self.held = held
        self._labels = iter(held.counts.items())
        self._next_table()

    def _flush(self) -> None:
        self.store(self._label, self._batch)
        self._batch = []
        if not self._left:
            self._next_table()

    def _next_table(self) -> None:
        for label, count in self._labels:
            if count:
                self._label, self._left = label, count
                return
