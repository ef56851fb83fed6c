"""Who needs the TXT record of a dns-01 challenge (RFC 8555, section 8.4)."""

from django.db.models import Exists, OuterRef, QuerySet

from dnsproviders.models import TxtRecord, TxtRecordQuerySet
from issuance.models import Authorization, Issuance

# --- who needs a record ---


def records_of(issuance: Issuance) -> TxtRecordQuerySet:
    """The records of every attempt at these names with this account, whatever the credential."""
    authorized = Authorization.objects.filter(
        record=OuterRef("pk"), issuance__names_key=issuance.names_key
    )
    return TxtRecord.objects.filter(Exists(authorized))


def needed_records(records: QuerySet[TxtRecord]) -> QuerySet[TxtRecord]:
    """Those that an open attempt before `validated` needs, asked by name and value, whatever the credential.

    An attempt that waits for an older one with the same names counts: the CA will hand it the same authorizations.
    """
    # Record, then authorization, then attempt: the other way round is due records times open attempts.
    wanting = Issuance.objects.open().filter(
        state__in=Issuance.BEFORE_VALIDATED, names_key=OuterRef("issuance__names_key")
    )
    asked = Authorization.objects.filter(
        Exists(wanting), record__name=OuterRef("name"), record__value=OuterRef("value")
    )
    return records.filter(Exists(asked))


def is_needed(record: TxtRecord) -> bool:
    return needed_records(TxtRecord.objects.filter(pk=record.pk)).exists()
