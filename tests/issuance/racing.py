"""Two or more calls at once, each on its own thread and connection."""

import threading
from collections.abc import Callable
from typing import Any

from django.db import connection


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
