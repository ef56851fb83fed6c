"""Find reasons in the zone for a refusal by the CA, before an order is sent."""

from issuance.preflight.caa import denial
from issuance.preflight.checks import MOST_ZONES, before_order, check, forget, look, run
from issuance.preflight.report import Finding, text_of, together
from issuance.preflight.rules import CNAME_CODES, of_caa, of_cnames, of_zones

__all__ = [
    "CNAME_CODES",
    "MOST_ZONES",
    "Finding",
    "before_order",
    "check",
    "denial",
    "forget",
    "look",
    "of_caa",
    "of_cnames",
    "of_zones",
    "run",
    "text_of",
    "together",
]
