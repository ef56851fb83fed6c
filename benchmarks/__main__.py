"""`make bench`: run all slow measurements, or the named ones.

Example: `make bench ARGS="simulation waiting"`.
"""

import importlib
import sys

MEASUREMENTS = ("simulation", "years", "scan", "waiting", "limits", "speed")


def main(names: list[str]) -> int:
    unknown = set(names) - set(MEASUREMENTS)
    if unknown:
        print(
            f"There is no measurement {', '.join(sorted(unknown))}; there are "
            f"{', '.join(MEASUREMENTS)}."
        )
        return 2
    failed = 0
    for name in names or MEASUREMENTS:
        print(f"== {name}", flush=True)
        failed += bool(importlib.import_module(f"benchmarks.{name}").main([]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
