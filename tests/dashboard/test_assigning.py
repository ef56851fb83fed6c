"""The devices, tags and probes on the page of a certificate."""

from types import SimpleNamespace

import pytest

from dashboard.assigning import probed
from issuance.api.probes import ProbeThrottle
from issuance.models import CertificateTag, Deployment, Probe
from tests import factories

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"


@pytest.fixture
def address(certificate) -> str:
    return f"/certificates/{certificate.pk}"


@pytest.mark.parametrize("named_by", ["name", "public_id", "pk"])
def test_it_is_assigned_to_a_device_and_taken_away(visitor, alice, address, named_by):
    device = factories.device(alice, name=MARKUP)
    form = {"device": str(getattr(device, named_by))}
    assert visitor.post(f"{address}/assign", form).status_code == 302
    assert Deployment.objects.get().device == device
    shown = visitor.get(address).content.decode()
    assert "0 of 1 serve" in shown
    assert MARKUP not in shown
    visitor.post(f"{address}/unassign", {"device": device.public_id})
    assert not Deployment.objects.exists()


def test_it_is_assigned_to_each_device_with_a_tag(visitor, alice, address):
    for _number in range(2):
        factories.device(alice, "web")
    assert visitor.post(f"{address}/assign", {"tag": "web"}).status_code == 302
    assert Deployment.objects.filter(by_tag=True).count() == 2
    visitor.post(f"{address}/unassign", {"tag": "web"})
    assert not Deployment.objects.exists()
    assert not CertificateTag.objects.exists()


@pytest.mark.parametrize("form", [{}, {"device": "nobody"}, {"tag": "a b"}, {"device": "\0"}])
def test_an_unknown_device_or_a_bad_tag_is_refused(visitor, address, form):
    assert visitor.post(f"{address}/assign", form).status_code == 400
    assert not Deployment.objects.exists()


def test_a_device_of_another_owner_is_unknown(visitor, bob, address):
    device = factories.device(bob, name="bobs")
    for asked in ("bobs", device.public_id, str(device.pk)):
        assert visitor.post(f"{address}/assign", {"device": asked}).status_code == 400
    assert not Deployment.objects.exists()


def test_the_rollout_and_its_window_are_stored(visitor, certificate, address):
    form = {"rollout": "canary", "start": "22:00", "end": "04:00", "days": ["mon", "tue"]}
    assert visitor.post(f"{address}/rollout", form).status_code == 302
    certificate.refresh_from_db()
    assert certificate.rollout == "canary"
    window = {"start": "22:00", "end": "04:00", "timezone": "UTC", "days": ["mon", "tue"]}
    assert certificate.install_window == window
    assert "22:00" in visitor.get(address).content.decode()
    assert visitor.post(f"{address}/rollout", {"rollout": "all"}).status_code == 302
    certificate.refresh_from_db()
    assert (certificate.rollout, certificate.install_window) == ("all", None)


@pytest.mark.parametrize(
    "form", [{"rollout": "x"}, {"start": "22:00"}, {"start": "1", "end": "2", "timezone": "x"}]
)
def test_a_bad_rollout_is_refused(visitor, certificate, address, form):
    refused = visitor.post(f"{address}/rollout", {"rollout": "canary"} | form)
    assert refused.status_code == 400
    certificate.refresh_from_db()
    assert certificate.rollout == "all"


@pytest.mark.parametrize("is_current", [True, False])
def test_a_probe_says_which_certificate_is_served(
    visitor, certificate, address, monkeypatch, is_current
):
    current = certificate.current
    fingerprint = current.fingerprint if is_current else "0" * 64
    facts = {"serial": "abc123", "fingerprint": fingerprint, "not_after": current.not_after}
    served = SimpleNamespace(**facts)
    monkeypatch.setattr("issuance.probes.look", lambda target: served)
    form = {"address": "192.0.2.1", "port": "443", "daily": "on"}
    page = visitor.post(f"{address}/probe", form, follow=True).content.decode()
    words = "serves the version in use" if is_current else "serves another certificate"
    assert f"192.0.2.1:443 {words}" in page
    probe = Probe.objects.get()
    assert visitor.post(f"{address}/forget_probe", {"probe": probe.pk}).status_code == 302
    assert visitor.post(f"{address}/forget_probe", {"probe": probe.pk}).status_code == 404
    assert not Probe.objects.exists()


def test_probes_are_counted(visitor, address, monkeypatch):
    monkeypatch.setattr(ProbeThrottle, "rate", "1/hour")
    for status in (400, 429):
        assert visitor.post(f"{address}/probe", {"address": "a b"}).status_code == status


@pytest.mark.parametrize("form", [{"address": ""}, {"address": "a b"}, {"port": "99999"}])
def test_a_bad_address_is_refused(visitor, address, form):
    assert visitor.post(f"{address}/probe", {"address": "192.0.2.1"} | form).status_code == 400


def test_a_wildcard_is_no_example_of_an_address(certificate):
    assert probed(certificate) == "www.example.com"
    certificate.domain = "*.example.org"
    assert probed(certificate) == "www.example.org"
