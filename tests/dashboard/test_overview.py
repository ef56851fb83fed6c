"""The overview: devices that serve something else, retries, and what is left of limits."""

import pytest

from certctrl.turns import Trouble
from devices.models import Device
from issuance import services
from issuance.models import Deployment
from issuance.rollout import Report, note_reports
from tests import factories

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"


def text_of(visitor) -> str:
    return visitor.get("/").content.decode()


def test_a_device_that_failed_is_on_the_overview(visitor, alice, certificate):
    device: Device = factories.device(alice, name="edge-1")
    services.assign(certificate, device)
    assert "Serve something else" not in text_of(visitor)
    serial = Deployment.objects.get().certificate.current.serial
    note_reports(device, [Report(certificate.pk, serial, "failed", MARKUP)])
    shown = text_of(visitor)
    assert "Serve something else" in shown
    assert "edge-1" in shown
    assert MARKUP not in shown
    note_reports(device, [Report(certificate.pk, serial, "served", "")])
    assert "Serve something else" not in text_of(visitor)


def test_a_retry_shows_its_moment_and_the_words_of_the_ca(visitor, certificate, world):
    world.ca.problems = {"new_order": [Trouble("ca_error", f"The CA says: {MARKUP}", True)]}
    services.issue(certificate)
    world.deliver()
    certificate.refresh_from_db()
    context = visitor.get("/").context
    assert context["again"] + context["waiting"] == 1
    assert MARKUP not in text_of(visitor)


def test_the_scarcest_limit_comes_first(visitor, certificate, client_of, alice, bob):
    levels = visitor.get("/").context["limits"]
    shares = [each["left"] / each["capacity"] for each in levels]
    assert shares == sorted(shares)
    api = client_of(alice).get("/apiv1/me/limits").data_member
    assert [each["kind"] for each in api] == [each["kind"] for each in levels]
    assert client_of(bob).get("/apiv1/me/limits").data_member == []


def test_a_key_for_some_accounts_reads_no_limits(key_client, alice, account):
    path = "/apiv1/me/limits"
    assert key_client(alice, "acme_accounts:*[read]").get(path).status_code == 200
    assert key_client(alice, f"acme_accounts:{account.pk}[read]").get(path).status_code == 403
