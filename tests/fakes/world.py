"""The real workflow with a fake CA, a fake zone, messages in memory and a clock that tests move."""

from collections import deque
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings

from accounts.models import User
from authorities import clients
from authorities.models import AcmeAccount
from certctrl import clock, dispatch
from dnsclient import cnames, survey
from dnsproviders import propagation, registry
from dnsproviders.models import DnsCredential, TxtRecord
from issuance import services, tasks, workflow
from issuance.beat import sweep
from issuance.challenges import resolvercache
from issuance.models import Certificate, Issuance
from keystore import envelope
from tests.fakes.ca import FakeCA, FakeClient
from tests.fakes.outside import Died, Outside
from tests.fakes.zone import FakeProvider, FakeZone

KEPT = resolvercache.kept


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: datetime | None = None) -> None:
        self.outside = Outside()
        self.zone = FakeZone(self.outside)
        self.ca = FakeCA(self.outside, self.zone)
        self.staging = FakeCA(self.outside, self.zone, name="staging")
        self.cas = {"letsencrypt_staging": self.staging}  # by ca_provider; all others use `ca`
        self.messages: deque[tuple[Any, ...]] = deque()
        self.sent: list[str] = []
        self.time = start or clock.now()
        self.passed = 0.0
        monkeypatch.setattr(clock, "now", lambda: self.time)
        monkeypatch.setattr(clock, "monotonic", lambda: self.passed)
        monkeypatch.setattr(clients, "client_for", self.client_for)
        monkeypatch.setattr(
            registry, "provider_with", lambda credential: FakeProvider(self.zone, credential)
        )
        monkeypatch.setattr(propagation, "look", self.zone.look)
        monkeypatch.setattr(cnames, "follow", self.zone.follow)
        monkeypatch.setattr(survey, "survey", self.zone.survey)
        monkeypatch.setattr(resolvercache, "kept", self.kept)
        monkeypatch.setattr(tasks, "start", self._start)
        monkeypatch.setattr(dispatch, "nudge", self._nudge)

    def kept(self, *given: Any) -> resolvercache.Kept | None:
        """Return what the CA's resolver may have cached, or None if `ca.keeps_txt` is 0."""
        return KEPT(*given) if self.ca.keeps_txt else None

    def client_for(self, account: AcmeAccount) -> FakeClient:
        return self.cas.get(account.ca_provider, self.ca).client_for(account)

    # --- time and messages ---

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.passed += seconds

    def _start(
        self,
        issuance_id: int,
        state: str = Issuance.State.QUEUED,
        *,
        priority: int = dispatch.FIRST,
    ) -> bool:
        self.sent.append("chain")
        self.messages.append((self.chain, issuance_id, state))
        return True

    def _nudge(self, task: Any, *args: int) -> bool:
        self.sent.append(task.name)
        self.messages.append((task.run, *args))
        return True

    @staticmethod
    def chain(issuance_id: int, state: str) -> None:
        step = workflow.STEP_AT.get(state)
        while step:
            step = workflow.walk(step, issuance_id)

    def deliver(self) -> None:
        """Run every message, and the messages that they send."""
        while self.messages:
            act, *args = self.messages.popleft()
            act(*args)

    def deliver_unless_killed(self) -> bool:
        try:
            self.deliver()
        except Died:
            self.outside.die_at = None
            return False
        return True

    def sweep(self) -> None:
        sweep.sweep.run()
        self.deliver()

    def settle(self, most: int = 10, step: float | None = None) -> int:
        """Sweep until no attempt is open and no record is in the zone. Return the number of sweeps.

        Between sweeps the clock moves by `step` seconds, or by LEASE. Stop after `most` sweeps.
        """
        for count in range(most):
            self.sweep()
            if self.is_quiet():
                return count + 1
            self.advance(settings.LEASE if step is None else step)
        return most

    def is_quiet(self) -> bool:
        return not Issuance.objects.open().exists() and not TxtRecord.objects.in_the_zone().exists()

    # --- people ---

    def account(self, owner: User, **fields: Any) -> AcmeAccount:
        ca_provider = fields.get("ca_provider", "custom")
        defaults: dict[str, Any] = {
            "name": "an account",
            "ca_provider": "custom",
            "directory_url": f"https://{self.cas.get(ca_provider, self.ca).name}.test/dir",
            "terms_accepted_at": self.time,
            "key": envelope.seal(owner, "acme_account_key", b"unused"),
            "url": "https://ca.test/acct/1",
            "status": AcmeAccount.Status.VALID,
        }
        return AcmeAccount.objects.create(owner=owner, **defaults | fields)

    def credential(self, owner: User, **fields: Any) -> DnsCredential:
        defaults = {
            "name": "a zone",
            "provider": "httpreq",
            "secret": envelope.seal(owner, "dns_credential", b"{}"),
        }
        return DnsCredential.objects.create(owner=owner, **defaults | fields)

    def spec(
        self, account: AcmeAccount, credential: DnsCredential | None, *names: str, **fields: Any
    ) -> services.CertificateSpec:
        kind = {
            "key_type": fields.pop("key_type", "ecdsa"),
            "key_size": fields.pop("key_size", 256),
        }
        return services.CertificateSpec(names, account, credential, settings=fields, **kind)

    def create(
        self, account: AcmeAccount, credential: DnsCredential | None, *names: str, **fields: Any
    ) -> tuple[Certificate, Issuance]:
        spec = self.spec(
            account, credential, *(names or ("example.com", "*.example.com")), **fields
        )
        certificate, issuance = services.create_certificate(account.owner, spec, issue=True)
        assert issuance
        return certificate, issuance
