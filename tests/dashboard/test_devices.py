"""The pages of devices: what they should serve, what they serve, and their keys."""

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import ApiKey
from certctrl import clock
from certctrl.errors import ApiError
from devices import installplans
from devices.models import Device, EnrolmentKey
from issuance import services
from issuance.models import Deployment
from issuance.rollout import Report, note_reports
from tests import factories

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"


@pytest.fixture
def device(alice) -> Device:
    return factories.device(alice, "web", name="edge-1")


@pytest.fixture
def deployment(certificate, device) -> Deployment:
    """The certificate is assigned to the device, which wants its version."""
    services.assign(certificate, device)
    return Deployment.objects.get()


def report(deployment: Deployment, state: str, what: str = "") -> None:
    serial = deployment.certificate.current.serial
    note_reports(deployment.device, [Report(deployment.certificate_id, serial, state, what)])


def text_of(visitor, address: str) -> str:
    return visitor.get(address).content.decode()


def test_a_device_shows_how_far_each_certificate_has_come(visitor, device, deployment):
    address = f"/devices/{device.pk}"
    assert "serves 0 of 1" in text_of(visitor, address)
    assert "not fetched yet" in text_of(visitor, address)
    report(deployment, "installed")
    assert "installed, and not served yet" in text_of(visitor, address)
    report(deployment, "served")
    page = visitor.get(address)
    assert "serves 1 of 1" in page.content.decode()
    stages = page.context["rows"][0]["stages"]
    assert [stage.is_wanted for stage in stages] == [True, False, True, True]


def test_a_failure_says_what_the_device_said(visitor, device, deployment):
    report(deployment, "rolled_back", f"nginx: {MARKUP}")
    shown = text_of(visitor, f"/devices/{device.pk}")
    assert "rolled back" in shown
    assert "nginx: &lt;script&gt;" in shown
    assert MARKUP not in shown


def test_the_list_begins_with_what_devices_do_not_serve(visitor, device, deployment):
    report(deployment, "rolled_back", "nginx: no start line")
    shown = text_of(visitor, "/devices")
    assert "nginx: no start line" in shown
    assert shown.index("Serve something else") < shown.index("All devices")
    assert "nginx: no start line" not in text_of(visitor, "/devices?q=edge")
    report(deployment, "served")
    assert "Serve something else" not in text_of(visitor, "/devices")


def test_the_page_has_what_fails_on_the_machine(visitor, device):
    assert "The agent says" not in text_of(visitor, f"/devices/{device.pk}")
    Device.objects.update(agent_error="no space left on device")
    assert "no space left on device" in text_of(visitor, f"/devices/{device.pk}")


def test_markup_in_a_name_is_shown_as_text(visitor, alice):
    device = factories.device(alice, name=MARKUP, platform=MARKUP, app_version=MARKUP)
    note = {"installs": [], "change_note": MARKUP, "after_update_script": MARKUP}
    for _version in range(2):
        installplans.replace(device, note, MARKUP)
    for address in ("/devices", f"/devices/{device.pk}"):
        shown = text_of(visitor, address)
        assert MARKUP not in shown
        assert "&lt;script&gt;" in shown


def test_the_title_counts_devices_that_serve_something_else(visitor, device, deployment):
    assert "1 device is enrolled" in text_of(visitor, "/devices")
    Deployment.objects.update(wanted_at=timezone.now() - timedelta(days=2))
    shown = text_of(visitor, "/devices?chip=behind")
    assert "1 device</a> does not serve" in shown
    assert "edge-1" in shown
    report(deployment, "served")
    assert "edge-1" not in text_of(visitor, "/devices?chip=behind")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=EDGE", True),
        ("q=other", False),
        ("tag=web", True),
        ("tag=mail", False),
        ("chip=revoked", False),
        ("q=%00", True),
    ],
)
def test_devices_are_found(visitor, device, query, found):
    assert ("edge-1" in text_of(visitor, f"/devices?{query}")) == found


def test_older_devices_are_on_the_next_page(visitor, alice):
    for number in range(51):
        factories.device(alice, name=f"d{number}")
    first = visitor.get("/devices?tag=")
    following = first.context["page"].following
    second = visitor.get(f"/devices{following}")
    names = [str(each) for page in (first, second) for each, _condition in page.context["rows"]]
    assert names == [f"d{number}" for number in range(50, -1, -1)]
    assert second.context["page"].following == ""


def test_a_device_is_renamed_and_tagged(visitor, device):
    form = {"name": "edge-2", "tags": "web, mail\N{FULLWIDTH COMMA}db"}
    assert visitor.post(f"/devices/{device.pk}/change", form).status_code == 302
    device.refresh_from_db()
    assert (device.name, {str(tag) for tag in device.tags.all()}) == (
        "edge-2",
        {"web", "mail", "db"},
    )
    wrong = visitor.post(f"/devices/{device.pk}/change", {"name": "x", "tags": "a/b"})
    assert wrong.status_code == 400
    device.refresh_from_db()
    assert device.name == "edge-2"


def test_a_device_is_revoked_when_its_name_is_typed(visitor, device):
    assert visitor.post(f"/devices/{device.pk}/revoke", {"name": "edge"}).status_code == 400
    device.refresh_from_db()
    assert device.status == "ACTIVE"
    assert visitor.post(f"/devices/{device.pk}/revoke", {"name": "edge-1"}).status_code == 302
    device.refresh_from_db()
    assert device.status == "REVOKED"
    assert "Take it back into use" in text_of(visitor, f"/devices/{device.pk}")


def test_a_certificate_is_assigned_and_taken_away(visitor, device, certificate):
    address = f"/devices/{device.pk}"
    assert visitor.post(f"{address}/assign", {"domain": "other.test"}).status_code == 400
    assert visitor.post(f"{address}/assign", {"domain": "www.example.com"}).status_code == 302
    assert Deployment.objects.get().device == device
    visitor.post(f"{address}/unassign", {"certificate": certificate.pk})
    assert not Deployment.objects.exists()
    again = visitor.post(f"{address}/unassign", {"certificate": certificate.pk})
    assert again.status_code == 404


def test_the_install_plan_shows_its_items_and_its_history(visitor, device, alice):
    item = {"id": "reload", "type": "exec", "cmd_argv": ["systemctl", "reload", "nginx"]}
    installplans.replace(device, {"installs": [item], "change_note": "first"}, "alice")
    installplans.replace(device, {"installs": [], "change_note": "second"}, "alice")
    assert "systemctl reload nginx" not in text_of(visitor, f"/devices/{device.pk}")
    assert "systemctl reload nginx" in text_of(visitor, f"/devices/{device.pk}?plan=1")


def test_the_token_of_an_enrolment_key_is_shown_once(visitor, alice):
    form = {"name": "fleet", "tag": "web", "uses": "3", "days": "7", "form_key": "k"}
    page = visitor.post("/devices/enrolment-keys", form)
    token = page.context["token"]
    assert f"CERTCTRL_API_KEY={token} certctrl-agent login" in page.content.decode()
    assert page.headers["Cache-Control"] == "no-store"
    shown = text_of(visitor, "/devices/enrolment-keys")
    assert token not in shown
    assert "3 of 3 devices left" in shown
    assert visitor.post("/devices/enrolment-keys", form).status_code == 409
    key = EnrolmentKey.objects.get()
    assert (key.tag, key.uses_left) == ("web", 3)
    visitor.post(f"/devices/enrolment-keys/{key.pk}/revoke")
    assert ApiKey.objects.get().revoked_at


def test_an_old_login_makes_no_enrolment_key(visitor, settings):
    session = visitor.session
    session["auth_time"] = int(clock.now().timestamp()) - settings.EXPORT_LOGIN_AGE - 60
    session.save()
    form = {"name": "fleet", "tag": "web", "uses": "3", "days": "7", "form_key": "k"}
    answer = visitor.post("/devices/enrolment-keys", form)
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/confirm?next=")
    assert not EnrolmentKey.objects.exists()


@pytest.mark.parametrize("form", [{"uses": "0"}, {"uses": "x"}, {"tag": "a b"}, {"days": ""}])
def test_a_bad_enrolment_key_is_refused(visitor, form):
    whole = {"name": "fleet", "tag": "web", "uses": "3", "days": "7"} | form
    assert visitor.post("/devices/enrolment-keys", whole).status_code == 400
    assert not ApiKey.objects.exists()


def test_a_revoked_device_takes_no_certificate(visitor, device, certificate):
    visitor.post(f"/devices/{device.pk}/revoke", {"name": "edge-1"})
    refused = visitor.post(f"/devices/{device.pk}/assign", {"domain": "www.example.com"})
    assert refused.status_code == 409
    assert isinstance(refused.context["refused"], ApiError)
    assert not Deployment.objects.exists()
