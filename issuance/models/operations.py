"""What operators look at and start: exchanges with CAs, drills."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from issuance.models.accounts import AcmeAccount
from issuance.models.attempts import Issuance


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
