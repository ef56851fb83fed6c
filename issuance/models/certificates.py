"""Certificates as people asked for them, their issued versions, and the CA's renewal windows."""

import hashlib
import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Case, F, Q, When

from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.sentences import SentenceField
from certctrl.turns import Turns, TurnsQuerySet
from devices.models import Device
from dnsproviders.models import DnsCredential
from keystore.models import Envelope

KEY_COMPROMISE = 1  # the reason of a revocation: RFC 5280, section 5.3.1
# Renewals that a clock which was ahead may have planned, and first issuances that are planned.
PLANNED_LATE = Q(expires_at=None) | Q(renew_at__gt=F("expires_at"))


def new_public_id() -> str:
    """Return a random id of 20 hex digits."""
    return uuid.uuid4().hex[:20]


class Label(models.Model):
    """A word that an owner gives to certificates, to find them again."""

    LONGEST = 32

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", db_index=False
    )
    name = models.CharField(max_length=LONGEST)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["owner", "name"], name="an_owner_has_a_label_once"),
        )

    def __str__(self) -> str:
        return self.name


class Certificate(models.Model):
    """A certificate as its owner asked for it: names, account, key policy and options.

    It is renewed until it is retired.
    """

    class KeyType(models.TextChoices):
        ECDSA = "ecdsa"
        RSA = "rsa"

    class VerifyMethod(models.TextChoices):
        """How names are proved: by a record in the zone, or by the agent of a device."""

        DNS_01 = "dns-01"
        HTTP_01 = "http-01"
        TLS_ALPN_01 = "tls-alpn-01"

    class Rollout(models.TextChoices):
        ALL = "all"
        CANARY = "canary"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="certificates")
    domain = models.CharField(max_length=253, help_text="the first name, an A-label")
    names = models.JSONField(help_text="A-labels, the domain first")
    account = models.ForeignKey(
        AcmeAccount, models.PROTECT, related_name="certificates", db_index=False
    )
    credential = models.ForeignKey(
        DnsCredential, models.PROTECT, null=True, blank=True, related_name="certificates"
    )
    verify_method = models.CharField(
        max_length=16, choices=VerifyMethod, default=VerifyMethod.DNS_01
    )
    verify_device = models.ForeignKey(
        "devices.Device",
        models.PROTECT,
        null=True,
        blank=True,
        db_index=False,
        related_name="+",
        help_text="whose agent serves the challenges of http-01 and tls-alpn-01",
    )
    key_type = models.CharField(max_length=8, choices=KeyType, default=KeyType.ECDSA)
    key_size = models.PositiveIntegerField(default=256)
    key_policy = models.CharField(
        max_length=16, choices=Envelope.Policy, default=Envelope.Policy.HYBRID
    )
    server_decrypt_export = models.BooleanField(default=False)
    public_id = models.CharField(max_length=32, unique=True, default=new_public_id, editable=False)
    verified = models.BooleanField(default=False)
    organization = models.CharField(max_length=64, blank=True)
    organizational_unit = models.CharField(max_length=64, blank=True)
    country = models.CharField(max_length=2, blank=True)
    state = models.CharField(max_length=64, blank=True)
    locality = models.CharField(max_length=64, blank=True)
    auto_renew = models.BooleanField(default=True)
    renew_days_before = models.PositiveIntegerField(null=True, blank=True)
    profile = models.CharField(
        max_length=64, blank=True, help_text="sent with the order where the CA lists it"
    )
    preferred_chain = models.CharField(
        max_length=200, blank=True, help_text="common name of an issuer in the chain"
    )
    reuse_key = models.BooleanField(
        default=False, help_text="renewals keep the key, for those who pin it"
    )
    rollout = models.CharField(
        max_length=8,
        choices=Rollout,
        default=Rollout.ALL,
        help_text="canary: one device gets a new version first",
    )
    install_window = models.JSONField(
        null=True,
        blank=True,
        help_text="when devices get a new version",
    )
    revoke_superseded = models.BooleanField(
        default=False, help_text="revoke a version when its successor is served everywhere"
    )
    fallback_account = models.ForeignKey(
        AcmeAccount, models.PROTECT, null=True, blank=True, related_name="fallback_certificates"
    )
    labels = models.ManyToManyField(Label, blank=True, related_name="certificates")
    current = models.ForeignKey(
        "CertificateVersion", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    renew_at = models.DateTimeField(null=True, blank=True)
    lacks = models.ForeignKey(
        "LimitBucket",
        models.SET_NULL,
        null=True,
        blank=True,
        db_index=False,
        related_name="+",
        help_text="the bucket of a rate limit that it waits for while it is due",
    )
    failures = models.PositiveIntegerField(default=0)
    failing_since = models.DateTimeField(
        null=True, blank=True, help_text="the first of the failures in a row"
    )
    last_failure = models.CharField(
        max_length=9, blank=True, help_text="the effect of the last failure on the next attempt"
    )
    needs_person = models.GeneratedField(
        expression=Case(
            When(Q(failures__gt=0) & (Q(last_failure="permanent") | Q(renew_at=None)), then=True),
            default=False,
        ),
        output_field=models.BooleanField(),
        db_persist=True,
    )
    proved_at = models.DateTimeField(
        null=True, blank=True, help_text="staging issued it; production is tried next"
    )
    request_digest = models.CharField(
        max_length=64, editable=False, help_text="digest of the request that made it"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = (
            # The columns and rows that scan_renewals reads.
            models.Index(
                fields=["renew_at", "expires_at", "id"],
                condition=Q(renew_at__isnull=False, lacks__isnull=True),
                name="certificates_to_renew",
            ),
            # The rows that clockstep reads each hour.
            models.Index(
                fields=["renew_at"], condition=PLANNED_LATE, name="certificates_planned_late"
            ),
            models.Index(
                fields=["lacks", "owner", "expires_at", "id"],
                condition=Q(lacks__isnull=False),
                name="certificates_held_back",
            ),
            # The columns and rows that warn_expiry reads.
            models.Index(
                fields=["expires_at", "id"],
                condition=Q(expires_at__isnull=False, retired_at__isnull=True),
                name="certificates_by_expiry",
            ),
            # The lists of an owner, and of an account.
            models.Index(
                fields=["owner", "-id"],
                condition=Q(retired_at__isnull=True),
                name="certificates_of_owner",
            ),
            # The list and the overview of the pages.
            models.Index(
                fields=["owner", "expires_at", "id"],
                condition=Q(retired_at__isnull=True),
                name="certificates_of_owner_by_end",
            ),
            models.Index(
                fields=["owner", "expires_at", "id"],
                condition=Q(retired_at__isnull=True, failures__gt=0),
                name="certificates_failing",
            ),
            models.Index(
                fields=["owner", "expires_at", "id"],
                condition=Q(retired_at__isnull=True, needs_person=True),
                name="certificates_for_a_person",
            ),
            models.Index(
                fields=["owner", "expires_at", "id"],
                condition=Q(retired_at__isnull=True, auto_renew=False),
                name="certificates_not_renewed",
            ),
            models.Index(
                fields=["account", "owner", "-id"],
                condition=Q(retired_at__isnull=True),
                name="certificates_of_account",
            ),
            # The class lets PostgreSQL find what begins alike, in every locale.
            models.Index(
                fields=["domain"],
                name="certificates_by_domain",
                opclasses=["varchar_pattern_ops"],
            ),
            # The rows that revoke_superseded reads.
            models.Index(
                fields=["id"],
                condition=Q(revoke_superseded=True, retired_at__isnull=True),
                name="certificates_to_supersede",
            ),
            # The rows that prune_retired_certificates reads.
            models.Index(
                fields=["retired_at"],
                condition=Q(retired_at__isnull=False),
                name="certificates_retired",
            ),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["owner", "request_digest"],
                condition=Q(current__isnull=True, retired_at__isnull=True),
                name="the_same_request_makes_one_certificate",
            ),
        )

    @property
    def sans(self) -> list[str]:
        return list(self.names[1:])

    def subject(self) -> dict[str, str]:
        """Return the non-empty fields of the CSR's subject, without the common name."""
        members = ("organization", "organizational_unit", "country", "state", "locality")
        return {member: getattr(self, member) for member in members if getattr(self, member)}

    @property
    def status(self) -> str:
        """Return the status: pending, active, failed, expired or revoked.

        pending: never issued yet. failed: never issued, and no retry is scheduled.
        """
        if self.current:
            if self.current.revoked_at:
                return "revoked"
            return "active" if self.current.not_after > clock.now() else "expired"
        over = self.failures and not self.renew_at and not self.issuances.open_of(self)
        return "failed" if over else "pending"

    def active_devices(self) -> models.QuerySet[Device]:
        """Return the devices that it is assigned to and that are not revoked."""
        active = Device.Status.ACTIVE
        return Device.objects.filter(deployments__certificate=self, status=active)

    @property
    def lacks_device(self) -> bool:
        """Whether nobody could open a new key."""
        needs_one = self.key_policy == Envelope.Policy.DEVICE_REQUIRED
        return needs_one and not self.active_devices().exists()

    @property
    def may_be_issued(self) -> bool:
        """Whether an attempt may begin without a person."""
        return not self.retired_at and not self.lacks_device

    @property
    def renews_itself(self) -> bool:
        return self.may_be_issued and self.auto_renew

    @property
    def is_wanted(self) -> bool:
        """Whether an attempt may begin without a person, for the first version or a renewal."""
        return self.may_be_issued and (self.auto_renew or not self.current_id)

    def __str__(self) -> str:
        return self.domain


class CertificateVersion(Turns):
    """A version: the chain, key, serial number and validity that one attempt issued.

    `wake_at` is set from the request to revoke it until the revocation is done.
    """

    certificate = models.ForeignKey(Certificate, models.PROTECT, related_name="versions")
    issuance = models.OneToOneField("Issuance", models.PROTECT, related_name="version")
    account = models.ForeignKey(AcmeAccount, models.PROTECT, related_name="versions")
    serial = models.CharField(max_length=40, help_text="hex")
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the leaf, hex")
    issuer = models.CharField(max_length=255, blank=True, help_text="common name of who signed it")
    ari_id = models.CharField(
        max_length=100, blank=True, help_text="its identifier at the CA: RFC 9773, section 4.1"
    )
    chain_pem = models.TextField(help_text="leaf first")
    added_names = models.JSONField(
        default=list, blank=True, help_text="that the CA put in without being asked"
    )
    key = models.ForeignKey(
        Envelope,
        models.PROTECT,
        null=True,
        related_name="+",
        editable=False,
        help_text="null once it is destroyed",
    )
    # The revocation (RFC 8555, section 7.6).
    revoke_asked_at = models.DateTimeField(null=True, blank=True)
    revoke_reason = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="RFC 5280, 5.3.1"
    )
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoke_error = SentenceField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TurnsQuerySet["CertificateVersion"].as_manager()

    class Meta(Turns.Meta):
        indexes: ClassVar = (
            *Turns.Meta.indexes,
            models.Index(fields=["issuer"], name="versions_by_issuer"),
            models.Index(fields=["serial"], name="versions_by_serial"),
            models.Index(
                fields=["certificate"],
                condition=Q(revoked_at__isnull=False),
                name="versions_revoked",
            ),
            # The rows that prune_version_keys and prune_versions read.
            models.Index(
                fields=["not_after"], condition=Q(key__isnull=False), name="versions_with_key"
            ),
            models.Index(
                fields=["not_after"], condition=Q(key__isnull=True), name="versions_without_key"
            ),
        )
        constraints: ClassVar = (
            models.CheckConstraint(
                condition=Q(revoke_asked_at__isnull=True)
                | Q(revoked_at__isnull=False)
                | Q(wake_at__isnull=False),
                name="a_revocation_that_was_asked_for_wakes_until_it_is_done",
            ),
        )

    @property
    def usable_key(self) -> Envelope:
        """Return the key of a version in use. Pruning destroys only the keys of others."""
        assert self.key, "the key of a version in use is never destroyed"
        return self.key

    def __str__(self) -> str:
        return f"{self.certificate_id} {self.serial}"


class RenewalInfo(Turns):
    """When the CA wants a version renewed (RFC 9773).

    `wake_at` is the time of the next poll. Null: it is not polled any more.
    """

    version = models.OneToOneField(CertificateVersion, models.CASCADE, related_name="renewal_info")
    # Drawn once and kept, so that the renewal time only moves when the window moves.
    fraction = models.FloatField(help_text="where in the window the renewal lies, 0 to 1")
    window_start = models.DateTimeField(null=True, blank=True)
    window_end = models.DateTimeField(null=True, blank=True)
    explanation_url = models.CharField(max_length=500, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    error_what = SentenceField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TurnsQuerySet["RenewalInfo"].as_manager()

    class Meta(Turns.Meta):
        verbose_name_plural = "renewal infos"
        indexes: ClassVar = (
            *Turns.Meta.indexes,
            # The rows that prune_renewal_infos reads.
            models.Index(
                fields=["created_at"],
                condition=Q(wake_at__isnull=True),
                name="renewal_infos_over",
            ),
        )

    @property
    def moment(self) -> datetime | None:
        """Return the renewal time in the window; None while no window is known."""
        if not self.window_start or not self.window_end:
            return None
        return self.window_start + (self.window_end - self.window_start) * self.fraction

    def __str__(self) -> str:
        return f"{self.version_id} {self.moment or 'unknown'}"


def digest(*parts: Any) -> str:
    """Return the SHA-256 in hex of JSON values. The order of object members is ignored."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def names_key(account: AcmeAccount, names: Sequence[str]) -> str:
    """Return the digest of an account and names, in any order. Equal digests mean equal orders."""
    return digest(account.pk, sorted(names))
