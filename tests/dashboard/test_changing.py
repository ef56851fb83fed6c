"""The form that changes the settings of a certificate."""

import html
import re

import pytest

from accounts.models import AuditEvent
from certctrl import clock
from issuance import services
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def address(certificate) -> str:
    return f"/certificates/{certificate.pk}"


def form_of(page, action):
    """Return the fields of a form of the page, as a browser sends them."""
    text = page.content.decode()
    (form,) = re.findall(rf'<form[^>]*action="[^"]*/{action}".*?</form>', text, re.DOTALL)
    sent = {}
    for tag in re.findall(r"<input[^>]*>", form):
        given = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        is_sent = given.get("type") not in ("checkbox", "radio") or " checked" in tag
        if "name" in given and is_sent:
            sent[given["name"]] = html.unescape(given.get("value", "on"))
    for name, options in re.findall(r'<select[^>]*name="(\w+)".*?>(.*?)</select>', form, re.DOTALL):
        chosen = re.findall(r'value="([^"]*)" selected', options)
        first = re.findall(r'value="([^"]*)"', options)
        sent[name] = (chosen or first or [""])[0]
    return sent


@pytest.fixture
def form(visitor, address) -> dict:
    return form_of(visitor.get(address), "settings")


def test_a_form_sent_as_it_was_shown_changes_nothing(visitor, certificate, address, form):
    before = certificate.request_digest
    assert visitor.post(f"{address}/settings", form).status_code == 302
    certificate.refresh_from_db()
    assert certificate.request_digest == before
    assert not AuditEvent.objects.filter(action="certificate.changed").exists()


def test_each_setting_of_the_form_is_stored(visitor, certificate, address, world, alice):
    fallback = world.account(alice, name="another")
    form = form_of(visitor.get(address), "settings")
    changes = {
        "renew_days_before": "20",
        "key": "rsa-3072",
        "profile": "shortlived",
        "preferred_chain": "ISRG Root X1",
        "fallback_account_id": str(fallback.pk),
        "reuse_key": "on",
        "revoke_superseded": "on",
        "organization": "Example <i>",
        "country": "de",
    }
    answer = visitor.post(f"{address}/settings", form | changes)
    assert answer.status_code == 302, answer.context["refused"].what
    certificate.refresh_from_db()
    assert certificate.renew_days_before == 20
    assert (certificate.key_type, certificate.key_size) == ("rsa", 3072)
    assert (certificate.profile, certificate.preferred_chain) == ("shortlived", "ISRG Root X1")
    assert certificate.fallback_account == fallback
    assert certificate.reuse_key
    assert certificate.revoke_superseded
    assert (certificate.organization, certificate.country) == ("Example <i>", "DE")
    assert certificate.auto_renew
    shown = visitor.get(address)
    assert b"Example <i>" not in shown.content
    cleared = form_of(shown, "settings") | {"renew_days_before": "", "fallback_account_id": ""}
    del cleared["auto_renew"]
    visitor.post(f"{address}/settings", cleared)
    certificate.refresh_from_db()
    assert (certificate.renew_days_before, certificate.fallback_account) == (None, None)
    assert not certificate.auto_renew


def test_another_account_issues_it_again(visitor, certificate, address, world, alice):
    other = world.account(alice, name="another")
    form = form_of(visitor.get(address), "settings")
    answer = visitor.post(f"{address}/settings", form | {"acct_id": str(other.pk)})
    attempt = certificate.issuances.order_by("pk").last()
    assert answer.headers["Location"] == f"{address}/attempts/{attempt.pk}"
    assert attempt.account == other


def test_a_device_that_is_revoked_stays_chosen(visitor, certificate, address, alice):
    device = factories.device(alice, status="REVOKED", revoked_at=clock.now())
    certificate.verify_device = device
    certificate.save()
    form = form_of(visitor.get(address), "settings")
    assert form["verify_device_id"] == str(device.pk)


def test_a_stale_form_is_refused_and_says_what_changed(visitor, certificate, address, form):
    services.update_certificate(certificate, {"renew_days_before": 10})
    typed = form | {"preferred_chain": "ISRG Root X2"}
    refused = visitor.post(f"{address}/settings", typed)
    assert refused.status_code == 409
    assert "Renew days before the end" in refused.context["refused"].what
    assert "Preferred chain" not in refused.context["refused"].what
    certificate.refresh_from_db()
    assert (certificate.renew_days_before, certificate.preferred_chain) == (10, "")
    again = form_of(refused, "settings")
    assert again["preferred_chain"] == "ISRG Root X2"
    visitor.post(f"{address}/settings", again | {"renew_days_before": "10"})
    certificate.refresh_from_db()
    assert (certificate.renew_days_before, certificate.preferred_chain) == (10, "ISRG Root X2")


@pytest.mark.parametrize("action", ["policy", "rollout"])
def test_stale_forms_of_policy_and_rollout_are_refused(visitor, certificate, address, action):
    stale = form_of(visitor.get(address), action)
    change = {"policy": {"key_policy": "MASTER_ONLY"}, "rollout": {"rollout": "canary"}}[action]
    services.update_certificate(certificate, change)
    refused = visitor.post(f"{address}/{action}", stale)
    assert refused.status_code == 409
    assert refused.content.count(b'class="fold" open') == 1
    certificate.refresh_from_db()
    assert {name: getattr(certificate, name) for name in change} == change


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"renew_days_before": "0"}, 400),
        ({"key": "dsa-1"}, 400),
        ({"key": ""}, 400),
        ({"acct_id": ""}, 400),
        ({"acct_id": "999"}, 404),
        ({"dns_provider_id": "999"}, 404),
        ({"verify_method": "http-01"}, 400),
        ({"country": "Germany"}, 400),
        ({"profile": "<script>"}, 400),
        ({"seen": "[1]"}, 400),
        ({"seen": "{"}, 400),
    ],
)
def test_a_bad_setting_is_refused_with_what_was_typed(visitor, address, form, change, status):
    refused = visitor.post(f"{address}/settings", form | change | {"organization": "Typed"})
    assert refused.status_code == status
    assert b'role="alert"' in refused.content
    assert b"<script>" not in refused.content
    assert form_of(refused, "settings")["organization"] == "Typed"


def test_a_form_without_a_session_keeps_what_was_typed(client, alice, address, form):
    asked = client.post(f"{address}/settings", form | {"renew_days_before": "17"})
    assert asked.status_code == 401
    sent = {name: asked.context[name] for name in ("next", "kept")}
    back = client.post("/sign-in", sent | {"email": alice.email, "password": factories.PASSWORD})
    assert back.headers["Location"] == address
    page = client.get(address)
    assert form_of(page, "settings")["renew_days_before"] == "17"
    assert page.content.count(b'class="fold" open') == 1


def test_a_policy_after_an_old_login_is_kept(visitor, address, settings):
    chosen = form_of(visitor.get(address), "policy") | {"policy": "MASTER_ONLY"}
    session = visitor.session
    session["auth_time"] = int(clock.now().timestamp()) - settings.EXPORT_LOGIN_AGE - 60
    session.save()
    asked = visitor.post(f"{address}/policy", chosen)
    assert asked.headers["Location"] == f"/confirm?next={address.replace('/', '%2F')}"
    assert form_of(visitor.get(address), "policy")["policy"] == "MASTER_ONLY"
