"""The owner's own name server: dynamic updates (RFC 2136) over TCP."""

from dnsproviders.providers.rfc2136.fields import (
    ALGORITHMS,
    checked_key_name,
    checked_server,
    checked_tsig_secret,
)
from dnsproviders.providers.rfc2136.provider import PATIENCE, RFC2136

__all__ = [
    "ALGORITHMS",
    "PATIENCE",
    "RFC2136",
    "checked_key_name",
    "checked_server",
    "checked_tsig_secret",
]
