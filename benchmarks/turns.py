"""The pace of this project and of lego, measured in turn, because a machine's speed varies.

    python -m benchmarks.turns [--rows speed] [--quick]

Each turn has a new CA, a new database and new accounts. The page has the median turn of each.
"""

import shutil
import sys

from benchmarks import peers
from benchmarks import site as sites
from benchmarks.measuring import tell
from benchmarks.ours import Ours
from benchmarks.sizes import Sizes, asked

ROWS = ("speed",)
CLIENTS = 32  # commands of lego at once


def one(sizes: Sizes) -> None:
    with sites.lab() as lab, sites.at(lab) as site:
        ours = Ours(lab, site, sizes)
        ours.warm_up()
        ours.speed()
    if not shutil.which(peers.program("lego")):
        tell(row="speed", who="lego", clients=CLIENTS, left_out="not installed")
        return
    with peers.crowd("lego", CLIENTS) as (lab, get):
        peers.speed("lego", CLIENTS, sizes.names, lab, get)


def main(arguments: list[str] | None = None) -> int:
    _, sizes = asked(ROWS, arguments)
    for _ in range(sizes.turns):
        one(sizes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
