"""Columns of an attempt that belong to one part of its way. They are in the row of the attempt."""

from django.db import models


class OrderAtCA(models.Model):
    """The order at the CA, and what it was sent with.

    The order step writes these columns. The finalize step writes `csr_sent_at` and
    `certificate_url`. The validate step empties `finalize_url` of an order that is not ready.
    """

    order_url = models.CharField(max_length=500, blank=True)
    order_expires_at = models.DateTimeField(null=True, blank=True)
    finalize_url = models.CharField(
        max_length=500,
        blank=True,
        help_text="where a CSR goes, unless the order must be read first",
    )
    orders = models.PositiveSmallIntegerField(default=0, help_text="how often a new order was sent")
    profile = models.CharField(max_length=64, blank=True, help_text="that the order was sent with")
    replaces = models.CharField(
        max_length=100, blank=True, help_text="the ari_id that the order said it replaces"
    )
    replaces_refused = models.BooleanField(
        default=False, help_text="the CA refused `replaces`: it is left out"
    )
    csr_sent_at = models.DateTimeField(null=True, blank=True)
    certificate_url = models.CharField(max_length=500, blank=True)

    class Meta:
        abstract = True


class Propagation(models.Model):
    """How far the TXT records are visible.

    The propagate step writes all of these columns except `deaf`. The order step writes `deaf` after
    its preflight.
    """

    presents = models.PositiveSmallIntegerField(
        default=0, help_text="how often its records were published again"
    )
    settles_at = models.DateTimeField(
        null=True, blank=True, help_text="every record was shown; the credential waits on"
    )
    servers = models.JSONField(
        default=list,
        blank=True,
        help_text="name servers of the last look that waited: `server`, `state` and `since`",
    )
    deaf = models.JSONField(
        default=list,
        blank=True,
        help_text="name servers that the preflight found not to answer for their zone",
    )

    class Meta:
        abstract = True
