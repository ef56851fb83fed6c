"""Search the certificates of an owner."""

from django.db.models import Q, QuerySet

from accounts.models import User
from issuance.models import Certificate, CertificateVersion, NamePart

MOST = 1000  # certificates that are found by their ids
AFTER_ALL = b"\xff"  # no UTF-8 has this byte


def search(rows: QuerySet[Certificate], owner: User, words: str) -> QuerySet[Certificate]:
    """Return the certificates with a name, or a label of a name, that begins with `words`.

    The last label of a name does not count. A serial number is found as a whole.
    """
    begin = words.lower().encode()
    parts = NamePart.objects.filter(owner=owner, part__gte=begin, part__lt=begin + AFTER_ALL)
    found = set(parts.order_by("part").values_list("certificate", flat=True)[: MOST * 2])
    if len(found) > MOST:
        # Many names begin like this, so a few rows in any order have enough of them. PostgreSQL
        # has statistics of the domains, and reads in this order because they say so.
        label = words.lower()
        in_domain = Q(domain__startswith=label) | Q(domain__contains=f".{label}")
        in_others = Q(names__icontains=f'"{label}') | Q(names__icontains=f".{label}")
        return rows.filter(in_domain | in_others)
    serial = words.replace(":", "").lower()
    versions = CertificateVersion.objects.filter(serial=serial, certificate__owner=owner)
    found.update(versions.values_list("certificate", flat=True)[:MOST])
    return rows.filter(pk__in=found)
