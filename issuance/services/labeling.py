"""The labels that an owner gives to certificates."""

import unicodedata
from collections.abc import Iterable

from django.db import transaction
from django.db.models import QuerySet

from accounts import quotas
from accounts.models import User
from certctrl.errors import Invalid, QuotaExceeded
from certctrl.sentences import sentence as _
from issuance.models import Certificate, Label
from issuance.services.attempts import audit_certificate

MOST_LABELS = 20  # of one certificate
MOST_OF_OWNER = 200  # different ones


def labels_of(owner: User) -> list[str]:
    """Return the labels of the owner, sorted, at most as many as an owner may have."""
    names = _rows_of(owner).order_by("name").values_list("name", flat=True)
    return list(names[:MOST_OF_OWNER])


def _rows_of(owner: User) -> QuerySet[Label]:
    return Label.objects.filter(owner=owner)


def label_of(text: str, field: str = "labels") -> str:
    """Return the label as it is stored. Raise Invalid when it is none."""
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    if not name or len(name) > Label.LONGEST or "," in name or not name.isprintable():
        raise Invalid(
            _(
                "A label has 1 to %(longest)s printable characters and no comma. Choose another.",
                longest=Label.LONGEST,
            ),
            field=field,
        )
    return name


def set_labels(certificate: Certificate, texts: Iterable[str]) -> list[str]:
    """Give the certificate these labels and no others. Return them, sorted.

    Raise Invalid for text that is no label, and for too many labels. Raise QuotaExceeded when the
    owner has too many different labels.
    """
    wanted = sorted({label_of(text) for text in texts})
    if len(wanted) > MOST_LABELS:
        raise Invalid(
            _(
                "%(domain)s would have %(count)s labels, and %(most_labels)s are the most. "
                "Leave some out.",
                domain=certificate.domain,
                count=len(wanted),
                most_labels=MOST_LABELS,
            ),
            field="labels",
        )
    with transaction.atomic():
        # Locked, so that two requests do not count the same labels.
        owner = quotas.lock(certificate.owner_id)
        before = sorted(certificate.labels.values_list("name", flat=True))
        if before != wanted:
            rows = _made(owner, wanted)
            certificate.labels.set(rows)
            _rows_of(owner).filter(name__in=before, certificates=None).delete()
            _refuse_more(owner)
            audit_certificate(certificate, "labels_changed", labels=[before, wanted])
    return wanted


def _made(owner: User, names: list[str]) -> list[Label]:
    Label.objects.bulk_create(
        [Label(owner=owner, name=name) for name in names], ignore_conflicts=True
    )
    return list(_rows_of(owner).filter(name__in=names))


def _refuse_more(owner: User) -> None:
    if _rows_of(owner).count() > MOST_OF_OWNER:
        raise QuotaExceeded(
            _(
                "You have %(most_of_owner)s different labels, which are the most. Use one of them.",
                most_of_owner=MOST_OF_OWNER,
            )
        )
