"""The rows of certificates, deployments, attempts, drills and rate limits."""

from issuance.models.attempts import (
    TOO_LONG,
    Authorization,
    Issuance,
    IssuanceEvent,
    IssuanceQuerySet,
    RequestKey,
    open_attempts,
)
from issuance.models.certificates import (
    KEY_COMPROMISE,
    PLANNED_LATE,
    Certificate,
    CertificateVersion,
    Label,
    RenewalInfo,
    digest,
    names_key,
    new_public_id,
)
from issuance.models.deployments import NOT_SERVED, CertificateTag, Deployment, TrustedCA
from issuance.models.drills import Drill
from issuance.models.overviews import CertificateCount, NamePart
from issuance.models.probes import Probe
from issuance.models.ratelimits import LimitBucket, Reservation, ReservedToken

__all__ = [
    "KEY_COMPROMISE",
    "NOT_SERVED",
    "PLANNED_LATE",
    "TOO_LONG",
    "Authorization",
    "Certificate",
    "CertificateCount",
    "CertificateTag",
    "CertificateVersion",
    "Deployment",
    "Drill",
    "Issuance",
    "IssuanceEvent",
    "IssuanceQuerySet",
    "Label",
    "LimitBucket",
    "NamePart",
    "Probe",
    "RenewalInfo",
    "RequestKey",
    "Reservation",
    "ReservedToken",
    "TrustedCA",
    "digest",
    "names_key",
    "new_public_id",
    "open_attempts",
]
