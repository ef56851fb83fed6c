"""ACME accounts, private CAs, and exchanges with CAs."""

from django.conf import settings
from django.db import models

from certctrl.sentences import SentenceField
from certctrl.turns import Turns, TurnsQuerySet
from keystore.models import Envelope


class PrivateCA(models.Model):
    """A private CA of the owner. It signs inside the request."""

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
    """An account at a CA (RFC 8555, section 7.1.2).

    `wake_at` is set until the account is registered or refused.
    """

    class Status(models.TextChoices):
        """The statuses of RFC 8555, section 7.1.6, with `pending` and `refused` of this server."""

        PENDING = "pending"
        VALID = "valid"
        REFUSED = "refused"
        DEACTIVATED = "deactivated"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="acme_accounts"
    )
    name = models.CharField(max_length=64)
    ca_provider = models.CharField(max_length=32)
    directory_url = models.URLField(max_length=500, blank=True)
    email = models.EmailField(blank=True)
    terms_accepted_at = models.DateTimeField()
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    url = models.URLField(
        max_length=500, blank=True, help_text="the account URL at the CA: the kid of each request"
    )
    key = models.ForeignKey(Envelope, models.PROTECT, related_name="+", editable=False)
    thumbprint = models.CharField(
        max_length=64, blank=True, help_text="of the account key (RFC 7638)"
    )
    eab_kid = models.CharField(max_length=255, blank=True)
    eab = models.ForeignKey(
        Envelope, models.PROTECT, null=True, blank=True, related_name="+", editable=False
    )
    private_ca = models.ForeignKey(
        PrivateCA, models.PROTECT, null=True, blank=True, related_name="accounts"
    )
    error_code = models.CharField(max_length=64, blank=True)
    error_what = SentenceField(blank=True)
    defaults = models.JSONField(
        default=dict, help_text="key_type, key_size and validity_seconds of its certificates"
    )
    staging_first = models.BooleanField(
        default=False,
        help_text=(
            "after three failures in a row, the next attempt is tested at the CA's staging first"
        ),
    )
    staging_account = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="+"
    )
    log_level = models.CharField(
        max_length=8, blank=True, help_text="with debug, every exchange with the CA is stored"
    )
    save_requests = models.BooleanField(
        default=False, help_text="with log_level debug, bodies of requests are stored too"
    )
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


class Exchange(models.Model):
    """A request to a CA or to a DNS API, and its response, kept while debugging is on.

    Keys, signatures and EAB secrets are masked.
    """

    account = models.ForeignKey(AcmeAccount, models.CASCADE, related_name="exchanges")
    attempt_id = models.BigIntegerField(
        null=True, blank=True, db_index=True, help_text="null while the account is registered"
    )
    at = models.DateTimeField(db_index=True)
    step = models.CharField(max_length=16, blank=True)
    party = models.CharField(
        max_length=64, blank=True, help_text="the DNS provider; empty for the CA"
    )
    method = models.CharField(max_length=8)
    url = models.CharField(max_length=500)
    request = models.JSONField(
        null=True, blank=True, help_text="the payload, if requests are saved"
    )
    status = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="null when there was no response"
    )
    headers = models.JSONField(default=dict, help_text="the important headers of the response")
    body = models.TextField(blank=True)
    problem = models.JSONField(null=True, blank=True)
    error = SentenceField(blank=True, help_text="why there was no response")
    took_ms = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.method} {self.url}"
