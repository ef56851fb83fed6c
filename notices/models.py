"""Notices, the settings and webhooks that say where they go, and their deliveries."""

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.functional import cached_property

from certctrl.sentences import SentenceField
from certctrl.turns import Turns, TurnsQuerySet
from keystore import envelope
from keystore.models import Envelope


class Notice(models.Model):
    """A message to an owner about one event. It is written once, even if it is raised again."""

    class Kind(models.TextChoices):
        RENEWED = "renewed"
        RENEWAL_FAILED = "renewal_failed"
        EXPIRING = "expiring"
        CA_EXPIRING = "ca_expiring"
        RECORD_LEFT_BEHIND = "record_left_behind"
        CREDENTIAL_REFUSED = "credential_refused"
        NOT_SERVED = "not_served"  # by a device or an address
        ACTION_NEEDED = "action_needed"  # no more tries until a person changes something
        AUDIT_HEAD = "audit_head"
        TEST = "test"
        CONFIRM_ADDRESS = "confirm_address"  # only its mail has the code

    # Mails of these kinds have their own daily count. Other mails never delay them.
    PRESSING: ClassVar[tuple[str, ...]] = (
        Kind.EXPIRING,
        Kind.CA_EXPIRING,
        Kind.CREDENTIAL_REFUSED,
        Kind.NOT_SERVED,
        Kind.ACTION_NEEDED,
    )
    # The kinds that an owner may mute and a webhook may select.
    CHOOSABLE: ClassVar[list[tuple[str, str]]] = [
        each for each in Kind.choices if each[0] != "confirm_address"
    ]

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="notices", db_index=False
    )
    kind = models.CharField(max_length=20, choices=Kind)
    subject = SentenceField()
    body = SentenceField(help_text="plain text for people")
    data = models.JSONField(default=dict, help_text="the same facts, for programs")
    dedupe_key = models.CharField(max_length=200, editable=False)
    raised_at = models.DateTimeField()
    last_raised_at = models.DateTimeField(
        db_index=True, help_text="of the same event, to within half a day"
    )

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["owner", "dedupe_key"], name="an_event_is_told_once"),
        )
        indexes = (models.Index(fields=["owner", "-id"], name="notices_of_owner"),)

    def __str__(self) -> str:
        return self.subject


class Webhook(models.Model):
    """A URL that notices are posted to, signed by Standard Webhooks."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="webhooks")
    name = models.CharField(max_length=64)
    host = models.CharField(max_length=500, blank=True, editable=False)
    address = models.ForeignKey(
        Envelope,
        models.PROTECT,
        null=True,
        related_name="+",
        editable=False,
        help_text="its path or query may be a secret",
    )
    secret = models.ForeignKey(
        Envelope, models.PROTECT, null=True, related_name="+", editable=False
    )
    kinds = models.JSONField(default=list, blank=True, help_text="kinds of notices; empty for all")
    disabled_at = models.DateTimeField(null=True, blank=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    last_error = SentenceField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    @property
    def enabled(self) -> bool:
        return self.disabled_at is None

    @cached_property
    def url(self) -> str:
        """Return the complete URL, or an empty string if the webhook was removed."""
        return envelope.unseal(self.address).decode() if self.address else ""

    def __str__(self) -> str:
        return self.name


class NoticeSettings(models.Model):
    """An owner's settings for notices. An owner without a row has the defaults."""

    owner = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="notice_settings"
    )
    email_on = models.BooleanField(default=True)
    email = models.EmailField(blank=True, help_text="empty for the owner's address")
    muted = models.JSONField(
        default=list, blank=True, help_text="kinds of notices that are stored but not sent"
    )
    digest_over = models.PositiveIntegerField(
        default=20, help_text="mails in a day; further notices go into a digest"
    )
    confirmed_email = models.EmailField(
        blank=True, help_text="the last address that was confirmed with a code"
    )
    made_up_email = models.EmailField(
        blank=True, help_text="an owner's address that nobody has confirmed"
    )
    code_seed = models.CharField(max_length=32, blank=True, editable=False)
    code_sent_at = models.DateTimeField(null=True, blank=True)
    code_tries = models.PositiveSmallIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "notice settings"

    @property
    def own_email(self) -> str:
        """Return the owner's own address, or an empty string if `make run` made it up."""
        own: str = self.owner.email
        return "" if own.lower() == self.made_up_email.lower() else own

    @property
    def unconfirmed(self) -> str:
        """Return the wanted address if it is not confirmed, else an empty string."""
        address: str = self.email or self.owner.email
        known = (self.confirmed_email.lower(), self.own_email.lower())
        return "" if address.lower() in known else address

    @property
    def mails_go_to(self) -> str:
        """Return the address that mails go to, or an empty string if there is none.

        It is the wanted address once this is confirmed. Until then it is the one before.
        """
        if self.unconfirmed:
            return self.confirmed_email or self.own_email
        return self.email or self.owner.email

    def forget_code(self) -> None:
        self.code_seed = ""
        self.save()

    def __str__(self) -> str:
        return f"notices to {self.email or self.owner}"


class Delivery(Turns):
    """One copy of a notice for one address or webhook, or a digest of the mails that were held.

    `wake_at` is set until the delivery is sent, given up, or held for a digest.
    """

    class Channel(models.TextChoices):
        EMAIL = "email"
        WEBHOOK = "webhook"

    class State(models.TextChoices):
        WAITING = "waiting"
        SENT = "sent"
        HELD = "held"  # for a digest
        GIVEN_UP = "given_up"

    uuid = models.UUIDField(
        default=uuid.uuid4, unique=True, editable=False, help_text="the same in each retry"
    )
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="deliveries")
    notice = models.ForeignKey(
        Notice,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="deliveries",
        db_index=False,
        help_text="empty for a digest",
    )
    channel = models.CharField(max_length=8, choices=Channel)
    webhook = models.ForeignKey(
        Webhook, models.PROTECT, null=True, blank=True, related_name="deliveries"
    )
    digest = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="held",
        help_text="the digest that lists this notice",
    )
    begun_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="when the mail counts in the daily limit, or the digest takes no more notices",
    )
    sent_at = models.DateTimeField(null=True, blank=True)
    given_up_at = models.DateTimeField(null=True, blank=True)
    error_what = SentenceField(blank=True, help_text="why the last try failed")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TurnsQuerySet["Delivery"].as_manager()

    class Meta(Turns.Meta):
        verbose_name_plural = "deliveries"
        indexes: ClassVar = (
            *Turns.Meta.indexes,
            models.Index(
                fields=["owner", "begun_at"],
                condition=Q(begun_at__isnull=False),
                name="mails_of_owner",
            ),
        )
        constraints: ClassVar = (
            models.UniqueConstraint(
                fields=["notice"],
                condition=Q(channel="email", notice__isnull=False),
                name="one_mail_per_notice",
            ),
            models.UniqueConstraint(
                fields=["notice", "webhook"], name="one_post_per_notice_and_webhook"
            ),
            models.UniqueConstraint(
                fields=["owner"],
                condition=Q(notice=None, begun_at=None),
                name="one_collecting_digest_per_owner",
            ),
            models.CheckConstraint(
                condition=Q(channel="email", webhook=None)
                | Q(channel="webhook", webhook__isnull=False),
                name="a_post_goes_to_a_webhook",
            ),
            models.CheckConstraint(
                condition=Q(wake_at__isnull=False, sent_at=None, given_up_at=None, digest=None)
                | Q(wake_at=None, sent_at__isnull=False)
                | Q(wake_at=None, given_up_at__isnull=False)
                | Q(wake_at=None, digest__isnull=False),
                name="a_delivery_wakes_until_it_is_over_or_held",
            ),
        )

    @property
    def is_digest(self) -> bool:
        return self.notice_id is None

    @property
    def state(self) -> str:
        if self.sent_at:
            return self.State.SENT
        if self.given_up_at:
            return self.State.GIVEN_UP
        return self.State.HELD if self.digest_id else self.State.WAITING

    def __str__(self) -> str:
        return f"{self.channel} {self.notice or 'digest'}"


def settings_of(owner_id: int) -> NoticeSettings:
    """Return the owner's settings, or the defaults in a row that is not saved."""
    found = NoticeSettings.objects.filter(owner=owner_id).select_related("owner").first()
    return found or NoticeSettings(owner_id=owner_id)


def active_webhooks(owner_id: int) -> models.QuerySet[Webhook]:
    return Webhook.objects.filter(owner=owner_id, disabled_at=None, retired_at=None)
