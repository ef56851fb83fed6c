"""The addresses where the server looks each day which certificate is served."""

from typing import ClassVar

from django.db import models

from certctrl.sentences import SentenceField
from certctrl.turns import Turns, TurnsQuerySet
from issuance.models.certificates import Certificate


class Probe(Turns):
    """An address that should serve a certificate, and what it served last.

    `wake_at` is the time of the next look.
    """

    certificate = models.ForeignKey(
        Certificate, models.CASCADE, related_name="probes", db_index=False
    )
    address = models.CharField(max_length=253, help_text="a host name or an IP address")
    port = models.PositiveIntegerField()
    sni = models.CharField(max_length=253, blank=True)
    starttls = models.CharField(max_length=8, blank=True)
    probed_at = models.DateTimeField(null=True, blank=True)
    serial = models.CharField(max_length=40, blank=True, help_text="hex; that it served then")
    fingerprint = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the leaf, hex")
    not_after = models.DateTimeField(null=True, blank=True)
    error_what = SentenceField(blank=True, help_text="why it served none")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TurnsQuerySet["Probe"].as_manager()

    class Meta(Turns.Meta):
        constraints: ClassVar = (
            models.UniqueConstraint(
                fields=["certificate", "address", "port", "sni", "starttls"],
                name="an_address_is_probed_once",
            ),
        )

    @property
    def shows_current(self) -> bool:
        """Whether it served the current version of its certificate."""
        current = self.certificate.current
        return bool(current and self.fingerprint == current.fingerprint)

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"
