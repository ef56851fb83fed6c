"""The DNS credentials, the TXT records that we write with them, and the API limits."""

from typing import ClassVar, Self

from django.conf import settings
from django.db import models
from django.db.models import Q

from certctrl.sentences import SentenceField
from certctrl.turns import Turns, TurnsQuerySet
from keystore.models import Envelope


class DisabledProvider(models.Model):
    """A DNS provider that the operator has disabled. A provider without a row is enabled."""

    provider = models.CharField(max_length=32, unique=True)
    disabled_at = models.DateTimeField()
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False, related_name="+"
    )
    why = models.CharField(max_length=200, help_text="a sentence that every owner may read")

    def __str__(self) -> str:
        return self.provider


class DnsCredential(models.Model):
    class PropagationCheck(models.TextChoices):
        AUTHORITATIVE = "authoritative"
        RECURSIVE = "recursive"
        OFF = "off"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="dns_credentials"
    )
    name = models.CharField(max_length=64)
    provider = models.CharField(max_length=32)
    public = models.JSONField(default=dict, help_text="the provider's fields that are not secret")
    party = models.CharField(
        max_length=255,
        default="",
        blank=True,
        editable=False,
        help_text="the host that is called, where each credential has its own",
    )
    secret = models.ForeignKey(
        Envelope, models.PROTECT, null=True, related_name="+", editable=False
    )
    ttl = models.PositiveIntegerField(default=60, help_text="seconds")
    propagation_check = models.CharField(
        max_length=16, choices=PropagationCheck, default=PropagationCheck.AUTHORITATIVE
    )
    propagation_timeout = models.PositiveIntegerField(default=1800, help_text="seconds")
    settle = models.PositiveIntegerField(
        default=0, help_text="seconds to wait after the last server shows a record"
    )
    checked_at = models.DateTimeField(null=True, blank=True)
    last_error = SentenceField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    # No column, but a join. So a turn reads with its row whether the provider is disabled.
    disablement = models.ForeignObject(
        DisabledProvider,
        models.DO_NOTHING,
        from_fields=["provider"],
        to_fields=["provider"],
        null=True,
        editable=False,
        related_name="+",
    )

    @property
    def disabled(self) -> DisabledProvider | None:
        """The row of the provider if it is disabled. `select_related("disablement")` reads it."""
        try:
            found: DisabledProvider | None = self.disablement
        except DisabledProvider.DoesNotExist:
            return None
        return found

    def __str__(self) -> str:
        return self.name


class TxtRecordQuerySet(TurnsQuerySet["TxtRecord"]):
    def in_the_zone(self) -> Self:
        """Return every record that is in its zone, or may be there."""
        return self.filter(intent_at__isnull=False, cleaned_at=None)


class TxtRecord(Turns):
    """A TXT record, from the intent to write it until it is gone.

    Zone, name and value identify the record. No provider's record id is stored.
    """

    credential = models.ForeignKey(
        DnsCredential, models.PROTECT, related_name="records", db_index=False
    )
    zone = models.CharField(
        max_length=255, blank=True, help_text="the id of the zone at the provider"
    )
    name = models.CharField(
        max_length=255, help_text="the name of the record after CNAMEs, without the last dot"
    )
    value = models.CharField(max_length=255)
    intent_at = models.DateTimeField(null=True, blank=True)
    presented_at = models.DateTimeField(null=True, blank=True)
    cleaned_at = models.DateTimeField(null=True, blank=True)
    # Until then, a call with an unknown result may still write the record. Cleanup checks once more
    # after this time.
    unsure_until = models.DateTimeField(null=True, blank=True)
    left_behind = SentenceField(blank=True, help_text="why the last cleanup failed")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TxtRecordQuerySet.as_manager()

    class Meta(Turns.Meta):
        constraints: ClassVar = (
            models.UniqueConstraint(
                fields=["credential", "name", "value"], name="one_row_per_txt_record"
            ),
            models.CheckConstraint(
                condition=Q(intent_at__isnull=True)
                | Q(cleaned_at__isnull=False)
                | Q(wake_at__isnull=False),
                name="an_intended_record_wakes_until_it_is_cleaned",
            ),
        )
        indexes: ClassVar = (
            *Turns.Meta.indexes,
            models.Index(fields=["name", "value"], name="records_by_name_and_value"),
            # The rows that `records.prune` reads.
            models.Index(
                fields=["created_at"], condition=Q(wake_at__isnull=True), name="records_over"
            ),
        )

    @property
    def ttl(self) -> int:
        return self.credential.ttl

    @property
    def is_published(self) -> bool:
        return bool(self.presented_at and not self.cleaned_at)

    def __str__(self) -> str:
        return f"{self.name} TXT {self.value}"


class ApiBucket(models.Model):
    """A bucket with the calls that one user may still make to the API of a DNS provider.

    All workers share it. A row may also be a `ratelimit.Gate`.
    """

    key = models.CharField(
        max_length=128,
        unique=True,
        help_text="the provider, and the account whose calls are counted",
    )
    # The theoretical arrival time of the generic cell rate algorithm. One conditional UPDATE takes
    # a token.
    full_at = models.DateTimeField(help_text="when the bucket is full again")

    def __str__(self) -> str:
        return self.key
