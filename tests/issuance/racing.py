"""Two or more calls at once, each on its own thread and connection."""

import threading
from collections.abc import Callable
from typing import Any

from django.db import connection

PAUSE = 0.02  # seconds
LIMIT = 30.0
tick = threading.Event()


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Run the calls in threads that start together. Return the result or exception of each."""
    results: list[Any] = [None] * len(acts)
    start = threading.Barrier(len(acts))

    def run(at: int, act: Callable[[], Any]) -> None:
        start.wait()
        try:
            results[at] = act()
        except Exception as exc:
            results[at] = exc
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(at, act)) for at, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def until_another_waits() -> None:
    """Return when another connection waits for a lock. PostgreSQL only."""
    for _ in range(int(LIMIT / PAUSE)):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
        tick.wait(PAUSE)
    raise AssertionError(f"Nobody waits for a lock after {LIMIT:g} seconds.")
