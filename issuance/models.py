"""What is issued: accounts at CAs, certificates, and each attempt at one with everything that it needs to go on."""

import uuid
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Case, F, Q, Value, When

from certctrl import clock
from certctrl.turns import SKEW, Turns, TurnsQuerySet
from dnsproviders.models import DnsCredential, TxtRecord, TxtRecordQuerySet
from keystore.models import Envelope


class PrivateCA(models.Model):
    """A CA of the owner's own, which signs in the request itself."""

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE"
        RETIRED = "RETIRED"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="private_cas")
    name = models.CharField(max_length=64)
    subject = models.JSONField(default=dict)
    algorithm = models.CharField(max_length=8)
    key_size = models.PositiveIntegerField()
    max_path_length = models.PositiveSmallIntegerField(null=True, blank=True)
    certificate_pem = models.TextField()
    serial_number = models.CharField(max_length=40)
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    key = models.ForeignKey(Envelope, models.PROTECT, related_name="+", editable=False)
    status = models.CharField(max_length=8, choices=Status, default=Status.ACTIVE)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = "private CA"

    def __str__(self) -> str:
        return self.name


class AcmeAccount(Turns):
    """An account at a CA (RFC 8555, section 7.1.2). `wake_at` is set while registering is still to be done."""

    class Status(models.TextChoices):
        PENDING = "pending"
        VALID = "valid"
        REFUSED = "refused"
        DEACTIVATED = "deactivated"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="acme_accounts")
    name = models.CharField(max_length=64)
    ca_provider = models.CharField(max_length=32)
    directory_url = models.URLField(max_length=500, blank=True)
    email = models.EmailField(blank=True)
    terms_accepted_at = models.DateTimeField()
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    url = models.URLField(max_length=500, blank=True, help_text="the account URL at the CA: the kid of each request")
    key = models.ForeignKey(Envelope, models.PROTECT, related_name="+", editable=False)
    thumbprint = models.CharField(max_length=64, blank=True, help_text="of the account key, RFC 7638")
    eab_kid = models.CharField(max_length=255, blank=True)
    eab = models.ForeignKey(Envelope, models.PROTECT, null=True, blank=True, related_name="+", editable=False)
    private_ca = models.ForeignKey(PrivateCA, models.PROTECT, null=True, blank=True, related_name="accounts")
    error_code = models.CharField(max_length=64, blank=True)
    error_what = models.TextField(blank=True)
    defaults = models.JSONField(default=dict, help_text="key_type, key_size and validity_seconds of its certificates")
    staging_first = models.BooleanField(
        default=False, help_text="after three failures in a row the next attempt is proved at the CA's staging first"
    )
    staging_account = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="+")
    log_level = models.CharField(max_length=8, blank=True, help_text="debug: every exchange with the CA is kept")
    save_requests = models.BooleanField(default=False, help_text="with log_level debug: bodies of requests too")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    objects = TurnsQuerySet["AcmeAccount"].as_manager()

    class Meta(Turns.Meta):
        verbose_name = "ACME account"

    @property
    def is_private(self) -> bool:
        return self.private_ca_id is not None

    def __str__(self) -> str:
        return self.name


def new_public_id() -> str:
    return uuid.uuid4().hex[:20]


class Certificate(models.Model):
    """What a person asked for: these names, this account, this key policy; renewed until it is retired."""

    class KeyType(models.TextChoices):
        ECDSA = "ecdsa"
        RSA = "rsa"

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="certificates")
    domain = models.CharField(max_length=253, db_index=True, help_text="the first name, an A-label")
    names = models.JSONField(help_text="A-labels, the domain first")
    names_key = models.CharField(max_length=64, db_index=True, help_text="digest of account and sorted names")
    account = models.ForeignKey(AcmeAccount, models.PROTECT, related_name="certificates")
    credential = models.ForeignKey(DnsCredential, models.PROTECT, null=True, blank=True, related_name="certificates")
    key_type = models.CharField(max_length=8, choices=KeyType, default=KeyType.ECDSA)
    key_size = models.PositiveIntegerField(default=256)
    key_policy = models.CharField(max_length=16, choices=Envelope.Policy, default=Envelope.Policy.HYBRID)
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
    profile = models.CharField(max_length=64, blank=True, help_text="sent with the order where the CA lists it")
    preferred_chain = models.CharField(max_length=200, blank=True, help_text="common name of an issuer in the chain")
    reuse_key = models.BooleanField(default=False, help_text="renewals keep the key, for those who pin it")
    fallback_account = models.ForeignKey(AcmeAccount, models.PROTECT, null=True, blank=True, related_name="+")
    current = models.ForeignKey("CertificateVersion", models.SET_NULL, null=True, blank=True, related_name="+")
    expires_at = models.DateTimeField(null=True, blank=True)
    renew_at = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)
    failing_since = models.DateTimeField(null=True, blank=True, help_text="the first of the failures in a row")
    proved_at = models.DateTimeField(null=True, blank=True, help_text="staging issued it; production is tried next")
    ask = models.CharField(max_length=64, editable=False, help_text="digest of the request that made it")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = (
            # What scan_renewals reads, and nothing else of the table.
            models.Index(
                fields=["renew_at", "expires_at", "id"],
                condition=Q(renew_at__isnull=False),
                name="certificates_to_renew",
            ),
            # What warn_expiry reads.
            models.Index(
                fields=["expires_at", "id"],
                condition=Q(expires_at__isnull=False, retired_at__isnull=True),
                name="certificates_by_expiry",
            ),
            models.Index(fields=["owner", "-id"], name="certificates_of_owner"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["owner", "ask"],
                condition=Q(current__isnull=True, retired_at__isnull=True),
                name="the_same_request_makes_one_certificate",
            ),
        )

    @property
    def sans(self) -> list[str]:
        return list(self.names[1:])

    def subject(self) -> dict[str, str]:
        """What the CSR's subject holds besides names; empty members are left out."""
        members = ("organization", "organizational_unit", "country", "state", "locality")
        return {member: getattr(self, member) for member in members if getattr(self, member)}

    def open_issuance(self) -> "Issuance | None":
        prefetched: list[Issuance] | None = getattr(self, "open_issuances", None)
        if prefetched is not None:
            return prefetched[0] if prefetched else None
        return self.issuances.filter(wake_at__isnull=False).first()

    @property
    def status(self) -> str:
        """pending (never issued yet), active, failed (never issued, and no retry is scheduled), expired, revoked."""
        if self.current:
            if self.current.revoked_at:
                return "revoked"
            return "active" if self.current.not_after > clock.now() else "expired"
        over = self.failures and not self.renew_at and not self.open_issuance()
        return "failed" if over else "pending"

    def __str__(self) -> str:
        return self.domain


class CertificateVersion(Turns):
    """Issued material. `wake_at` is set while a revocation was asked for and is not done."""

    certificate = models.ForeignKey(Certificate, models.PROTECT, related_name="versions")
    issuance = models.OneToOneField("Issuance", models.PROTECT, related_name="version")
    account = models.ForeignKey(AcmeAccount, models.PROTECT, related_name="versions")
    serial = models.CharField(max_length=40, help_text="hex")
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the leaf, hex")
    issuer = models.CharField(max_length=255, blank=True, db_index=True, help_text="common name of who signed it")
    ari_id = models.CharField(max_length=100, blank=True, help_text="its identifier at the CA: RFC 9773, section 4.1")
    chain_pem = models.TextField(help_text="leaf first")
    key = models.ForeignKey(Envelope, models.PROTECT, related_name="+", editable=False)
    revoke_asked_at = models.DateTimeField(null=True, blank=True)
    revoke_reason = models.PositiveSmallIntegerField(null=True, blank=True, help_text="RFC 5280, 5.3.1")
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoke_error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TurnsQuerySet["CertificateVersion"].as_manager()

    class Meta(Turns.Meta):
        constraints: ClassVar = (
            models.CheckConstraint(
                condition=Q(revoke_asked_at__isnull=True) | Q(revoked_at__isnull=False) | Q(wake_at__isnull=False),
                name="a_revocation_that_was_asked_for_wakes_until_it_is_done",
            ),
        )

    def __str__(self) -> str:
        return f"{self.certificate_id} {self.serial}"


class RenewalInfo(Turns):
    """When the CA wants a version renewed (RFC 9773). `wake_at` is the next poll; null: it is polled no more."""

    version = models.OneToOneField(CertificateVersion, models.CASCADE, related_name="renewal_info")
    # Drawn once, so that the moment moves with the window and is never drawn again.
    fraction = models.FloatField(help_text="where in the window the renewal lies, 0 to 1")
    window_start = models.DateTimeField(null=True, blank=True)
    window_end = models.DateTimeField(null=True, blank=True)
    explanation_url = models.CharField(max_length=500, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)
    error_what = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TurnsQuerySet["RenewalInfo"].as_manager()

    class Meta(Turns.Meta):
        verbose_name_plural = "renewal infos"

    @property
    def moment(self) -> datetime | None:
        """The moment that was drawn in the window; None while none is known."""
        if not self.window_start or not self.window_end:
            return None
        return self.window_start + (self.window_end - self.window_start) * self.fraction

    def __str__(self) -> str:
        return f"{self.version_id} {self.moment or 'unknown'}"


class IssuanceQuerySet(TurnsQuerySet["Issuance"]):
    def claim_fields(self, at: datetime) -> dict[str, Any]:
        """A turn that begins late moves the deadline by its lateness: an outage of ours fails nobody."""
        late_since = at - timedelta(seconds=settings.RESEND) - SKEW
        late = When(wake_at__lt=late_since, then=F("deadline_at") + (Value(at) - F("wake_at")))
        return super().claim_fields(at) | {"deadline_at": Case(late, default=F("deadline_at"))}

    def open(self) -> "IssuanceQuerySet":
        return self.filter(wake_at__isnull=False)


class Issuance(Turns):
    """One attempt at a certificate. Open as long as `wake_at` is set."""

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
        """What an attempt that failed means for the next one."""

        TRANSIENT = "transient"  # it may well succeed, by the retry table
        LIMITED = "limited"  # the CA, or the ledger of its limits, named the moment
        PERMANENT = "permanent"  # somebody must change something first

    OPEN = (State.QUEUED, State.ORDERED, State.PRESENTED, State.PROPAGATED, State.VALIDATED, State.FINALIZED)
    BEFORE_VALIDATED = OPEN[:4]  # a person may still cancel, and the TXT records are needed

    certificate = models.ForeignKey(Certificate, models.PROTECT, related_name="issuances")
    # What the attempt was started with, whatever the certificate says meanwhile.
    account = models.ForeignKey(AcmeAccount, models.PROTECT, related_name="issuances")
    credential = models.ForeignKey(DnsCredential, models.PROTECT, null=True, blank=True, related_name="issuances")
    names_key = models.CharField(max_length=64, editable=False)
    number = models.PositiveIntegerField(default=1, help_text="of the certificate's attempts, from 1")
    reason = models.CharField(max_length=8, choices=Reason)
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    state_since = models.DateTimeField()
    deadline_at = models.DateTimeField()
    waits_for = models.TextField(blank=True)
    presents = models.PositiveSmallIntegerField(default=0, help_text="how often its records were published anew")
    orders = models.PositiveSmallIntegerField(default=0, help_text="how often it was ordered anew")
    validity_seconds = models.PositiveIntegerField(null=True, blank=True)
    csr_pem = models.TextField(blank=True)
    key = models.ForeignKey(Envelope, models.SET_NULL, null=True, blank=True, related_name="+", editable=False)
    order_url = models.CharField(max_length=500, blank=True)
    order_expires_at = models.DateTimeField(null=True, blank=True)
    csr_sent_at = models.DateTimeField(null=True, blank=True)
    settles_at = models.DateTimeField(
        null=True, blank=True, help_text="every record was shown; the credential waits on"
    )
    certificate_url = models.CharField(max_length=500, blank=True)
    profile = models.CharField(max_length=64, blank=True, help_text="that the order was sent with")
    replaces = models.CharField(max_length=100, blank=True, help_text="the ari_id that the order said it replaces")
    replaces_refused = models.BooleanField(default=False, help_text="the CA refused `replaces`: it is left out")
    slot_at = models.DateTimeField(null=True, blank=True, help_text="when the CA's limits let it order, as estimated")
    preflighted_at = models.DateTimeField(null=True, blank=True)
    proves = models.BooleanField(default=False, help_text="at the CA's staging: what is issued is thrown away")
    error_code = models.CharField(max_length=64, blank=True)
    error_what = models.TextField(blank=True)
    failure = models.CharField(max_length=9, choices=Failure, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = IssuanceQuerySet.as_manager()

    class Meta(Turns.Meta):
        indexes: ClassVar = (
            *Turns.Meta.indexes,
            models.Index(fields=["names_key"], name="issuances_by_names"),
            models.Index(fields=["order_url"], condition=~Q(order_url=""), name="issuances_by_order"),
            models.Index(fields=["queued_at"], condition=Q(queued_at__isnull=False), name="issuances_on_their_way"),
        )
        constraints: ClassVar = (
            models.UniqueConstraint(
                fields=["certificate"], condition=Q(wake_at__isnull=False), name="one_open_issuance_per_certificate"
            ),
            models.UniqueConstraint(
                fields=["order_url"],
                condition=Q(wake_at__isnull=False) & ~Q(order_url=""),
                name="one_open_issuance_per_order",
            ),
            models.CheckConstraint(
                condition=Q(
                    wake_at__isnull=False,
                    state__in=["queued", "ordered", "presented", "propagated", "validated", "finalized"],
                )
                | Q(wake_at__isnull=True, state__in=["issued", "failed", "canceled"]),
                name="an_issuance_wakes_as_long_as_it_is_open",
            ),
        )

    @property
    def is_open(self) -> bool:
        return self.wake_at is not None

    def age(self) -> timedelta:
        """How long it has been in its state."""
        return clock.now() - self.state_since

    def records(self) -> "TxtRecordQuerySet":
        return TxtRecord.objects.filter(authorizations__issuance=self).distinct()

    def pending_records(self) -> "TxtRecordQuerySet":
        """The records that its pending authorizations ask for."""
        pending = Authorization.objects.filter(issuance=self, status=Authorization.Status.PENDING)
        return TxtRecord.objects.filter(pk__in=pending.values("record")).order_by("pk")

    def __str__(self) -> str:
        return f"{self.certificate_id} #{self.number}"


class IssuanceEvent(models.Model):
    """What happened in an attempt, as its owner reads it. Append-only."""

    class Outcome(models.TextChoices):
        DONE = "done"
        WAIT = "wait"
        RETRY = "retry"
        FAILED = "failed"

    issuance = models.ForeignKey(Issuance, models.CASCADE, related_name="events")
    at = models.DateTimeField()
    step = models.CharField(max_length=16)
    outcome = models.CharField(max_length=8, choices=Outcome)
    what = models.TextField()
    took_ms = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.step} {self.outcome}"


class Authorization(models.Model):
    """An authorization of an attempt's order (RFC 8555, section 7.1.4), valid ones too."""

    class Status(models.TextChoices):
        UNREAD = "unread"
        PENDING = "pending"
        VALID = "valid"
        INVALID = "invalid"

    issuance = models.ForeignKey(Issuance, models.CASCADE, related_name="authorizations")
    url = models.CharField(max_length=500)
    identifier = models.CharField(max_length=253, blank=True)
    wildcard = models.BooleanField(default=False)
    status = models.CharField(max_length=16, choices=Status, default=Status.UNREAD)
    challenge_url = models.CharField(max_length=500, blank=True)
    record = models.ForeignKey(TxtRecord, models.SET_NULL, null=True, blank=True, related_name="authorizations")
    seen_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["issuance", "url"], name="one_row_per_authorization"),)

    def __str__(self) -> str:
        return self.identifier or self.url


class LimitBucket(models.Model):
    """A token bucket of a CA's limit, as the CA keeps one: `level` tokens at the moment `at`, filling ever since.

    Capacity and refill are data (`issuance.ca`), read when it is asked; see `issuance.limits`.
    """

    class Kind(models.TextChoices):
        ACCOUNT = "account"  # new orders of an account
        DOMAIN = "domain"  # certificates of a registered domain
        SET = "set"  # certificates of exactly these names
        FAILURES = "failures"  # failed validations of a name by an account

    ca = models.CharField(max_length=500, help_text="the directory of the CA")
    kind = models.CharField(max_length=8, choices=Kind)
    subject = models.CharField(max_length=320, help_text="what is counted: an account, a domain, a digest of names")
    label = models.CharField(max_length=320, blank=True, help_text="the subject as a sentence names it")
    level = models.FloatField(help_text="tokens at `at`; reservations that are under way are off it")
    at = models.DateTimeField(help_text="in the future while the CA said to come back then")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["ca", "kind", "subject"], name="one_bucket_for_each_subject"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.label or self.subject}"


class Reservation(models.Model):
    """An attempt's place in the queue for its CA's limits, then its slot (`issuance.limits`)."""

    class State(models.TextChoices):
        WAITING = "waiting"
        GRANTED = "granted"  # tokens are taken; to be used at once
        SENT = "sent"  # the order is under way, or was when its worker died
        SPENT = "spent"  # the CA answered

    issuance = models.OneToOneField(Issuance, models.CASCADE, related_name="reservation")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    is_renewal = models.BooleanField(default=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="of the certificate that it renews")
    asked_at = models.DateTimeField()
    granted_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (
            models.Index(fields=["asked_at"], condition=Q(state="waiting"), name="reservations_waiting"),
            models.Index(fields=["granted_at"], condition=Q(state__in=["granted", "sent"]), name="reservations_open"),
        )

    def __str__(self) -> str:
        return f"{self.issuance_id} {self.state}"


class ReservedToken(models.Model):
    """A bucket that a reservation needs: a token of it, or only that it is not empty (`cost` 0)."""

    reservation = models.ForeignKey(Reservation, models.CASCADE, related_name="tokens")
    bucket = models.ForeignKey(LimitBucket, models.CASCADE, related_name="tokens")
    cost = models.PositiveSmallIntegerField(default=1)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["reservation", "bucket"], name="a_bucket_once_a_reservation"),)

    def __str__(self) -> str:
        return f"{self.reservation_id} {self.bucket_id}"


class Exchange(models.Model):
    """A request to a CA and its answer, kept when debugging is on, without keys, signatures or EAB secrets."""

    account = models.ForeignKey(AcmeAccount, models.CASCADE, related_name="exchanges")
    issuance = models.ForeignKey(Issuance, models.CASCADE, null=True, blank=True, related_name="exchanges")
    at = models.DateTimeField(db_index=True)
    step = models.CharField(max_length=16, blank=True)
    method = models.CharField(max_length=8)
    url = models.CharField(max_length=500)
    request = models.JSONField(null=True, blank=True, help_text="the payload, where requests are saved")
    status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="null: no answer came")
    headers = models.JSONField(default=dict, help_text="those of the answer that matter")
    body = models.TextField(blank=True)
    problem = models.JSONField(null=True, blank=True)
    error = models.TextField(blank=True, help_text="why no answer came")
    took_ms = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.method} {self.url}"


class Drill(models.Model):
    """Replace everything that an issuer, or an account, issued before it began. What is left is counted, not kept."""

    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    issuer = models.CharField(max_length=255, blank=True)
    account = models.ForeignKey(AcmeAccount, models.PROTECT, null=True, blank=True, related_name="+")
    why = models.CharField(max_length=255, blank=True)
    total = models.PositiveIntegerField(default=0, help_text="certificates that it had to replace when it began")
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True, help_text="by a person; it may be resumed")

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(issuer="", account__isnull=False) | Q(account__isnull=True) & ~Q(issuer=""),
                name="a_drill_is_about_an_issuer_or_an_account",
            ),
            models.UniqueConstraint(
                fields=["issuer"],
                condition=Q(ended_at=None, stopped_at=None) & ~Q(issuer=""),
                name="one_running_drill_for_each_issuer",
            ),
            models.UniqueConstraint(
                fields=["account"],
                condition=Q(ended_at=None, stopped_at=None),
                name="one_running_drill_for_each_account",
            ),
        )

    @property
    def subject(self) -> str:
        """Whose certificates it replaces, as a sentence says it."""
        return f"the account {self.account}" if self.account else self.issuer

    @property
    def status(self) -> str:
        """running, stopped (by a person), ended (nothing is left)."""
        if self.ended_at:
            return "ended"
        return "stopped" if self.stopped_at else "running"

    def __str__(self) -> str:
        return f"replace what {self.subject} issued"


class RequestKey(models.Model):
    """An Idempotency-Key that a client sent, and what its request made."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, help_text="SHA-256 of method, path and body")
    certificate = models.ForeignKey(Certificate, models.CASCADE, null=True, related_name="+")
    issuance = models.ForeignKey(Issuance, models.CASCADE, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["owner", "key"], name="one_request_per_idempotency_key"),)

    def __str__(self) -> str:
        return self.key
