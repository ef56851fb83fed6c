"""Sealed secrets. An Envelope has the ciphertext, a KeyWrap has its data key for one recipient."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

CERTIFICATE_KEY = "certificate_key"  # the only purpose that devices can open


class RecipientKey(models.Model):
    """The public key (X25519, 32 bytes) of a device that may open envelopes."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="recipient_keys"
    )
    public_key = models.BinaryField(max_length=32)
    fingerprint = models.BinaryField(
        max_length=32, help_text="BLAKE2b, 32 bytes, of the public key"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["owner", "fingerprint"], name="one_recipient_key_per_fingerprint"
            ),
        )

    def __str__(self) -> str:
        return bytes(self.fingerprint).hex()


class Envelope(models.Model):
    """A secret under its own data key (AES-256-GCM). The ciphertext is never updated.

    A new secret gets a new envelope.
    """

    class Policy(models.TextChoices):
        MASTER_ONLY = "MASTER_ONLY"
        HYBRID = "HYBRID"
        DEVICE_REQUIRED = "DEVICE_REQUIRED"

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="envelopes")
    purpose = models.CharField(max_length=32, editable=False)
    policy = models.CharField(max_length=16, choices=Policy, editable=False)
    nonce = models.BinaryField(max_length=12)
    ciphertext = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.purpose} {self.uuid}"

    def context(self) -> bytes:
        """Return the associated data that binds a ciphertext to this row."""
        return f"certctrl/1|{self.uuid}|{self.purpose}|{self.owner_id}".encode()


class KeyWrap(models.Model):
    """The data key of an envelope, wrapped for one recipient: a master key or a device's key."""

    envelope = models.ForeignKey(Envelope, models.CASCADE, related_name="wraps", db_index=False)
    master_key_id = models.CharField(max_length=32, null=True, blank=True)  # noqa: DJ001, absent
    recipient_key = models.ForeignKey(
        RecipientKey, models.PROTECT, null=True, blank=True, related_name="wraps"
    )
    wrapped_dek = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(master_key_id__isnull=True) ^ Q(recipient_key__isnull=True),
                name="a_wrap_has_exactly_one_recipient",
            ),
            models.UniqueConstraint(
                fields=["envelope"],
                condition=Q(master_key_id__isnull=False),
                name="one_master_wrap_per_envelope",
            ),
            models.UniqueConstraint(
                fields=["envelope", "recipient_key"], name="one_wrap_per_recipient_key"
            ),
        )

    def __str__(self) -> str:
        recipient = (
            f"master key {self.master_key_id}"
            if self.master_key_id
            else f"device key {self.recipient_key_id}"
        )
        return f"{self.envelope_id} for {recipient}"
