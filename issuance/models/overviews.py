"""Tables that triggers of the table of certificates write, so that pages read few rows.

See docs/decisions/0057-pages-read-few-rows.md. The triggers are in the migration.
"""

from django.conf import settings
from django.db import models
from django.db.models import Q

from issuance.models.certificates import Certificate


class CertificateCount(models.Model):
    """How many certificates of an owner there are, renew and end. A count is a sum of rows.

    A change adds a row, so that no transaction waits for another. The hourly pruning adds them up.
    """

    class Kind(models.TextChoices):
        ALL = "all"
        RENEWS = "renews"
        ENDS = "ends"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False
    )
    kind = models.CharField(max_length=6, choices=Kind)
    day = models.DateField(null=True, blank=True, help_text="in UTC; null for all")
    number = models.IntegerField()
    is_sum = models.BooleanField(default=False)

    class Meta:
        indexes = (
            models.Index(fields=["owner", "kind", "day"], name="counts_of_owner"),
            models.Index(fields=["owner"], condition=Q(is_sum=False), name="counts_to_add_up"),
        )

    def __str__(self) -> str:
        return f"{self.number} {self.kind} {self.day or ''}".strip()


class NamePart(models.Model):
    """A name of a certificate from one of its labels on, except the last label.

    The parts of `www.example.com` are `www.example.com` and `example.com`. They are stored as
    bytes, because every database sorts bytes in the same way. So a range has what begins alike.
    """

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False
    )
    certificate = models.ForeignKey(Certificate, models.CASCADE, related_name="parts")
    part = models.BinaryField(max_length=253)

    class Meta:
        indexes = (models.Index(fields=["owner", "part", "certificate"], name="parts_of_owner"),)

    def __str__(self) -> str:
        return bytes(self.part).decode()
