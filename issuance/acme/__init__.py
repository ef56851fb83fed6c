"""An ACME CA (RFC 8555), over the `acme` library, which nothing else imports.

The library signs, writes messages and reads resources. Requests leave through `certctrl.outgoing`, refusals are mapped
in `issuance.problems`, and nothing here polls: the library's `poll_*` and `finalize_order` sleep.
"""

from issuance.acme.accountkeys import hmac_key_of, new_account_key, thumbprint
from issuance.acme.client import AcmeCA, ExternalAccount
from issuance.acme.network import Reach

__all__ = ["AcmeCA", "ExternalAccount", "Reach", "hmac_key_of", "new_account_key", "thumbprint"]
