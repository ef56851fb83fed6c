"""The server looks each day at stored addresses, and notifies the owner of an old certificate."""

from datetime import timedelta

import pytest

from authorities import pki
from certctrl.turns import Trouble
from issuance.beat import renewals
from issuance.models import Probe
from issuance.probes import handshake
from notices.models import Notice

pytestmark = pytest.mark.django_db
A_DAY = 86400


@pytest.fixture
def certificate(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.settle()
    certificate.refresh_from_db()
    return certificate


@pytest.fixture
def served(monkeypatch):
    """What addresses serve: a version, or a Trouble. Also keeps the targets that were asked."""

    class Served:
        version = None
        targets: list = []

        def look(self, target):
            self.targets.append(target)
            if isinstance(self.version, Trouble):
                raise self.version
            return pki.facts_of_der(pki.to_der(self.version.chain_pem))

    served = Served()
    served.targets = []
    monkeypatch.setattr(handshake, "look", served.look)
    return served


@pytest.fixture
def probe(world, certificate, served):
    served.version = certificate.current
    return Probe.objects.create(
        certificate=certificate, address="www.example.com", port=443, wake_at=world.time
    )


def renew(world, certificate):
    """Renew by the clock. Return the version before."""
    before = certificate.current
    world.time = certificate.renew_at + timedelta(seconds=1)
    renewals.scan_renewals.run()
    world.settle()
    certificate.refresh_from_db()
    assert certificate.current != before
    return before


def test_a_probe_is_sent_when_it_is_due(world, probe, served):
    world.advance(2 * A_DAY)
    world.sweep()
    assert [str(each) for each in served.targets] == ["www.example.com:443"]
    probe.refresh_from_db()
    assert probe.shows_current
    assert (probe.error_what, probe.probed_at) == ("", world.time)
    world.advance(A_DAY - 1)
    world.sweep()
    assert len(served.targets) == 1
    world.advance(1)
    world.sweep()
    assert len(served.targets) == 2
    assert not Notice.objects.filter(kind="not_served").exists()


def test_an_old_certificate_raises_one_notice_when_time_is_up(world, certificate, probe, served):
    served.version = renew(world, certificate)
    world.sweep()
    probe.refresh_from_db()
    assert (probe.shows_current, probe.serial) == (False, served.version.serial)
    assert not Notice.objects.filter(kind="not_served").exists()
    assert probe.wake_at == certificate.current.issuance.ended_at + timedelta(days=1)
    for _ in range(3):
        world.advance(A_DAY)
        world.sweep()
    notice = Notice.objects.get(kind="not_served")
    assert notice.subject == (
        "www.example.com:443 does not serve the current certificate for example.com"
    )
    assert certificate.current.serial in notice.body
    assert served.version.serial in notice.body


def test_an_address_that_does_not_answer_is_named_with_the_reason(world, probe, served):
    served.version = Trouble("probe_unreachable", "www.example.com:443 did not answer.")
    world.advance(A_DAY)
    world.sweep()
    probe.refresh_from_db()
    assert probe.error_what == "www.example.com:443 did not answer."
    assert "did not answer" in Notice.objects.get(kind="not_served").body


def test_a_probe_of_a_deleted_certificate_sleeps(world, certificate, probe, served):
    type(certificate).objects.update(retired_at=world.time)
    world.sweep()
    probe.refresh_from_db()
    assert probe.wake_at is None
    assert served.targets == []


def test_a_certificate_that_was_never_issued_raises_no_notice(world, account, credential, served):
    certificate, _ = world.create(account, credential, "new.example.com")
    served.version = Trouble("probe_no_tls", "No TLS.")
    Probe.objects.create(certificate=certificate, address="a.test", port=1, wake_at=world.time)
    type(certificate).objects.update(current=None)
    world.sweep()
    world.advance(2 * A_DAY)
    world.sweep()
    assert len(served.targets) >= 1
