"""Respect the rate limits of CAs.

An order that the CA would refuse waits for its slot.

- `charges`: the buckets that an order takes tokens from, for example one for each registered
  domain. The size of each bucket is in `authorities.catalog`.
- `opening`: the attempts of due certificates that will soon have their tokens are opened.
- `reservations`: an order takes its tokens or waits. The result of newOrder is recorded.
- `queue`: the reservation that gets the next slot.
- `ledger`, `buckets`: the tokens.
- `feedback`: a refusal of the CA closes a bucket.
- `messages`, `status`: sentences and figures for people.
"""

from issuance.ratelimits.charges import Charges, charges_of
from issuance.ratelimits.opening import Room, choose, queue_up, slot_of
from issuance.ratelimits.reservations import (
    count_failed_validation,
    end_reservation,
    prune,
    record_order_result,
    refuse_far_slot,
    reserve,
    step_aside,
)
from issuance.ratelimits.status import left_of_set, levels, scarce

__all__ = [
    "Charges",
    "Room",
    "charges_of",
    "choose",
    "count_failed_validation",
    "end_reservation",
    "left_of_set",
    "levels",
    "prune",
    "queue_up",
    "record_order_result",
    "refuse_far_slot",
    "reserve",
    "scarce",
    "slot_of",
    "step_aside",
]
