"""Delete old rows in batches.

Each app prunes its own rows. The task `issuance.prune` calls these functions each hour.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from certctrl import clock

BATCH = 500
MOST_BATCHES = 20  # of one kind of row in one run; the next run goes on


def before(kept: timedelta | None) -> datetime | None:
    """Return the time before which rows are old, or None when they are kept for ever."""
    return None if kept is None else clock.now() - kept


def delete(old: QuerySet[Any]) -> None:
    """Delete the rows of `old`, with the rows that belong to them."""
    in_batches(old, lambda ids: old.model._base_manager.filter(pk__in=ids).delete())


def in_batches(old: QuerySet[Any], act: Callable[[Sequence[int]], object]) -> None:
    """Call `act` with the ids of `old`, a batch at a time, each in its own transaction.

    `act` must make the rows leave `old`. The rows of a batch are locked. Rows that another
    transaction has locked are left for the next run. The condition is checked again under the
    locks, because it may name rows of other tables.
    """
    for _ in range(MOST_BATCHES):
        with transaction.atomic():
            locked = old.select_for_update(of=("self",), skip_locked=True)
            found = list(locked.values_list("pk", flat=True)[:BATCH])
            still_old = old.filter(pk__in=found).values_list("pk", flat=True)
            ids = list(still_old) if found else []
            if not ids:
                return
            act(ids)
