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
from issuance.services.bulk import Result, act, action_of, chosen, dry_run
from issuance.services.canceling import cancel, cancel_attempt
from issuance.services.certificates import (
    CertificateSpec,
    SameNames,
    Stale,
    _answers,
    create_certificate,
    issue_at_private_ca,
    judge,
    make_certificate,
    new_certificate,
    retire,
    update_certificate,
    with_names,
)
from issuance.services.counting import (
    MOST_COUNTED,
    DayCount,
    add_up,
    count,
    count_read,
    deployments_of,
    not_serving,
    of_condition,
    of_owner,
    soonest,
    summary,
    total,
    total_and_days,
)
from issuance.services.disabling import disable_provider, enable_provider
from issuance.services.export import PFX, bundle, head, to_folder
from issuance.services.finding import Filter, found
from issuance.services.idempotency import Idempotency, once
from issuance.services.labeling import MOST_LABELS, labels_of, set_labels
from issuance.services.locks import no_credential
from issuance.services.looking import Expected, Looked, ZoneProof, expected, look, zones_of
from issuance.services.materials import assigned, for_device, sealed, version_of
from issuance.services.probing import forget_probe, probe_now
from issuance.services.revocation import REASONS, revoke, revoke_replaced
from issuance.services.searching import search
from issuance.services.trusting import distrust, trust
from issuance.services.validation import COLUMNS

__all__ = [
    "COLUMNS",
    "MOST_COUNTED",
    "MOST_LABELS",
    "PFX",
    "REASONS",
    "CertificateSpec",
    "DayCount",
    "Expected",
    "Filter",
    "Idempotency",
    "Looked",
    "NotReplaced",
    "Result",
    "SameNames",
    "Stale",
    "ZoneProof",
    "_answers",
    "act",
    "action_of",
    "add_up",
    "advance",
    "assign",
    "assign_to_tag",
    "assigned",
    "bundle",
    "cancel",
    "cancel_attempt",
    "chosen",
    "count",
    "count_read",
    "create_certificate",
    "deployments_of",
    "disable_provider",
    "distrust",
    "dry_run",
    "enable_provider",
    "expected",
    "follow",
    "follow_device",
    "for_device",
    "forget_probe",
    "found",
    "head",
    "issue",
    "issue_at_private_ca",
    "judge",
    "labels_of",
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
    "set_labels",
    "soonest",
    "summary",
    "to_folder",
    "total",
    "total_and_days",
    "trust",
    "unassign",
    "unassign_from_tag",
    "update_certificate",
    "version_of",
    "with_names",
    "zones_of",
]
