"""The second factor of users, codes by mail, and the links to an OpenID provider."""

import uuid
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from certctrl.turns import Turns, TurnsQuerySet
from keystore.models import Envelope


class SecondFactor(models.Model):
    """An authenticator app of a user (TOTP, RFC 6238). It counts once `confirmed_at` is set."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="second_factor"
    )
    secret = models.ForeignKey(Envelope, models.PROTECT, related_name="+", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    last_step = models.BigIntegerField(
        default=0, help_text="the step of the last code; a code is accepted once"
    )
    failures = models.PositiveIntegerField(default=0, help_text="wrong codes in a row")
    next_try_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"second factor of {self.user}"


class RecoveryCode(models.Model):
    """A code that replaces the authenticator app once. Only its SHA-256 is stored."""

    factor = models.ForeignKey(SecondFactor, models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64, editable=False)
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["factor", "digest"], name="one_recovery_code_for_each_digest"
            ),
        )

    def __str__(self) -> str:
        return f"recovery code {self.pk}"


class MailedCode(Turns):
    """A wish for a code by mail, or a mail about a change of an account. A worker sends the mail.

    The address gets a code only if it may have one. The request writes the same row for every
    address. So its response and its time do not say whether there is a user. The code itself is
    not stored.
    """

    class Purpose(models.TextChoices):
        REGISTER = "register"
        RESET = "reset"  # the password
        CHANGE = "change"  # the address of `user`
        INVITE = "invite"  # its mail has a link, and no code
        # A change in the account of `user`. Its mail has no code.
        PASSWORD = "password"  # noqa: S105, the kind of a mail
        ADDRESS = "address"
        FACTOR_ON = "factor_on"
        FACTOR_OFF = "factor_off"
        NEW_CODES = "new_codes"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    purpose = models.CharField(max_length=16, choices=Purpose)
    email = models.EmailField(help_text="in its canonical form")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="whose account it is about, or who invites",
    )
    # The form of a new user is kept here until the code is confirmed.
    typed_email = models.EmailField(blank=True)
    name = models.CharField(max_length=64, blank=True)
    country_of_residence = models.CharField(max_length=2, blank=True)
    password = models.CharField(max_length=128, blank=True, editable=False)
    network = models.CharField(max_length=64, blank=True, help_text="where the request came from")
    language = models.CharField(max_length=16, blank=True)
    page = models.CharField(max_length=500, blank=True, help_text="the address of the pages")
    created_at = models.DateTimeField(auto_now_add=True)
    ends_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)

    objects = TurnsQuerySet["MailedCode"].as_manager()

    class Meta(Turns.Meta):
        indexes: ClassVar = (
            *Turns.Meta.indexes,
            models.Index(fields=["email", "-id"], name="mailed_codes_of_address"),
            models.Index(fields=["network", "-id"], name="mailed_codes_of_network"),
            models.Index(fields=["ends_at"], name="mailed_codes_by_end"),
        )

    def __str__(self) -> str:
        return f"{self.purpose} {self.pk}"


class ExternalIdentity(models.Model):
    """A user's identity at an OpenID provider: the issuer, and the subject there."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="external_identities"
    )
    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=255)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "external identities"
        constraints: ClassVar[tuple[Any, ...]] = (
            models.UniqueConstraint(
                fields=["issuer", "subject"], name="one_user_for_each_external_identity"
            ),
            models.CheckConstraint(
                condition=~Q(issuer="") & ~Q(subject=""), name="an_external_identity_is_complete"
            ),
        )

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"
