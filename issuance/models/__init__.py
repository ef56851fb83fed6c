"""What is issued: accounts at CAs, certificates, and each attempt at one with everything that it needs to go on."""

from authorities.models import AcmeAccount, Exchange, PrivateCA
from issuance.models.attempts import TOO_LONG, Authorization, Issuance, IssuanceEvent, IssuanceQuerySet, RequestKey
from issuance.models.certificates import Certificate, CertificateVersion, RenewalInfo, digest, names_key, new_public_id
from issuance.models.drills import Drill
from issuance.models.ratelimits import LimitBucket, Reservation, ReservedToken

__all__ = [
    "TOO_LONG",
    "AcmeAccount",
    "Authorization",
    "Certificate",
    "CertificateVersion",
    "Drill",
    "Exchange",
    "Issuance",
    "IssuanceEvent",
    "IssuanceQuerySet",
    "LimitBucket",
    "PrivateCA",
    "RenewalInfo",
    "RequestKey",
    "Reservation",
    "ReservedToken",
    "digest",
    "names_key",
    "new_public_id",
]
