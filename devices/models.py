"""Devices, the codes by which people approve them, and their refresh tokens."""

import base64
import hashlib
import json
from typing import Self

from django.conf import settings
from django.db import models

from accounts.models import ApiKey
from certctrl import clock
from keystore.models import RecipientKey


class EnrolmentKey(models.Model):
    """An API key that enrols a fleet: a number of devices, each with the same tag.

    `api_key` has the secret, the name and the expiry. A retry of a device takes no use.
    """

    api_key = models.OneToOneField(ApiKey, models.CASCADE, related_name="enrolment")
    tag = models.CharField(max_length=64, blank=True)
    uses = models.PositiveIntegerField()
    uses_left = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "enrolment key"

    def __str__(self) -> str:
        return str(self.api_key)


class Device(models.Model):
    """A machine with an agent. It keeps its row when it enrols again."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE"
        REVOKED = "REVOKED"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="devices")
    public_id = models.CharField(max_length=36)
    key = models.ForeignKey(RecipientKey, models.PROTECT, related_name="devices")
    name = models.CharField(max_length=255, blank=True)
    platform = models.CharField(max_length=255, blank=True)
    model = models.CharField(max_length=255, blank=True)
    app_version = models.CharField(max_length=255, blank=True)
    agent_error = models.TextField(
        blank=True, help_text="what fails on the machine, as its agent says"
    )
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE)
    enrolled_with = models.ForeignKey(
        EnrolmentKey, models.SET_NULL, null=True, blank=True, related_name="devices"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    enrolled_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    # Of its newest signal. Only devices/signals.py writes them.
    signal_seq = models.BigIntegerField(default=0)
    signal_ms = models.BigIntegerField(default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["owner", "public_id"], name="one_device_for_each_public_id"
            ),
            models.CheckConstraint(
                condition=models.Q(status="ACTIVE") ^ models.Q(revoked_at__isnull=False),
                name="a_revoked_device_says_since_when",
            ),
        )

    def __str__(self) -> str:
        return self.name or self.public_id


class DeviceTag(models.Model):
    """A word that groups devices."""

    device = models.ForeignKey(Device, models.CASCADE, related_name="tags", db_index=False)
    tag = models.CharField(max_length=64, db_index=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["device", "tag"], name="a_device_has_a_tag_once"),
        )

    def __str__(self) -> str:
        return self.tag


class Signal(models.Model):
    """One line of the log that a device reads, written by devices/signals.py alone.

    `seq` counts the signals of a device without a gap. `ts_ms` (milliseconds since 1970) increases
    with each, because agents take two signals of one type and one moment for the same signal.
    """

    device = models.ForeignKey(Device, models.CASCADE, related_name="signals", db_index=False)
    seq = models.BigIntegerField()
    ts_ms = models.BigIntegerField()
    type = models.CharField(max_length=64)
    ref = models.JSONField()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["device", "seq"], name="a_device_has_one_signal_of_each_number"
            ),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.ts_ms}-{self.seq}"


class AgentChallenge(models.Model):
    """A challenge of a CA that the agent of a device answers: its start, the ack, and its stop.

    `kind` is `http01` or `tlsalpn01`. `ref` is that of the start signal, without the challenge_id.
    The key in it is of a certificate that proves one challenge and nothing else. Moments in `_ms`
    are milliseconds since 1970.
    """

    device = models.ForeignKey(Device, models.CASCADE, related_name="agent_challenges")
    challenge_id = models.CharField(max_length=32, unique=True)
    kind = models.CharField(max_length=16)
    ref = models.JSONField()
    start_ms = models.BigIntegerField(null=True, blank=True)
    acked_at = models.DateTimeField(null=True, blank=True)
    stop_ms = models.BigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        verbose_name = "agent challenge"

    def __str__(self) -> str:
        return f"{self.kind} {self.challenge_id}"


class DeviceCode(models.Model):
    """One device code grant. Only the SHA-256 of the two secret codes is stored.

    The device polls with the device code. A person approves by the user code. The device then
    registers with the registration code, once.
    """

    class Decision(models.TextChoices):
        APPROVED = "approved"
        DENIED = "denied"

    digest = models.CharField(max_length=64, unique=True, editable=False)
    user_code = models.CharField(max_length=9, unique=True)
    interval = models.PositiveIntegerField(help_text="seconds between two polls")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(db_index=True)
    polled_at = models.DateTimeField(null=True, blank=True)
    decision = models.CharField(max_length=8, choices=Decision, blank=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="device_codes",
        help_text="the person who decided",
    )
    registration_digest = models.CharField(
        max_length=64, null=True, blank=True, unique=True, editable=False
    )
    registration_expires_at = models.DateTimeField(null=True, blank=True)
    used_by = models.ForeignKey(Device, models.CASCADE, null=True, blank=True, related_name="codes")

    class Meta:
        verbose_name = "device code"

    def __str__(self) -> str:
        return self.user_code


class DeviceSessionQuerySet(models.QuerySet["DeviceSession"]):
    def live(self) -> Self:
        """Return the sessions whose tokens are accepted."""
        return self.filter(ended_at=None, expires_at__gt=clock.now())


class DeviceSession(models.Model):
    """The family of refresh tokens of one enrolment.

    Only the SHA-256 of the current token, and of the one before it, is stored. `seal` tells the
    older tokens of this family from tokens that never existed. A device has one live session.
    """

    device = models.ForeignKey(Device, models.CASCADE, related_name="sessions")
    family = models.CharField(max_length=32, unique=True)
    seal = models.BinaryField(max_length=16)
    digest = models.CharField(max_length=64, editable=False)
    spent_digest = models.CharField(max_length=64, blank=True, editable=False)
    rotated_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = DeviceSessionQuerySet.as_manager()

    class Meta:
        verbose_name = "device session"
        constraints = (
            models.UniqueConstraint(
                fields=["device"],
                condition=models.Q(ended_at__isnull=True),
                name="one_session_of_a_device_is_open",
            ),
        )

    def __str__(self) -> str:
        return self.family


class InstallPlan(models.Model):
    """One version of what a device installs, and where. The newest version counts.

    `installs` are the items: copy a file, run a command, trust a CA. See docs/reference/devices.md.
    """

    device = models.ForeignKey(Device, models.CASCADE, related_name="install_plans", db_index=False)
    version = models.PositiveIntegerField(help_text="1 for the first one")
    installs = models.JSONField()
    after_update_script = models.TextField(blank=True)
    change_note = models.CharField(max_length=1000, blank=True)
    updated_by = models.CharField(max_length=254)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "install plan"
        constraints = (
            models.UniqueConstraint(
                fields=["device", "version"], name="a_version_of_an_install_plan_is_written_once"
            ),
        )

    @property
    def installs_json(self) -> str:
        """Return the items as JSON in one spelling, so that equal items have an equal hash."""
        return json.dumps(self.installs, sort_keys=True, separators=(",", ":"))

    @property
    def installs_hash(self) -> str:
        """Return the SHA-256 of `installs_json`, in base64."""
        return base64.b64encode(hashlib.sha256(self.installs_json.encode()).digest()).decode()

    def __str__(self) -> str:
        return f"{self.device_id} version {self.version}"
