"""How much each measurement does: in full, or quickly."""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The full numbers. `waiting` and `list_many` are what the goals are about."""

    names: int = 500  # certificates for the pace and the CPU of each
    certbot_names: int = 40  # certbot needs seconds for each
    turns: int = 3  # of this project and of lego
    warm: int = 32  # certificates before the measurements, so that every thread has run
    idle: int = 30  # certificates, one after the other
    creates: int = 300
    list_few: int = 1_000
    list_many: int = 1_000_000
    pages: int = 50  # reads of the same list page
    waiting: int = 100_000
    new_orders: int = 10  # while the others wait
    on_their_way: int = 40  # certificates that are on their way when everything is killed
    # Seconds of the settings LEASE, TURN and RESEND meanwhile. They are shorter than in production.
    # A killed step is started again after its lease. The lease of a look is the same.
    lease: int = 45
    turn: int = 20
    resend: int = 30
    devices: int = 2_000  # that wait at one web process
    settled: float = 8.0  # seconds until a process rests that was started
    watched: float = 20.0  # seconds in which its CPU is measured
    rounds: int = 3  # signals for all of them
    rest: float = 60.0  # seconds in which the embedded server has nothing to do


FULL = Sizes()
QUICK = Sizes(
    names=24,
    certbot_names=2,
    turns=1,
    warm=16,
    idle=4,
    creates=50,
    list_many=10_000,
    pages=10,
    waiting=4_000,
    new_orders=1,
    on_their_way=10,
    lease=20,
    turn=10,
    resend=10,
    devices=200,
    settled=1.0,
    watched=3.0,
    rounds=1,
    rest=3.0,
)


def asked(rows: tuple[str, ...], arguments: list[str] | None = None) -> tuple[list[str], Sizes]:
    """Return the rows to measure, of `rows`, and the sizes, as a part's command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default=",".join(rows))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    return [row for row in rows if row in given.rows.split(",")], QUICK if given.quick else FULL
