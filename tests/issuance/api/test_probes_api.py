"""People ask what an address serves, and keep it for daily probes."""

import pytest

from accounts.models import AuditEvent
from issuance.models import Probe
from tests.fakes.tlsserver import TLSServer, files_of
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def allow_loopback(settings):
    settings.ALLOW_PRIVATE = settings.ALLOW_PRIVATE_FOR_TENANTS = ["127.0.0.1"]


@pytest.fixture
def certificate(world, account, credential):
    certificate, _ = world.create(account, credential)
    world.settle()
    certificate.refresh_from_db()
    return certificate


@pytest.fixture
def path(certificate):
    return f"certificates/{certificate.pk}/probe"


@pytest.fixture
def server(certificate, tmp_path):
    with TLSServer(files_of(certificate.current, tmp_path)) as running:
        yield running


def test_a_probe_shows_what_an_address_serves(api, certificate, path, server):
    shown = api.post(path, {"address": "127.0.0.1", "port": server.port}).data_member
    version = certificate.current
    assert shown["serial_number"] == version.serial
    assert shown["fingerprint_sha256"] == version.fingerprint
    assert shown["not_after"] == int(version.not_after.timestamp())
    assert (shown["is_current"], shown["error"], shown["id"]) == (True, "", None)
    assert (shown["sni"], shown["daily"]) == ("example.com", False)
    assert not Probe.objects.exists()


def test_another_certificate_is_not_current(api, certificate, path, server):
    type(certificate.current).objects.update(fingerprint="0" * 64)
    shown = api.post(path, {"address": "127.0.0.1", "port": server.port}).data_member
    assert (shown["is_current"], shown["error"]) == (False, "")


def test_an_address_that_serves_nothing_is_an_answer(api, path):
    with TLSServer(None, b"no TLS here") as plain:
        answer = api.post(path, {"address": "127.0.0.1", "port": plain.port})
    assert answer.status_code == 200
    assert answer.data_member["serial_number"] == ""
    assert answer.data_member["is_current"] is False
    assert str(plain.port) in answer.data_member["error"]


def test_a_daily_probe_is_listed_and_deleted(api, certificate, path, server, world):
    body = {"address": "127.0.0.1", "port": server.port, "sni": "", "daily": True}
    shown = api.post(path, body).data_member
    again = api.post(path, body).data_member
    assert again == shown
    assert api.get(f"{path}s").data_member == [shown]
    assert server.names == [None, None]
    assert (Probe.objects.get().wake_at - world.time).days == 1
    assert api.delete(f"{path}s/{shown['id']}").status_code == 204
    refused(api.delete(f"{path}s/{shown['id']}"), 404)
    actions = AuditEvent.objects.filter(action__startswith="certificate.probe")
    assert [each.action for each in actions.order_by("pk")] == [
        "certificate.probe_added",
        "certificate.probe_removed",
    ]


def test_a_certificate_has_a_limited_number_of_daily_probes(api, path, monkeypatch):
    monkeypatch.setattr("issuance.services.probing.MOST_PROBES", 1)
    with TLSServer(None, b"no") as one, TLSServer(None, b"no") as two:
        for server, status in ((one, 200), (one, 200), (two, 409)):
            body = {"address": "127.0.0.1", "port": server.port, "daily": True}
            assert api.post(path, body).status_code == status
    assert Probe.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "address"),
        ({"address": "www.example.com:443"}, "address"),
        ({"address": "https://www.example.com"}, "address"),
        ({"address": "169.254.169.254"}, "address"),
        ({"address": "10.0.0.1"}, "address"),
        ({"address": "absent.invalid"}, "address"),
        ({"address": "127.0.0.1", "port": 0}, "port"),
        ({"address": "127.0.0.1", "port": 65536}, "port"),
        ({"address": "127.0.0.1", "sni": "a b"}, "sni"),
        ({"address": "127.0.0.1", "starttls": "ftp"}, "starttls"),
    ],
    ids=str,
)
def test_a_bad_probe_is_refused_and_not_kept(api, path, body, field):
    refused(api.post(path, body | {"daily": True}), 400, field)
    assert not Probe.objects.exists()


def test_probes_of_others_are_not_there(api, bobs, keyed, path, server):
    body = {"address": "127.0.0.1", "port": server.port, "daily": True}
    shown = api.post(path, body).data_member
    refused(bobs.post(path, body), 404)
    refused(bobs.get(f"{path}s"), 404)
    refused(bobs.delete(f"{path}s/{shown['id']}"), 404)
    reader = keyed("certificates:*[read]")
    assert reader.get(f"{path}s").data_member == [shown]
    refused(reader.post(path, body), 403)
    refused(reader.delete(f"{path}s/{shown['id']}"), 403)
    assert Probe.objects.count() == 1
