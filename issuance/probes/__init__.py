"""The server's own look at what an address serves, for a person at once, or each day."""

from issuance.probes.daily import columns_of, lane_of, run
from issuance.probes.handshake import STARTTLS, Target, look

__all__ = ["STARTTLS", "Target", "columns_of", "lane_of", "look", "run"]
