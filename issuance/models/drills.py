"""Drills: the replacement of everything that an issuer, or an account, issued."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from authorities.models import AcmeAccount


class Drill(models.Model):
    """Replace everything that an issuer, or an account, issued before the drill began.

    The number of certificates that are left is counted when it is read. It is not stored.
    """

    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    issuer = models.CharField(max_length=255, blank=True)
    account = models.ForeignKey(
        AcmeAccount, models.PROTECT, null=True, blank=True, related_name="+"
    )
    why = models.CharField(max_length=255, blank=True)
    total = models.PositiveIntegerField(
        default=0, help_text="certificates that it had to replace when it began"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(
        null=True, blank=True, help_text="by a person; it may be resumed"
    )

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(issuer="", account__isnull=False)
                | Q(account__isnull=True) & ~Q(issuer=""),
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
        """Return the issuer or account, for a sentence."""
        return f"the account {self.account}" if self.account else self.issuer

    @property
    def status(self) -> str:
        """Return the status: running, stopped (by a person) or ended (nothing is left)."""
        if self.ended_at:
            return "ended"
        return "stopped" if self.stopped_at else "running"

    def __str__(self) -> str:
        return f"replace what {self.subject} issued"
