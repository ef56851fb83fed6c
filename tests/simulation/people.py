"""People who change their minds, at times that the seed draws."""

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from django.db import transaction
from nacl.public import PrivateKey  # noqa: TID251

from certctrl import clock, turns
from certctrl.errors import ApiError
from devices import registration
from devices import services as devices
from devices.models import Device
from dnsproviders.models import DisabledProvider
from issuance import services
from issuance.models import Certificate
from keystore import recipients
from keystore.policy import Policy

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

TAG = "web"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NAMES = (
    ("example.com",),
    ("example.com", "*.example.com"),
    ("www.example.com", "example.com"),
)


class People:
    def __init__(self, simulation: "Simulation", rng: random.Random) -> None:
        self.simulation = simulation
        self.rng = rng

    def script(self) -> list[tuple[float, Callable[[], None]]]:
        """Return (seconds, action) pairs of a person."""
        profile = self.simulation.profile
        rng = self.rng
        span = profile.minutes * 60
        first = rng.choice(NAMES)
        creations = [
            (span / 4 * number * rng.random(), self.creates(first))
            for number in range(profile.certificates)
        ]
        doings = (self.renews, self.cancels, self.cancels_and_renews, self.changes_the_credential)
        doings += (self.creates_again, self.deletes, self.revokes, self.its_moment_comes)
        doings += (self.its_window_moves,) if profile.renewal_info else ()
        weights = (3, 2, 3, 2, 2, 1, 1, 3, 3)[: len(doings)]
        if profile.devices:
            doings += (self.assigns, self.unassigns, self.changes_the_policy, self.tags_a_device)
            doings += (self.assigns_to_a_tag, self.enrols_a_device_again, self.revokes_a_device)
            often = profile.moves
            weights += (6 * often, 2, 4, 2 * often, often, 3 * often, 2)
        if profile.rollouts:
            doings += (self.chooses_a_canary, self.chooses_a_window)
            weights += (8, 8)
        minds = [
            (rng.uniform(10, span), rng.choices(doings, weights)[0]) for _ in range(profile.people)
        ]
        return [*creations, *minds, *self.outages(span)]

    def outages(self, span: float) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yield when the operator disables the DNS provider, and when it is enabled again."""
        for _ in range(self.simulation.profile.outages):
            begins = self.rng.uniform(0.0, span)
            yield begins, self.disables_the_provider
            yield begins + self.rng.uniform(10.0, span), self.enables_the_provider

    def disables_the_provider(self) -> None:
        owner = self.simulation.account_row.owner
        services.disable_provider(self.simulation.credentials[0].provider, owner, "an outage")

    def enables_the_provider(self) -> None:
        for row in DisabledProvider.objects.all():
            services.enable_provider(row, self.simulation.account_row.owner)

    def creates(self, first: tuple[str, ...]) -> Callable[[], None]:
        names = self.rng.choice((first, first, self.rng.choice(NAMES)))
        key_size = self.rng.choice((256, 256, 384))
        twice = self.rng.random() < 0.2

        def act() -> None:
            sim = self.simulation
            for _ in range(1 + twice):
                sim.create(
                    sim.account_row, self.rng.choice(sim.credentials), *names, key_size=key_size
                )

        act.__name__ = "creates"
        return act

    def pick(self) -> Certificate | None:
        account = self.simulation.account_row
        found = list(Certificate.objects.filter(retired_at=None, account=account).order_by("pk"))
        return self.rng.choice(found) if found else None

    def creates_again(self) -> None:
        certificate = self.pick()
        if certificate:
            sim = self.simulation
            other = 384 if certificate.key_size == 256 else 256
            key_size = self.rng.choice((certificate.key_size, other))
            sim.create(
                sim.account_row, certificate.credential, *certificate.names, key_size=key_size
            )

    def renews(self) -> None:
        self._with_one(services.issue)

    def cancels(self) -> None:
        self._with_one(services.cancel)

    def cancels_and_renews(self) -> None:
        self._with_one(services.cancel)
        self._with_one(services.issue)

    def changes_the_credential(self) -> None:
        certificate = self.pick()
        if certificate:
            others = [
                each for each in self.simulation.credentials if each.pk != certificate.credential_id
            ]
            services.update_certificate(certificate, {"credential": self.rng.choice(others)})
            if self.rng.random() < 0.5:
                services.cancel(certificate)
            services.issue(certificate)

    def deletes(self) -> None:
        self._with_one(services.retire)

    def revokes(self) -> None:
        self._with_one(services.revoke)

    def its_moment_comes(self) -> None:
        """Make the renewal due now."""
        certificate = self.pick()
        if certificate:
            Certificate.objects.filter(pk=certificate.pk, current__isnull=False).update(
                renew_at=clock.now()
            )

    def its_window_moves(self) -> None:
        """The CA is about to revoke."""
        certificate = self.pick()
        if certificate and certificate.current:
            now = self.simulation.scheduler.true_now()
            self.simulation.ca.windows[certificate.current.ari_id] = (
                now - 2 * turns.A_DAY,
                now - turns.A_DAY,
            )

    # --- devices ---

    def assigns(self) -> None:
        self._with_both(services.assign)

    def unassigns(self) -> None:
        self._with_both(services.unassign)

    def _with_both(self, act: Callable[[Certificate, Device], Any]) -> None:
        certificate, device = self.pick(), self.pick_device()
        if certificate:
            act(certificate, device)

    def assigns_to_a_tag(self) -> None:
        act = self.rng.choice((services.assign_to_tag, services.unassign_from_tag))
        self._with_one(lambda certificate: act(certificate, TAG))

    def changes_the_policy(self) -> None:
        policy = self.rng.choice(Policy.values)
        self._with_one(lambda one: services.update_certificate(one, {"key_policy": policy}))

    def chooses_a_canary(self) -> None:
        choice = self.rng.choice(("canary", "canary", "all"))
        self._with_one(lambda one: services.update_certificate(one, {"rollout": choice}))

    def chooses_a_window(self) -> None:
        opens, hours = self.rng.randrange(24), self.rng.choice((1, 6))
        times = {"start": f"{opens:02}:00", "end": f"{(opens + hours) % 24:02}:00"}
        days = self.rng.choice((DAYS, (self.rng.choice(DAYS),)))
        window = self.rng.choice((None, times | {"timezone": "UTC", "days": [*days]}))
        self._with_one(lambda one: services.update_certificate(one, {"install_window": window}))

    def tags_a_device(self) -> None:
        self._change(devices.change_device, {"tags": self.rng.choice(([TAG], []))})

    def revokes_a_device(self) -> None:
        self._change(devices.revoke_device)

    def enrols_a_device_again(self) -> None:
        def enrol(device: Device) -> None:
            key = device.key
            if self.rng.random() < 0.5:
                pair = PrivateKey(self.rng.randbytes(32))
                key = recipients.recipient_key(device.owner, bytes(pair.public_key))
            else:
                key = recipients.recipient_key(device.owner, bytes(key.public_key))
            registration.enrol(device.owner, device, key, {})

        self._change(enrol)

    def _change(self, act: Callable[..., Any], *args: Any) -> None:
        """Change a device. The process may die after the commit, before anybody is called."""
        device = self.pick_device()
        with transaction.atomic():
            act(device, *args)
        if not self.simulation.faults.strikes(self.simulation.profile.forget):
            services.follow_device(device.pk)

    def pick_device(self) -> Device:
        found = Device.objects.filter(owner=self.simulation.account_row.owner)
        return self.rng.choice(list(found.select_related("owner", "key").order_by("pk")))

    def _with_one(self, act: Callable[[Certificate], Any]) -> None:
        certificate = self.pick()
        if certificate:
            act(certificate)


def refused_or_done(act: Callable[[], None]) -> str:
    """Return how the action ended. A refusal is a normal end."""
    try:
        act()
    except ApiError as refusal:
        return f"refused: {refusal.what}"
    return "done"
