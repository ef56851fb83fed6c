"""The ledger of the CAs' rate limits: buckets, and the reservations that use them."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from authorities.catalog import LimitKind
from issuance.models.attempts import Issuance


class LimitBucket(models.Model):
    """A token bucket of a CA's rate limit: `level` tokens at the time `at`.

    Tokens are added from `at` on. Capacity and refill come from `authorities.catalog` at each read
    (see `issuance.ratelimits`).
    """

    ca = models.CharField(max_length=500, help_text="the directory of the CA")
    kind = models.CharField(max_length=8, choices=LimitKind)
    subject = models.CharField(
        max_length=320, help_text="what is counted: an account, a domain, a digest of names"
    )
    label = models.CharField(
        max_length=320, blank=True, help_text="the subject as a sentence names it"
    )
    level = models.FloatField(
        help_text="tokens at `at`, without those of orders that are under way"
    )
    at = models.DateTimeField(help_text="in the future while the CA said to come back then")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        # The rows that `ratelimits.prune` reads.
        indexes = (models.Index(fields=["at"], name="buckets_by_age"),)
        constraints = (
            models.UniqueConstraint(
                fields=["ca", "kind", "subject"], name="one_bucket_for_each_subject"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.label or self.subject}"


class Reservation(models.Model):
    """An attempt's place in the queue for its CA's rate limits, then its tokens.

    See `issuance.ratelimits`.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        SENT = "sent"  # the order is being sent, or its worker died then
        SPENT = "spent"  # the CA responded

    issuance = models.OneToOneField(Issuance, models.CASCADE, related_name="reservation")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    is_renewal = models.BooleanField(default=False)
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="of the certificate that it renews"
    )
    asked_at = models.DateTimeField()
    lacks = models.ForeignKey(
        LimitBucket,
        models.SET_NULL,
        null=True,
        blank=True,
        db_index=False,
        related_name="+",
        help_text="the bucket that it waits for; empty while a trouble delays it",
    )
    sent_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (
            models.Index(
                fields=["lacks"], condition=Q(state="waiting"), name="reservations_waiting"
            ),
            # The rows that the overview reads.
            models.Index(
                fields=["owner"],
                condition=Q(state="waiting", lacks__isnull=False),
                name="reservations_of_owner",
            ),
        )

    def __str__(self) -> str:
        return f"{self.issuance_id} {self.state}"


class ReservedToken(models.Model):
    """A bucket that a reservation needs, and the charge.

    `cost` 0: the order takes no token, but the bucket must be open.
    """

    reservation = models.ForeignKey(Reservation, models.CASCADE, related_name="tokens")
    bucket = models.ForeignKey(LimitBucket, models.CASCADE, related_name="tokens")
    cost = models.PositiveSmallIntegerField(default=1)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["reservation", "bucket"], name="a_bucket_once_a_reservation"
            ),
        )

    def __str__(self) -> str:
        return f"{self.reservation_id} {self.bucket_id}"
