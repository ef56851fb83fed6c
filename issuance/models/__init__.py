"""What is issued: accounts at CAs, certificates, and each attempt at one with everything that it needs to go on."""

from issuance.models.accounts import AcmeAccount, PrivateCA
from issuance.models.attempts import Authorization, Issuance, IssuanceEvent, IssuanceQuerySet, RequestKey
from issuance.models.certificates import Certificate, CertificateVersion, RenewalInfo, new_public_id
from issuance.models.limits import LimitBucket, Reservation, ReservedToken
from issuance.models.operations import Drill, Exchange

__all__ = [
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
    "new_public_id",
]
