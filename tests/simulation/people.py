"""People who change their minds, at times that the seed draws."""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from certctrl import clock, turns
from certctrl.errors import ApiError
from issuance import services
from issuance.models import Certificate

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

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
        minds = [
            (rng.uniform(10, span), rng.choices(doings, weights)[0]) for _ in range(profile.people)
        ]
        return [*creations, *minds]

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
