"""Notices, the settings of their mails, and webhooks."""

import re

import pytest
import time_machine

from certctrl import clock
from dashboard.telling import KINDS
from notices import addresses
from notices.api import NoticeTestThrottle
from notices.models import Delivery, Notice, Webhook, settings_of
from notices.raising import raise_once

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"
HOOK = {
    "url": "https://hooks.example.com/secret-path",
    "name": "chat",
    "form_key": "k",
    "kinds": [kind for kind, _words in KINDS],
}


@pytest.fixture
def hook(visitor) -> Webhook:
    assert visitor.post("/webhooks", HOOK).status_code == 200
    return Webhook.objects.get()


def text_of(visitor, address: str) -> str:
    return visitor.get(address).content.decode()


def test_a_notice_shows_its_text_and_what_a_receiver_answered(visitor, alice, hook):
    raise_once(alice, Notice.Kind.NOT_SERVED, "k", f"www {MARKUP}", f"body {MARKUP}")
    Delivery.objects.update(error_what=f"hooks.example.com answered 500 {MARKUP}")
    shown = text_of(visitor, "/notices")
    assert "a version is not served" in shown
    assert "answered 500 &lt;script&gt;" in shown
    assert MARKUP not in shown
    Delivery.objects.update(wake_at=None, given_up_at=clock.now())
    assert "given up" in text_of(visitor, "/notices")
    Delivery.objects.update(given_up_at=None, sent_at=clock.now(), error_what="")
    assert "sent" in text_of(visitor, "/notices")


def test_notices_are_filtered_by_kind_and_read_in_pages(visitor, alice):
    for number in range(51):
        raise_once(alice, Notice.Kind.RENEWED, f"k{number}", f"subject {number}.", "")
    raise_once(alice, Notice.Kind.EXPIRING, "e", "the end", "")
    first = visitor.get("/notices?kind=renewed")
    assert "the end" not in first.content.decode()
    second = text_of(visitor, f"/notices{first.context['page'].following}")
    assert "subject 0." in second
    assert "subject 1." not in second


def test_the_notices_of_another_owner_are_not_shown(bobs_visitor, alice):
    raise_once(alice, Notice.Kind.RENEWED, "k", "hers", "")
    assert "hers" not in text_of(bobs_visitor, "/notices")


def test_the_settings_mute_the_kinds_that_are_not_ticked(visitor, alice):
    form = {"email_on": "on", "email": "", "digest_over": "5", "kinds": ["expiring", "test"]}
    assert visitor.post("/notices/settings", form).status_code == 302
    wanted = settings_of(alice.pk)
    assert wanted.digest_over == 5
    assert "renewed" in wanted.muted
    assert "expiring" not in wanted.muted
    wrong = visitor.post("/notices/settings", form | {"digest_over": "-1", "email": "x"})
    assert wrong.status_code == 400
    assert 'value="x"' in wrong.content.decode()
    assert settings_of(alice.pk).digest_over == 5


def test_unticking_every_kind_is_refused(visitor, alice):
    form = {"url": "https://hooks.example.com/x", "name": "hook"}
    refused = visitor.post("/webhooks", form)
    assert refused.status_code == 400
    assert "at least one kind" in refused.content.decode()
    assert not Webhook.objects.exists()
    visitor.post("/webhooks", form | {"kinds": HOOK["kinds"]})
    hook = Webhook.objects.get()
    assert hook.kinds == []
    page = visitor.get("/webhooks").content.decode()
    boxes = re.findall('<input[^>]*name="kinds"[^>]*>', page)
    assert len(boxes) == 2 * len(KINDS)
    assert all(" checked" in box for box in boxes)
    assert visitor.post(f"/webhooks/{hook.pk}/change", {"name": "hook"}).status_code == 400


def test_the_settings_page_says_to_click_and_names_no_call(visitor, alice, settings):
    settings.MAIL_IS_SET_UP = True
    form = {"email_on": "on", "email": "ops@example.net", "digest_over": "5", "kinds": "expiring"}
    assert visitor.post("/notices/settings", form).status_code == 302
    pages = [text_of(visitor, "/notices/settings")]
    with time_machine.travel(clock.now() + addresses.VALID_FOR):
        visitor.force_login(alice)
        pages.append(text_of(visitor, "/notices/settings"))
        late = visitor.post("/notices/settings/confirm", {"code": "00000000"})
        pages.append(late.content.decode())
    assert "Until you type it here" in pages[0]
    assert "Click “Mail another code”" in pages[1]
    assert "Ask for a new code." in pages[2]
    assert [page for page in pages if "POST …" in page or "notice-settings/" in page] == []


def test_a_server_without_mail_asks_for_no_code(visitor, alice, settings):
    settings.MAIL_IS_SET_UP = False
    form = {"email_on": "on", "email": "ops@example.net", "digest_over": "5", "kinds": "expiring"}
    visitor.post("/notices/settings", form)
    page = visitor.get("/notices/settings").content.decode()
    assert "ops@example.net" in page
    assert "Mail another code" not in page


def test_a_new_address_is_confirmed_with_its_code(visitor, alice, settings):
    settings.MAIL_IS_SET_UP = True
    form = {"email_on": "on", "email": "ops@example.net", "digest_over": "5", "kinds": ["test"]}
    visitor.post("/notices/settings", form)
    assert "an address to confirm" in text_of(visitor, "/notices")
    assert "A code was mailed to ops@example.net" in text_of(visitor, "/notices/settings")
    code = addresses.code_of(settings_of(alice.pk))
    assert visitor.post("/notices/settings/confirm", {"code": "00000000"}).status_code == 400
    assert visitor.post("/notices/settings/confirm", {"code": code}).status_code == 302
    assert settings_of(alice.pk).mails_go_to == "ops@example.net"
    assert visitor.post("/notices/settings/code").status_code == 409
    assert visitor.post("/notices/settings/other").status_code == 404


def test_a_test_is_sent_once_to_every_webhook(visitor, hook):
    for status in (302, 409):
        assert visitor.post("/notices/settings/test", {"form_key": "t"}).status_code == status
    assert Notice.objects.get().kind == "test"
    assert Delivery.objects.get().webhook == hook


def test_tests_are_counted(visitor, hook, monkeypatch):
    monkeypatch.setattr(NoticeTestThrottle, "rate", "1/hour")
    for key, status in (("a", 302), ("b", 429)):
        answer = visitor.post("/notices/settings/test", {"form_key": key})
        assert answer.status_code == status
    assert Notice.objects.count() == 1


def test_the_secret_of_a_webhook_is_shown_once_and_its_path_never(visitor):
    page = visitor.post("/webhooks", HOOK)
    secret = page.context["secret"]
    assert secret in page.content.decode()
    assert page.headers["Cache-Control"] == "no-store"
    assert secret not in text_of(visitor, "/webhooks")
    assert "secret-path" not in text_of(visitor, "/webhooks")
    assert visitor.post("/webhooks", HOOK).status_code == 409


@pytest.mark.parametrize("form", [{"url": ""}, {"url": "http://x.example"}, {"kinds": ["x"]}])
def test_a_bad_webhook_is_refused_and_its_url_not_shown(visitor, form):
    refused = visitor.post("/webhooks", HOOK | form)
    assert refused.status_code == 400
    assert "secret-path" not in refused.content.decode()
    assert not Webhook.objects.exists()


def test_a_webhook_is_changed_disabled_and_deleted(visitor, hook):
    address = f"/webhooks/{hook.pk}"
    visitor.post(f"{address}/change", {"name": MARKUP, "url": "", "kinds": ["renewed"]})
    hook.refresh_from_db()
    assert (hook.name, hook.kinds, hook.host) == (MARKUP, ["renewed"], "hooks.example.com")
    assert MARKUP not in text_of(visitor, "/webhooks")
    visitor.post(f"{address}/disable")
    assert "disabled" in text_of(visitor, "/webhooks")
    visitor.post(f"{address}/enable")
    hook.refresh_from_db()
    assert hook.enabled
    old = hook.secret_id
    assert visitor.post(f"{address}/rotate").context["secret"].startswith("whsec_")
    hook.refresh_from_db()
    assert hook.secret_id != old
    visitor.post(f"{address}/delete")
    assert "No webhook is stored" in text_of(visitor, "/webhooks")


def test_a_webhook_of_another_owner_is_404(bobs_visitor, hook):
    for action in ("change", "disable", "rotate", "delete"):
        assert bobs_visitor.post(f"/webhooks/{hook.pk}/{action}").status_code == 404
    hook.refresh_from_db()
    assert hook.enabled
