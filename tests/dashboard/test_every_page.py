"""What holds for every page: headers, owners, queries, no inline code, both languages."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse

from accounts import savedviews
from accounts.models import ApiKey
from authorities import privateca
from dashboard.page import SECURITY_POLICY
from dashboard.urls import urlpatterns
from devices.models import Device
from issuance import services
from issuance.models import Certificate
from notices import webhooks
from notices.raising import raise_test
from tests import factories
from tests.dashboard.streamed import streamed

pytestmark = pytest.mark.django_db
TEMPLATES = sorted((Path(settings.BASE_DIR) / "dashboard/templates").rglob("*.html"))
DOORS = ("sign-in", "approve", "register", "activate", "request-reset", "reset")
VOID = {"input", "meta", "link", "hr", "br", "option"}


class Tags(HTMLParser):
    """Collects the start tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(autouse=True)
def _registration_is_open(settings):
    settings.REGISTRATION = "open"
    settings.MAIL_IS_SET_UP = True


@pytest.fixture
def rows(alice, certificate, credential) -> dict[str, Any]:
    """The arguments of each address."""
    private_ca = privateca.create_private_ca(alice, {"name": "lab"})
    factories.api_key(alice, "certificates:*[read]")
    return {
        "certificate": certificate.pk,
        "attempt": certificate.issuances.get().pk,
        "private-ca": private_ca.pk,
        "dns": credential.pk,
        "account": certificate.account_id,
        "api-key": ApiKey.objects.get().pk,
        "view": savedviews.save(alice, "soon", "chip=soon").pk,
        "device": factories.device(alice, "web").pk,
    }


def addresses(rows: dict[str, Any]) -> list[str]:
    """Return an address for each name of a page that is read."""
    found = []
    for pattern in urlpatterns:
        name = pattern.name
        if name.startswith(("certificate-", "device-")) and name != "certificate-file":
            continue
        if name in ("language", "sign-out", "issue-names", "sign-in-by-link", "attempt-stream"):
            continue
        if name in ("certificates-bulk", "views", "theme", "diagnosis"):
            continue
        if name in ("second-factor", "openid", "openid-back"):  # they lead elsewhere
            continue
        if name.endswith("-action"):
            continue
        pk = rows.get(next((each for each in rows if name.startswith(each)), ""))
        arguments = {
            "certificate": [pk],
            "certificate-file": [pk, "fullchain.pem"],
            "attempt": [rows["certificate"], rows["attempt"]],
            "attempt-exchanges": [rows["certificate"], rows["attempt"]],
            "attempt-part": [rows["certificate"], rows["attempt"]],
            "device": [rows["device"]],
            "private-ca-file": [pk],
            "private-ca-issued": [pk],
        }
        found.append(reverse(name, args=arguments.get(name, [])))
    return found


def text_of(response: Any) -> str:
    whole = streamed(response) if response.streaming else response.content
    return whole.decode()


def test_every_page_opens_under_the_security_policy(visitor, rows):
    for address in addresses(rows):
        page = visitor.get(address)
        assert page.status_code == (302 if address == "/sign-in" else 200), address
        assert page.headers["Content-Security-Policy"] == SECURITY_POLICY
        assert "no-cache" in page.headers["Cache-Control"]


def test_no_page_has_inline_code_or_loads_from_elsewhere(visitor, rows):
    for address in addresses(rows):
        page = visitor.get(address)
        if not page.headers["Content-Type"].startswith("text/html"):
            continue
        for tag, attributes in Tags(text_of(page)).tags:
            assert tag != "style", address
            assert tag != "script" or attributes.get("src"), address
            assert not [name for name in attributes if name == "style" or name[:2] == "on"]
            for name in ("src", "href", "action"):
                assert not re.match(r"(https?:)?//", attributes.get(name) or ""), address


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_has_inline_code(template):
    for tag, attributes in Tags(template.read_text()).tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name[:2] == "on"]
        assert not [name for name in attributes if name.startswith("hx-on")]


def test_pages_of_another_owner_are_404(bobs_visitor, rows):
    own = [each for each in addresses(rows) if re.search(r"/[0-9]+", each)]
    assert len(own) > 4
    for address in own:
        page = bobs_visitor.get(address)
        assert page.status_code == 404, address
        assert "example.com" not in text_of(page)


def test_nobody_acts_on_rows_of_another_owner(bobs_visitor, rows, certificate):
    actions = [each for each in urlpatterns if each.name.startswith("certificate-")]
    addresses_of = [
        reverse(each.name, args=[rows["certificate"]])
        for each in actions
        if each.name != "certificate-file"
    ]
    addresses_of += [
        reverse(each.name, args=[rows["device"]])
        for each in urlpatterns
        if each.name.startswith("device-")
    ]
    addresses_of += [
        reverse("dns-action", args=[rows["dns"], "delete"]),
        reverse("account-action", args=[rows["account"], "delete"]),
        reverse("private-ca-action", args=[rows["private-ca"], "delete"]),
        reverse("api-key-action", args=[rows["api-key"], "revoke"]),
        reverse("view-action", args=[rows["view"]]),
    ]
    for address in addresses_of:
        assert bobs_visitor.post(address, {"name": certificate.domain}).status_code == 404
    certificate.refresh_from_db()
    assert certificate.retired_at is None
    assert ApiKey.objects.get().revoked_at is None


def test_without_a_session_pages_lead_to_the_sign_in(rows):
    for address in addresses(rows):
        page = Client().get(address)
        if address not in map(reverse, DOORS):
            assert page.status_code == 302, address
            assert page.headers["Location"].startswith("/sign-in?next=")


def test_every_page_opens_in_chinese(visitor, rows):
    visitor.cookies["language"] = "zh-hans"
    for address in addresses(rows):
        page = visitor.get(address)
        is_page = page.headers["Content-Type"].startswith("text/html")
        if page.status_code == 200 and is_page and "/part" not in address:
            assert '<html lang="zh-Hans"' in text_of(page)


def test_no_page_shows_a_key_or_a_hash(visitor, rows, certificate):
    for address in addresses(rows):
        text = text_of(visitor.get(address))
        assert "PRIVATE KEY" not in text
        assert ApiKey.objects.get().digest not in text


QUERIES = {
    "overview": 13,
    "certificates": 13,
    "import": 7,
    "issue": 7,
    "certificate": 16,
    "attempt": 7,
    "dns-credentials": 4,
    "accounts": 4,
    "private-cas": 3,
    "api-keys": 3,
    "settings": 5,
    "devices": 9,
    "device": 8,
    "enrolment-keys": 3,
    "notices": 5,
    "notice-settings": 5,
    "webhooks": 3,
    "audit": 3,
    "attempt-exchanges": 6,
}


@pytest.mark.parametrize("name", QUERIES)
def test_the_number_of_queries_is_fixed(
    name, visitor, rows, world, account, credential, django_assert_num_queries
):
    arguments = {
        "certificate": [rows["certificate"]],
        "attempt": [rows["certificate"], rows["attempt"]],
        "attempt-exchanges": [rows["certificate"], rows["attempt"]],
        "device": [rows["device"]],
    }
    address = reverse(name, args=arguments.get(name, []))
    world.create(account, credential, "n.example.org")
    webhooks.create_webhook(account.owner, {"url": "https://hooks.example.com/x"})
    for number in range(3):
        made, _attempt = world.create(account, credential, f"n{number}.example.org")
        services.assign(made, factories.device(account.owner, "web"))
        raise_test(account.owner)
        services.assign(made, Device.objects.get(pk=rows["device"]))
        services.assign(
            Certificate.objects.get(pk=rows["certificate"]), factories.device(account.owner)
        )
        with django_assert_num_queries(QUERIES[name]):
            assert visitor.get(address).status_code == 200
