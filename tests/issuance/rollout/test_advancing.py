"""A new version reaches all devices at once, or one of them first, and in its window."""

from datetime import timedelta

import pytest

from devices import services as device_services
from issuance import rollout, services
from issuance.beat import rollouts
from issuance.models import Certificate, CertificateVersion, Deployment, RenewalInfo
from tests import factories
from tests.issuance.rollout.fleet import A_DAY, Fleet

pytestmark = pytest.mark.django_db
ALL = ["web1", "web2", "web3", "web4"]


@pytest.fixture
def fleet(world, account, credential):
    return Fleet(world, account, credential)


@pytest.fixture
def careful(world, account, credential):
    """A fleet with a canary."""
    return Fleet(world, account, credential, rollout="canary")


def set_window(fleet, start: timedelta) -> None:
    """Let the window of an hour open `start` from now."""
    opens = fleet.world.time + start
    window = {
        "start": f"{opens:%H:%M}",
        "end": f"{opens + timedelta(hours=1):%H:%M}",
        "timezone": "UTC",
    }
    services.update_certificate(fleet.certificate, {"install_window": window})


# --- all at once ---


def test_a_renewal_reaches_all_devices_at_once(fleet):
    fleet.renew()
    assert fleet.wanting() == fleet.told() == ALL
    row = fleet.row(fleet.devices[0])
    assert row.wanted_at == fleet.certificate.current.issuance.ended_at
    assert row.served_serial != row.wanted.serial


def test_a_device_that_serves_it_needs_no_more_looks(fleet):
    fleet.renew()
    for device in fleet.devices:
        fleet.report(device, "served")
    fleet.pass_time(2 * A_DAY)
    assert not Deployment.objects.exclude(wake_at=None).exists()
    assert fleet.notices() == []


def test_a_late_device_is_named_once_with_how_far_it_came(fleet):
    fleet.renew()
    version = fleet.current
    for device in fleet.devices[:1]:
        fleet.report(device, "served")
    fleet.report(fleet.devices[1], "installed")
    rollout.note_fetched(fleet.devices[2], version)
    fleet.pass_time(A_DAY - 600)
    assert fleet.notices() == []
    fleet.pass_time(600)
    (notice,) = fleet.notices()
    assert notice.subject == "The new certificate for example.com is not served by 3 devices"
    assert [each["device"] for each in notice.data["devices"]] == ["web2", "web3", "web4"]
    assert "web2: it installed it at" in notice.body
    assert "web3: it fetched it at" in notice.body
    assert "web4: it has not fetched it. It was last seen at" in notice.body
    fleet.pass_time(5 * A_DAY)
    assert fleet.notices() == [notice]


def test_a_failure_is_a_notice_at_once_and_none_later(fleet):
    fleet.renew()
    for device in fleet.devices[1:]:
        fleet.report(device, "served")
    fleet.report(fleet.devices[0], "rolled_back", "nginx -t: unknown directive")
    (notice,) = fleet.notices()
    assert notice.subject == "The new certificate for example.com failed on web1"
    assert "nginx -t: unknown directive" in notice.body
    fleet.report(fleet.devices[0], "rolled_back", "nginx -t: unknown directive")
    fleet.pass_time(2 * A_DAY)
    assert fleet.notices() == [notice]


# --- a canary ---


def test_the_first_version_reaches_all_devices_of_a_canary_rollout(careful):
    assert careful.wanting() == careful.told() == ALL


def test_the_others_wait_until_the_canary_serves_it(careful):
    before = careful.renew()
    assert careful.wanting() == careful.told() == ["web1"]
    assert careful.row(careful.devices[3]).wanted == before
    careful.report(careful.devices[0], "installed")
    careful.pass_time(3 * 3600)
    assert careful.wanting() == ["web1"]
    careful.report(careful.devices[0], "served")
    careful.world.sweep()
    assert careful.wanting() == careful.told() == ALL


@pytest.mark.parametrize("state", ["failed", "rolled_back"])
def test_a_canary_that_fails_stops_the_rollout(careful, state):
    before = careful.renew()
    careful.report(careful.devices[0], state, "The handshake shows the old certificate.")
    careful.pass_time(3 * A_DAY)
    assert careful.wanting() == ["web1"]
    (notice,) = careful.notices()
    assert notice.data["device"] == "web1"
    assert "The handshake shows the old certificate." in notice.body
    assert "3 other devices keep the version before" in notice.body
    # Near its end the old version is the greater danger.
    careful.world.time = before.not_after - (before.not_after - before.not_before) / 12
    careful.world.sweep()
    assert careful.wanting() == ALL


def test_a_canary_that_is_fixed_lets_the_rollout_go_on(careful):
    careful.renew()
    careful.report(careful.devices[0], "failed", "no")
    careful.pass_time(A_DAY)
    careful.report(careful.devices[0], "served")
    careful.world.sweep()
    assert careful.wanting() == ALL
    assert careful.row(careful.devices[0]).failure == ""


def test_a_person_ends_a_canary_rollout(careful):
    careful.renew()
    careful.report(careful.devices[0], "failed", "no")
    services.update_certificate(careful.certificate, {"rollout": "all"})
    careful.world.sweep()
    assert careful.wanting() == ALL


def test_the_canary_is_a_device_that_reports_and_was_seen(careful):
    rows = Deployment.objects.filter(certificate=careful.certificate)
    rows.filter(device=careful.devices[0]).update(served_at=None, served_serial="")
    careful.see_all = lambda: None
    type(careful.devices[1]).objects.exclude(name="web3").update(
        last_seen_at=careful.world.time - timedelta(days=400)
    )
    type(careful.devices[1]).objects.filter(name="web3").update(
        last_seen_at=careful.world.time + timedelta(days=400)
    )
    careful.renew()
    assert careful.wanting() == ["web3"]


def test_a_canary_that_never_fetches_is_replaced(careful):
    careful.renew()
    careful.pass_time(A_DAY)
    assert "web1" in careful.notices()[0].body
    for _ in range(3):
        careful.pass_time(3600)
    assert careful.wanting() == ["web1", "web2"]


def test_a_canary_that_fetches_and_reports_nothing_holds_the_others(careful):
    careful.renew()
    rollout.note_fetched(careful.devices[0], careful.current)
    for _ in range(4):
        careful.pass_time(A_DAY)
    assert careful.wanting() == ["web1"]
    assert len(careful.notices()) == 1


@pytest.mark.parametrize("leave", ["revoked", "unassigned"])
def test_a_canary_that_leaves_is_replaced(careful, leave):
    careful.renew()
    if leave == "revoked":
        device_services.revoke_device(careful.devices[0])
    else:
        services.unassign(careful.certificate, careful.devices[0])
    careful.pass_time(3700)
    assert "web2" in careful.wanting()
    assert "web3" not in careful.wanting()


def test_a_device_that_is_new_does_not_wait_for_the_canary(careful):
    careful.renew()
    new = factories.device(careful.certificate.owner, name="web5")
    services.assign(careful.certificate, new)
    careful.reach(new)
    assert careful.wanting() == ["web1", "web5"]


def test_a_version_that_is_being_revoked_is_replaced_at_once(careful):
    CertificateVersion.objects.update(
        revoke_asked_at=careful.world.time, wake_at=careful.world.time
    )
    careful.renew()
    assert careful.wanting() == ALL


def test_a_version_that_the_ca_wants_replaced_early_is_kept_until_then(careful):
    version = careful.current
    now = careful.world.time
    RenewalInfo.objects.get_or_create(version=version, defaults={"fraction": 0.5})
    window = {"window_start": now, "window_end": now + timedelta(hours=2)}
    RenewalInfo.objects.update(wake_at=None, **window)
    services.issue(careful.certificate)
    careful.world.deliver()
    assert careful.wanting() == ["web1"]
    careful.pass_time(2 * 3600)
    assert careful.wanting() == ALL


def test_the_next_renewal_begins_a_rollout_of_its_own(careful):
    careful.renew()
    careful.report(careful.devices[0], "failed", "no")
    careful.renew()
    assert careful.wanting() == ["web1"]
    careful.report(careful.devices[0], "served")
    careful.world.sweep()
    assert careful.wanting() == ALL


# --- install windows ---


def test_a_window_delays_the_signal_until_it_opens(fleet):
    set_window(fleet, timedelta(hours=5))
    fleet.renew()
    opens = {row.wake_at for row in Deployment.objects.all()}
    assert fleet.wanting() == fleet.told() == []
    (at,) = opens
    assert timedelta(0) < at - fleet.world.time <= timedelta(days=1)
    fleet.world.time = at - timedelta(seconds=1)
    fleet.world.sweep()
    assert fleet.wanting() == []
    fleet.pass_time(1)
    assert fleet.wanting() == fleet.told() == ALL
    assert {row.wanted_at for row in Deployment.objects.all()} == {at}


def test_a_canary_and_the_others_both_wait_for_the_window(careful):
    set_window(careful, timedelta(hours=5))
    careful.renew()
    first = careful.row(careful.devices[0]).wake_at
    careful.world.time = first
    careful.world.sweep()
    assert careful.wanting() == ["web1"]
    careful.world.advance(2 * 3600)
    careful.report(careful.devices[0], "served")
    careful.world.sweep()
    assert careful.wanting() == ["web1"]
    for device in careful.devices[1:]:
        assert careful.row(device).wake_at == first + timedelta(days=1)
    careful.world.time = first + timedelta(days=1)
    careful.world.sweep()
    assert careful.wanting() == ALL


def test_a_window_that_opens_too_late_is_not_waited_for(fleet):
    set_window(fleet, timedelta(hours=5))
    before = fleet.current
    fleet.renew()
    latest = before.not_after - (before.not_after - before.not_before) / 12
    Deployment.objects.update(wake_at=latest - timedelta(minutes=1))
    Certificate.objects.update(
        install_window={
            "start": f"{latest + timedelta(hours=1):%H:%M}",
            "end": f"{latest + timedelta(hours=2):%H:%M}",
            "timezone": "UTC",
        }
    )
    fleet.world.time = latest - timedelta(minutes=1)
    fleet.world.sweep()
    assert {row.wake_at for row in Deployment.objects.all()} == {latest}
    fleet.pass_time(60)
    assert fleet.wanting() == ALL


def test_a_window_that_is_removed_is_not_waited_for(fleet):
    set_window(fleet, timedelta(hours=5))
    fleet.renew()
    services.update_certificate(fleet.certificate, {"install_window": None})
    fleet.world.sweep()
    assert fleet.wanting() == ALL


# --- the section of the sweep ---


def test_an_error_at_one_certificate_stops_no_other(fleet, monkeypatch, account, credential):
    second, _ = fleet.world.create(account, credential, "second.example.com")
    fleet.world.settle()
    device = fleet.devices[0]
    services.assign(second, device)
    Deployment.objects.update(wake_at=fleet.world.time)
    real = rollout.advance

    def advance(certificate, now):
        if certificate == fleet.certificate:
            raise RuntimeError("broken")
        real(certificate, now)

    monkeypatch.setattr(rollout, "advance", advance)
    rollouts.advance_rollouts(fleet.world.time)
    assert Deployment.objects.get(certificate=second).wanted == second.versions.get()
    later = fleet.world.time + rollouts.PAUSE
    assert {row.wake_at for row in fleet.certificate.deployments.all()} == {later}


def test_more_devices_than_a_batch_are_reached_by_the_sweep(fleet, monkeypatch):
    monkeypatch.setattr("issuance.rollout.advancing.BATCH", 3)
    fleet.renew()
    fleet.world.sweep()
    assert fleet.wanting() == fleet.told() == ALL


# --- versions that were replaced ---


def revoked(fleet) -> int:
    rollouts.revoke_superseded.run()
    return CertificateVersion.objects.exclude(revoke_asked_at=None).count()


def test_a_replaced_version_is_revoked_once_all_serve_its_successor(careful):
    services.update_certificate(careful.certificate, {"revoke_superseded": True})
    before = careful.renew()
    assert revoked(careful) == 0
    for device in careful.devices[:3]:
        careful.report(device, "served")
    assert revoked(careful) == 0
    careful.report(careful.devices[3], "served")
    assert revoked(careful) == 1
    before.refresh_from_db()
    assert before.revoke_reason == 4
    careful.world.sweep()
    before.refresh_from_db()
    assert before.revoked_at
    assert careful.current.revoke_asked_at is None


def test_without_the_wish_nothing_is_revoked(fleet):
    fleet.renew()
    for device in fleet.devices:
        fleet.report(device, "served")
    assert revoked(fleet) == 0


def test_a_probe_that_shows_the_old_version_delays_the_revocation(fleet):
    services.update_certificate(fleet.certificate, {"revoke_superseded": True})
    before = fleet.renew()
    probe = fleet.certificate.probes.create(
        address="a.test", port=443, fingerprint=before.fingerprint
    )
    for device in fleet.devices:
        fleet.report(device, "served")
    assert revoked(fleet) == 0
    type(probe).objects.update(fingerprint=fleet.current.fingerprint)
    assert revoked(fleet) == 1


def test_a_version_that_nobody_is_known_to_serve_is_not_revoked(fleet):
    services.update_certificate(fleet.certificate, {"revoke_superseded": True})
    fleet.renew()
    Deployment.objects.all().delete()
    assert revoked(fleet) == 0
