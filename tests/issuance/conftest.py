"""A machine, and certificates that are issued for machines."""

from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import User
from authorities.models import AcmeAccount
from dnsproviders.models import DnsCredential
from issuance import services
from issuance.models import Certificate
from tests.devices.machine import Machine
from tests.fakes.world import World


@pytest.fixture
def machine(owner: User, world: World) -> Machine:
    return Machine(owner)


@pytest.fixture
def deployed(
    world: World, account: AcmeAccount, credential: DnsCredential
) -> Callable[..., Certificate]:
    """`deployed(machine, key_policy=...)` returns a certificate that was issued for machines."""

    def make(*machines: Machine, **fields: Any) -> Certificate:
        spec = world.spec(account, credential, "example.com", **fields)
        certificate, _ = services.create_certificate(account.owner, spec, issue=False)
        for each in machines:
            services.assign(certificate, each.row)
        certificate.refresh_from_db()
        if not certificate.lacks_device:
            services.issue(certificate)
        world.deliver()
        certificate.refresh_from_db()
        return certificate

    return make
