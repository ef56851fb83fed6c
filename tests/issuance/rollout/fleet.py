"""Devices with one certificate, and what they report, for the scenarios of rollouts."""

from datetime import timedelta
from typing import Any

from django.db import transaction

from devices.models import Device, Signal
from issuance import rollout, services
from issuance.beat import renewals
from issuance.models import CertificateVersion, Deployment
from issuance.rollout import Report
from notices.models import Notice
from tests import factories
from tests.fakes.world import World

A_DAY = 86400


class Fleet:
    """`certificate` is on `devices`, which all serve its first version."""

    def __init__(self, world: World, account: Any, credential: Any, count: int = 4, **fields: Any):
        self.world = world
        self.certificate, _ = world.create(account, credential, **fields)
        self.devices = [
            factories.device(account.owner, name=f"web{n}") for n in range(1, count + 1)
        ]
        for device in self.devices:
            services.assign(self.certificate, device)
        world.settle()
        for device in self.devices:
            self.report(device, "served")
        world.sweep()

    @property
    def current(self) -> CertificateVersion:
        self.certificate.refresh_from_db()
        version = self.certificate.current
        assert version
        return version

    def row(self, device: Device) -> Deployment:
        return Deployment.objects.get(certificate=self.certificate, device=device)

    def renew(self) -> CertificateVersion:
        """Renew by the clock. Return the version before."""
        before = self.current
        assert self.certificate.renew_at
        self.world.time = self.certificate.renew_at + timedelta(seconds=1)
        self.see_all()
        renewals.scan_renewals.run()
        self.world.settle()
        assert self.current != before
        return before

    def see_all(self) -> None:
        Device.objects.update(last_seen_at=self.world.time)

    def report(
        self, device: Device, state: str, what: str = "", version: CertificateVersion | None = None
    ) -> None:
        serial = (version or self.current).serial
        rollout.note_reports(device, [Report(self.certificate.pk, serial, state, what)])

    def reach(self, device: Device) -> None:
        with transaction.atomic():
            rollout.reach(self.certificate, [device.pk])

    def wanting(self) -> list[str]:
        """Return the names of the devices that may fetch the current version."""
        rows = Deployment.objects.filter(wanted=self.current).order_by("device")
        return list(rows.values_list("device__name", flat=True))

    def told(self) -> list[str]:
        """Return the names of the devices that have a signal about the current version."""
        signals = Signal.objects.filter(type="cert.updated", ref__serial=self.current.serial)
        return sorted(signals.values_list("device__name", flat=True))

    def pass_time(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.world.sweep()

    @staticmethod
    def notices() -> list[Notice]:
        return list(Notice.objects.filter(kind="not_served").order_by("pk"))
