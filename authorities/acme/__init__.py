"""An ACME CA (RFC 8555), over the `acme` library. Only this package imports that library.

The library signs requests, writes messages and reads resources. `certctrl.outgoing` sends the
requests. `authorities.acme.problems` maps refusals to exceptions. Nothing here polls, so the
library's `poll_*` and `finalize_order` are not used, because they sleep.
"""

from authorities.acme.client import AcmeCA, ExternalAccount
from authorities.acme.keys import hmac_key_of, new_account_key, thumbprint
from authorities.acme.network import Connection, connection_to
from authorities.acme.problems import (
    ErrorResponse,
    absolute,
    is_bad_nonce,
    json_of,
    refusal_of,
    trouble_of,
    words_of,
)
from authorities.base import Reach

__all__ = [
    "AcmeCA",
    "Connection",
    "ErrorResponse",
    "ExternalAccount",
    "Reach",
    "absolute",
    "connection_to",
    "hmac_key_of",
    "is_bad_nonce",
    "json_of",
    "new_account_key",
    "refusal_of",
    "thumbprint",
    "trouble_of",
    "words_of",
]
