"""The actions of people: create, issue, renew, cancel, revoke, assign, export, delete."""

from certctrl.fileset import NotReplaced
from issuance.services.assigning import (
    assign,
    assign_to_tag,
    follow,
    follow_device,
    unassign,
    unassign_from_tag,
)
from issuance.services.attempts import (
    advance,
    issue,
    new_issuance,
    open_issuance,
    refuse_issuance,
    request_issuance,
    retry_attempt,
)
from issuance.services.canceling import cancel, cancel_attempt
from issuance.services.certificates import (
    CertificateSpec,
    _answers,
    create_certificate,
    issue_at_private_ca,
    make_certificate,
    new_certificate,
    retire,
    update_certificate,
)
from issuance.services.counting import (
    MOST_COUNTED,
    DayCount,
    add_up,
    by_day,
    count,
    deployments_of,
    not_serving,
    of_condition,
    of_owner,
    summary,
    total,
)
from issuance.services.export import PFX, bundle, head, to_folder
from issuance.services.idempotency import Idempotency, once
from issuance.services.locks import no_credential
from issuance.services.looking import look
from issuance.services.materials import assigned, for_device, sealed, version_of
from issuance.services.probing import forget_probe, probe_now
from issuance.services.revocation import revoke, revoke_replaced
from issuance.services.searching import search
from issuance.services.trusting import distrust, trust
from issuance.services.validation import COLUMNS

__all__ = [
    "COLUMNS",
    "MOST_COUNTED",
    "PFX",
    "CertificateSpec",
    "DayCount",
    "Idempotency",
    "NotReplaced",
    "_answers",
    "add_up",
    "advance",
    "assign",
    "assign_to_tag",
    "assigned",
    "bundle",
    "by_day",
    "cancel",
    "cancel_attempt",
    "count",
    "create_certificate",
    "deployments_of",
    "distrust",
    "follow",
    "follow_device",
    "for_device",
    "forget_probe",
    "head",
    "issue",
    "issue_at_private_ca",
    "look",
    "make_certificate",
    "new_certificate",
    "new_issuance",
    "no_credential",
    "not_serving",
    "of_condition",
    "of_owner",
    "once",
    "open_issuance",
    "probe_now",
    "refuse_issuance",
    "request_issuance",
    "retire",
    "retry_attempt",
    "revoke",
    "revoke_replaced",
    "sealed",
    "search",
    "summary",
    "to_folder",
    "total",
    "trust",
    "unassign",
    "unassign_from_tag",
    "update_certificate",
    "version_of",
]
