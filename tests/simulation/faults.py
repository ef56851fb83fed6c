"""The faults of a seed and their rates. A seed omits some kinds, so that no fault hides another."""

import random
from dataclasses import dataclass, fields, replace
from typing import Any

LEASE = 180.0
TURN = 80.0
CALL = 20.0


@dataclass(frozen=True)
class Profile:
    """Chances are per outside call unless said otherwise; times are seconds."""

    workers: int = 3
    minutes: float = 20.0  # for how long there are faults and people
    die: float = 0.0
    hold: float = 0.0  # past the lease, and it goes on
    late: float = 0.0  # the caller sees a time-out, the effect comes after it
    fail: float = 0.0  # nothing happens, the caller sees an error
    refuse: float = 0.0  # the CA says no: rateLimited, caa, an unknown account
    lose: float = 0.0  # per message
    double: float = 0.0  # per message
    forget: float = 0.0  # per change of a device: nobody is called after the commit
    flush: int = 0  # how often Redis loses everything
    switch: float = 0.0  # per SQL statement outside of a transaction: others go first
    stop: float = 0.0  # per SQL statement outside of a transaction: dies there, or is held
    skew: float = 0.0  # a worker's clock is wrong by at most this; see `lateness`
    slow: float = 0.1  # the share of calls that take seconds
    lag: float = 0.0  # until name servers show a record
    listing_lag: float = 0.0  # until the provider's API finds a record that it wrote
    validation: float = 5.0  # until the CA has looked, at most
    processing: int = 0  # how often an order reads `processing`
    reuses_orders: bool = True
    reuses_authorizations: bool = False
    used_orders: int = 0  # how often newOrder returns a used order
    registers: bool = False  # the account is still to be registered
    life: float = 90 * 24  # hours of a certificate
    renewal_info: bool = False  # the CA says when to renew, and takes back what it said
    beats: int = 1
    certificates: int = 2
    people: int = 4  # how often a person changes their mind
    outages: int = 0  # how often the operator disables the DNS provider, and enables it later
    devices: int = 0  # of the owner; people assign, revoke and enrol them again
    moves: int = 1  # how much more often than the rest people assign, tag and enrol devices
    rollouts: bool = False  # people choose canaries and install windows, and devices report
    healthy: int = 0  # certificates whose CA, DNS API and owner have no trouble

    @property
    def lateness(self) -> float:
        """Return the largest delay in seconds between a call and its effect.

        The engine assumes that a call is over one lease after its intent. The error of the clocks
        and the lag of listings are subtracted.
        """
        return LEASE - 2 * self.skew - self.listing_lag - 15

    def __str__(self) -> str:
        plain = Profile()
        told = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return (
            ", ".join(f"{name}={value:g}" for name, value in told if value != getattr(plain, name))
            or "plain"
        )


# Themes: what is rare in the mix of all faults.
ZOMBIES = Profile(minutes=6, hold=0.1, certificates=2, people=1)
SHARERS = Profile(minutes=6, die=0.03, certificates=3, people=8, reuses_authorizations=True)
LOSERS = Profile(minutes=6, lose=0.3, healthy=2)
OWNERS = Profile(minutes=10, forget=1.0, moves=10, devices=3, people=30)
HOLDERS = Profile(minutes=8, devices=3, people=40, rollouts=True)
ENDERS = Profile(minutes=8, devices=3, people=40, rollouts=True, life=60)
CHANGERS = Profile(minutes=8, hold=0.12, people=10)


def draw(rng: random.Random) -> Profile:
    """The profile of a seed."""

    def maybe(*most: Any, chance: float = 0.5) -> Any:
        return rng.choice(most) if rng.random() < chance else 0

    return Profile(
        minutes=rng.choice((4, 8, 15)),
        die=maybe(0.02, 0.05, 0.15),
        hold=maybe(0.02, 0.05, 0.12),
        late=maybe(0.02, 0.05, 0.1),
        fail=maybe(0.05, 0.05, 0.2),
        refuse=maybe(0.02, 0.05),
        lose=maybe(0.05, 0.2),
        double=maybe(0.05, 0.2),
        flush=maybe(1, 2, 4),
        switch=maybe(0.02, 0.1),
        stop=maybe(0.002, 0.01),
        skew=maybe(10.0, 30.0, 45.0),
        slow=rng.choice((0.0, 0.1, 0.3)),
        lag=maybe(3.0, 20.0, 90.0),
        listing_lag=maybe(5.0, 30.0),
        validation=rng.choice((0.0, 5.0, 30.0)),
        processing=maybe(1, 3),
        reuses_orders=rng.random() < 0.7,
        reuses_authorizations=rng.random() < 0.5,
        used_orders=maybe(1, 2, chance=0.2),
        registers=rng.random() < 0.2,
        renewal_info=rng.random() < 0.5,
        beats=rng.choice((1, 1, 2)),
        certificates=rng.choice((1, 2, 2, 3)),
        people=maybe(2, 4, 8, chance=0.8),
        healthy=2,
    )


CHANGES = ("zone.present", "zone.cleanup", "ca.new_order", "ca.finalize")
KINDS = ("die", "hold", "late", "fail", "refuse")


class Faults:
    """Draws the fault of each call, until it is stopped."""

    def __init__(self, profile: Profile, rng: random.Random) -> None:
        self.profile = profile
        self.rng = rng
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self.profile = replace(
            self.profile, lose=0, double=0, switch=0, stop=0, slow=0, used_orders=0
        )

    def of_a_call(self, name: str) -> str:
        """Return one of KINDS, or "" for a call without a fault.

        Calls that change something fail three times as often as calls that only read.
        """
        at = self.rng.random() / (3 if name in CHANGES else 1)
        if self.stopped:
            return ""
        for kind in KINDS:
            at -= getattr(self.profile, kind)
            if at < 0:
                return kind
        return ""

    def strikes(self, chance: float) -> bool:
        return not self.stopped and chance > 0 and self.rng.random() < chance

    def pause(self) -> float:
        """Return the seconds of one way of a call."""
        if self.rng.random() < self.profile.slow:
            return self.rng.uniform(1.0, 9.0)
        return self.rng.uniform(0.01, 0.3)

    def hold(self) -> float:
        return LEASE * self.rng.choice((1.05, 1.5, 2.5, 6.0))
