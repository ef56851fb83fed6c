"""Attempts to get a certificate, with their events, authorizations and idempotency keys."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Case, F, Prefetch, Q, Value, When
from django.utils.functional import cached_property

from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.sentences import SentenceField
from certctrl.statements import insert_all
from certctrl.turns import Turns, TurnsQuerySet
from dnsproviders.models import DnsCredential, TxtRecord
from issuance.models.certificates import Certificate
from issuance.models.progress import OrderAtCA, Propagation
from keystore.models import Envelope

GOLDEN = 0.618034  # fractional parts of its multiples are spread evenly


class IssuanceQuerySet(TurnsQuerySet["Issuance"]):
    def claim_fields(self, at: Any, ends: Any, late: Any) -> dict[str, Any]:
        """Return the columns that a claim writes.

        A turn that begins late moves the deadline by the same time. So an outage of this server
        does not end attempts.
        """
        now = Value(at) if isinstance(at, datetime) else at
        is_late = When(wake_at__lt=late, then=F("deadline_at") + (now - F("wake_at")))
        fields = super().claim_fields(at, ends, late)
        return fields | {"deadline_at": Case(is_late, default=F("deadline_at"))}

    def open(self) -> "IssuanceQuerySet":
        """Return the attempts that have not ended."""
        return self.filter(wake_at__isnull=False)

    def open_of(self, certificate: Certificate) -> "Issuance | None":
        """Return the open attempt of a certificate, or None.

        Use the result of `open_attempts` when a query prefetched it.
        """
        prefetched: list[Issuance] | None = getattr(certificate, "open_issuances", None)
        if prefetched is not None:
            return prefetched[0] if prefetched else None
        return self.open().filter(certificate=certificate).first()

    def needs_look(self) -> "IssuanceQuerySet":
        """Return the due attempts that wait for their records and that no worker holds."""
        return self.due(clock.now()).filter(state=Issuance.State.PRESENTED, holder="")

    def put_looks_back(self) -> None:
        """Let the sweep send looks again for the attempts that wait for their records."""
        self.needs_look().exclude(queued_at=None).update(queued_at=None)

    def wake_queued(self) -> None:
        """Wake the queued attempts that no worker holds."""
        waiting = self.open().filter(state=Issuance.State.QUEUED, holder="")
        waiting.update(wake_at=clock.now(), queued_at=None)


def open_attempts() -> "Prefetch[Any, Any, Any]":
    """Return the prefetch of the open attempt of certificates, which `open_of` reads."""
    return Prefetch("issuances", Issuance.objects.open(), to_attr="open_issuances")


class Issuance(OrderAtCA, Propagation, Turns):
    """One attempt to get a certificate. It is open as long as `wake_at` is set."""

    class Reason(models.TextChoices):
        NEW = "new"
        RENEWAL = "renewal"
        MANUAL = "manual"

    class State(models.TextChoices):
        QUEUED = "queued"
        ORDERED = "ordered"
        PRESENTED = "presented"
        PROPAGATED = "propagated"
        VALIDATED = "validated"
        FINALIZED = "finalized"
        ISSUED = "issued"
        FAILED = "failed"
        CANCELED = "canceled"

    class Failure(models.TextChoices):
        """The effect of a failure on the next attempt."""

        TRANSIENT = "transient"  # the next attempt may succeed; the retry table sets its time
        LIMITED = "limited"  # the CA, or this server's ledger of its limits, set the time
        PERMANENT = "permanent"  # somebody must change something first

    OPEN = (
        State.QUEUED,
        State.ORDERED,
        State.PRESENTED,
        State.PROPAGATED,
        State.VALIDATED,
        State.FINALIZED,
    )
    BEFORE_VALIDATED = OPEN[:4]  # here a person may cancel, and the TXT records are needed

    certificate = models.ForeignKey(
        Certificate, models.PROTECT, related_name="issuances", db_index=False
    )
    # Account and credential at the start of the attempt. The certificate's may change later.
    account = models.ForeignKey(
        AcmeAccount, models.PROTECT, related_name="issuances", db_index=False
    )
    credential = models.ForeignKey(
        DnsCredential, models.PROTECT, null=True, blank=True, related_name="issuances"
    )
    names_key = models.CharField(max_length=64, editable=False)
    number = models.PositiveIntegerField(
        default=1, help_text="of the certificate's attempts, from 1"
    )
    reason = models.CharField(max_length=8, choices=Reason)
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    state_since = models.DateTimeField()
    deadline_at = models.DateTimeField()
    waits_for = SentenceField(blank=True)
    validity_seconds = models.PositiveIntegerField(null=True, blank=True)
    csr_pem = models.TextField(blank=True)
    key = models.ForeignKey(
        Envelope, models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    slot_at = models.DateTimeField(
        null=True, blank=True, help_text="when the CA's limits let it order, as estimated"
    )
    preflighted_at = models.DateTimeField(null=True, blank=True)
    proves = models.BooleanField(
        default=False, help_text="at the CA's staging: what is issued is thrown away"
    )
    error_code = models.CharField(max_length=64, blank=True)
    error_what = SentenceField(blank=True)
    failure = models.CharField(max_length=9, choices=Failure, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = IssuanceQuerySet.as_manager()
    is_unsent = False  # stored as sent by the caller, who still has to send it
    # The authorizations, as the walk of this object knows them. None: they must be read.
    listed: "Sequence[Authorization] | None" = None
    # The names of the zones that resolvers see, by the TXT record, as this walk has learned them.
    zones: Mapping[str, str] = MappingProxyType({})

    class Meta(Turns.Meta):
        indexes: ClassVar = (
            *Turns.Meta.indexes,
            # The due attempts that do not wait for a look. The others may be many.
            models.Index(
                fields=["wake_at"],
                condition=Q(wake_at__isnull=False) & ~Q(state="presented"),
                name="issuances_steps_due",
            ),
            models.Index(fields=["names_key"], name="issuances_by_names"),
            models.Index(fields=["account", "order_url"], name="issuances_by_order"),
            models.Index(fields=["certificate", "-id"], name="issuances_of_certificate"),
            # The rows that prune_attempts reads. Open ones are not in it, because each step would
            # write it.
            models.Index(
                fields=["state", "ended_at"],
                condition=Q(ended_at__isnull=False),
                name="issuances_by_end",
            ),
            models.Index(
                fields=["ended_at"], condition=Q(proves=True), name="issuances_at_staging"
            ),
        )
        constraints: ClassVar = (
            models.UniqueConstraint(
                fields=["certificate"],
                condition=Q(wake_at__isnull=False),
                name="one_open_issuance_per_certificate",
            ),
            models.UniqueConstraint(
                # With the account, because another account's CA may use the same order URL.
                fields=["account", "order_url"],
                condition=Q(wake_at__isnull=False) & ~Q(order_url=""),
                name="one_open_issuance_per_order",
            ),
            models.CheckConstraint(
                condition=Q(
                    wake_at__isnull=False,
                    state__in=[
                        "queued",
                        "ordered",
                        "presented",
                        "propagated",
                        "validated",
                        "finalized",
                    ],
                )
                | Q(wake_at__isnull=True, state__in=["issued", "failed", "canceled"]),
                name="an_issuance_wakes_as_long_as_it_is_open",
            ),
        )

    @cached_property
    def new_events(self) -> "list[IssuanceEvent]":
        """Events that the end of the transaction stores."""
        return []

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Store `new_events` at the end of the transaction."""
        try:
            with super().atomic():
                yield
                insert_all(self.new_events)
        finally:
            self.new_events.clear()

    @property
    def is_open(self) -> bool:
        return self.wake_at is not None

    @property
    def is_first(self) -> bool:
        """Whether the certificate had no attempt, and so no version, when this one was made."""
        return self.number == 1

    def age(self) -> timedelta:
        """Return how long the attempt has been in its state."""
        return clock.now() - self.state_since

    def patience(self) -> float:
        """Return the seconds until the next check.

        The result is a quarter of the time in this state, at least 1 and at most 30.
        It is at least 5 when the records were published again, because no server showed them. It
        varies by 20 percent, so that many attempts do not check at the same moment.
        """
        spread = 0.8 + 0.4 * (self.pk * GOLDEN % 1)
        least = 5.0 if self.presents else 1.0
        return min(30.0, max(least, self.age().total_seconds() / 4 * spread))

    def spread(self, seconds: float) -> float:
        """Return up to a quarter more than `seconds`, always the same for the same attempt.

        A CA may name the same number of seconds to many attempts. They must not all come back at
        the same moment.
        """
        return seconds * (1 + self.pk * GOLDEN % 1 / 4)

    def __str__(self) -> str:
        return f"{self.certificate_id} #{self.number}"


class IssuanceEvent(models.Model):
    """An event of an attempt, as its owner reads it. Rows are only added."""

    class Outcome(models.TextChoices):
        DONE = "done"
        WAIT = "wait"
        RETRY = "retry"
        FAILED = "failed"

    issuance = models.ForeignKey(Issuance, models.CASCADE, related_name="events", db_index=False)
    at = models.DateTimeField(db_index=True)
    step = models.CharField(max_length=16)
    outcome = models.CharField(max_length=8, choices=Outcome)
    what = SentenceField()
    took_ms = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = (models.Index(fields=["issuance", "id"], name="events_of_issuance"),)

    def __str__(self) -> str:
        return f"{self.step} {self.outcome}"


class Authorization(models.Model):
    """An authorization of an attempt's order (RFC 8555, section 7.1.4).

    Valid ones are stored too.
    """

    class Status(models.TextChoices):
        """The statuses of RFC 8555, section 7.1.6, and `unread` before the first reading."""

        UNREAD = "unread"
        PENDING = "pending"
        VALID = "valid"
        INVALID = "invalid"

    issuance = models.ForeignKey(
        Issuance, models.CASCADE, related_name="authorizations", db_index=False
    )
    url = models.CharField(max_length=500)
    identifier = models.CharField(max_length=253, blank=True)
    wildcard = models.BooleanField(default=False)
    status = models.CharField(max_length=16, choices=Status, default=Status.UNREAD)
    challenge = models.CharField(max_length=32, blank=True, help_text="its type")
    challenge_url = models.CharField(max_length=500, blank=True)
    record = models.ForeignKey(
        TxtRecord, models.SET_NULL, null=True, blank=True, related_name="authorizations"
    )
    agent_challenge = models.ForeignKey(
        "devices.AgentChallenge",
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="authorizations",
    )
    seen_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["issuance", "url"], name="one_row_per_authorization"),
        )

    def __str__(self) -> str:
        return self.identifier or self.url


class RequestKey(models.Model):
    """An Idempotency-Key from a client, and what its request made."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False
    )
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, help_text="SHA-256 of method, path and body")
    certificate = models.ForeignKey(Certificate, models.CASCADE, null=True, related_name="+")
    issuance = models.ForeignKey(Issuance, models.CASCADE, null=True, related_name="+")
    results = models.JSONField(null=True, help_text="of a bulk action; null until it has ended")
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["owner", "key"], name="one_request_per_idempotency_key"
            ),
        )

    def __str__(self) -> str:
        return self.key


# A longer wait ends the attempt. The next attempt starts when the wait would have ended.
TOO_LONG = timedelta(hours=6)
