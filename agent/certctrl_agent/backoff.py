"""How long to wait before another try."""

import random


class Backoff:
    """Seconds until the next try: doubled each time, with jitter, and never over `most`."""

    def __init__(self, first: float, most: float) -> None:
        self.first = first
        self.most = most
        self.failures = 0

    def failed(self, at_least: float = 0) -> float:
        seconds = min(self.most, self.first * 2.0 ** min(self.failures, 20))
        self.failures += 1
        return max(at_least, seconds) * random.uniform(0.7, 1.3)  # noqa: S311

    def reset(self) -> None:
        self.failures = 0
