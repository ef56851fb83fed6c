"""Which certificate is on which device, and which private CA a device trusts."""

from django.db import models
from django.db.models import F, Q

from authorities.models import PrivateCA
from devices.models import Device
from issuance.models.certificates import Certificate, CertificateVersion

NOT_SERVED = Q(wanted__isnull=False) & ~Q(served_serial=F("wanted_serial"))


class Deployment(models.Model):
    """A certificate that is assigned to a device. The row is the assignment.

    A device that was revoked keeps its rows. They count again when it enrols again.

    The device may fetch the version that it wants. The versions that it fetched, installed and
    served are kept by their serial numbers, with the times. So is the one that it wants.
    `wake_at` is when `rollout.advance` looks at the row.
    """

    class Failure(models.TextChoices):
        ROLLED_BACK = "rolled_back"
        FAILED = "failed"

    certificate = models.ForeignKey(
        Certificate, models.CASCADE, related_name="deployments", db_index=False
    )
    device = models.ForeignKey(Device, models.CASCADE, related_name="deployments")
    by_tag = models.BooleanField(
        default=False, help_text="a tag of the device assigned it; it goes with the tag"
    )
    assigned_at = models.DateTimeField(auto_now_add=True)
    wanted = models.ForeignKey(
        CertificateVersion, models.SET_NULL, null=True, blank=True, related_name="wanting"
    )
    wanted_serial = models.CharField(max_length=40, blank=True)
    wanted_at = models.DateTimeField(null=True, blank=True)
    fetched_serial = models.CharField(max_length=40, blank=True)
    fetched_at = models.DateTimeField(null=True, blank=True)
    installed_serial = models.CharField(max_length=40, blank=True)
    installed_at = models.DateTimeField(null=True, blank=True)
    served_serial = models.CharField(max_length=40, blank=True)
    served_at = models.DateTimeField(null=True, blank=True)
    failed_serial = models.CharField(max_length=40, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    failure = models.CharField(max_length=11, choices=Failure, blank=True)
    failure_what = models.TextField(blank=True, help_text="the reason, as the agent reported it")
    wake_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = (
            # The rows that advance_rollouts reads.
            models.Index(
                fields=["wake_at", "certificate"],
                condition=Q(wake_at__isnull=False),
                name="deployments_to_advance",
            ),
            # The rows that the overview, and the list of what is not served, read.
            models.Index(fields=["-id"], condition=NOT_SERVED, name="deployments_not_served"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=["certificate", "device"], name="a_certificate_is_on_a_device_once"
            ),
        )

    def __str__(self) -> str:
        return f"certificate {self.certificate_id} on device {self.device_id}"


class CertificateTag(models.Model):
    """A tag that a certificate is assigned to. Each device with the tag gets the certificate."""

    certificate = models.ForeignKey(
        Certificate, models.CASCADE, related_name="tags", db_index=False
    )
    tag = models.CharField(max_length=64, db_index=True)
    assigned_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["certificate", "tag"], name="a_certificate_has_a_tag_once"
            ),
        )

    def __str__(self) -> str:
        return self.tag


class TrustedCA(models.Model):
    """A private CA whose certificate a device puts among those that it trusts."""

    device = models.ForeignKey(Device, models.CASCADE, related_name="trusted_cas", db_index=False)
    private_ca = models.ForeignKey(PrivateCA, models.CASCADE, related_name="trusting_devices")
    assigned_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "trusted CA"
        constraints = (
            models.UniqueConstraint(
                fields=["device", "private_ca"], name="a_device_trusts_a_ca_once"
            ),
        )

    def __str__(self) -> str:
        return f"CA {self.private_ca_id} on device {self.device_id}"
