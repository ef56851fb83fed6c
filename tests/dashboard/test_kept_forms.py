"""A session that ends in the middle of a form: nothing that was typed is lost."""

import re
from html.parser import HTMLParser

import pytest
from django.test import Client

from issuance.models import Certificate
from tests import factories
from tests.dashboard.test_every_page import addresses, rows, text_of  # noqa: F401

pytestmark = pytest.mark.django_db
TYPED = {
    "text": "typed-{}",
    "textarea": "typed-{}",
    "email": "typed-{}@example.org",
    "url": "https://typed-{}.example/",
    "number": "7{}",
}
DOORS = ("/sign-in", "/register", "/reset", "/confirm")
SECRET = {"/webhooks": {"url"}}  # no page shows it


class Forms(HTMLParser):
    """The forms of a page: the address, the hidden fields and the fields that a person fills."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.is_open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "form":
            self.is_open = given.get("method") == "post" and bool(given.get("action"))
            if self.is_open:
                self.found.append((given["action"], {}, {}))
        kind = given.get("type", "text") if tag == "input" else tag
        if not self.is_open or not given.get("name"):
            return
        if kind == "hidden":
            self.found[-1][1][given["name"]] = given.get("value", "")
        elif kind in TYPED:
            self.found[-1][2][given["name"]] = TYPED[kind].format(len(self.found[-1][2]))

    def handle_endtag(self, tag):
        if tag == "form":
            self.is_open = False


def sent_without_a_session(address, fields, alice):
    """Send a form, sign in as the answer asks, and return the page that comes then."""
    client = Client()
    asked = client.post(address, fields)
    assert asked.status_code == 401, address
    form = {"email": alice.email, "password": factories.PASSWORD}
    form |= {name: asked.context[name] for name in ("next", "kept")}
    answer = client.post("/sign-in", form, follow=True)
    assert answer.status_code == 200, address
    return client, answer


def is_field(shown, name, value):
    """Return whether a field of this name has this value."""
    return re.search(rf'name="{name}"[^>]*(?: value="|>){re.escape(value)}["<]', shown)


def test_nothing_typed_is_lost_in_any_form(visitor, rows, alice):  # noqa: F811
    forms = {}
    for address in addresses(rows):
        page = visitor.get(address)
        if page.status_code == 200 and page.headers["Content-Type"].startswith("text/html"):
            forms |= {form[0]: form for form in Forms(text_of(page)).found if form[2]}
    asked = [form for form in forms.values() if not form[0].startswith(DOORS)]
    assert len(asked) > 20
    for address, hidden, typed in asked:
        _client, page = sent_without_a_session(address, hidden | typed, alice)
        shown = page.content.decode()
        lost = {name for name, value in typed.items() if not is_field(shown, name, value)}
        assert lost == SECRET.get(address, set()), address


def test_a_form_without_a_page_is_offered_again(certificate, alice):
    address = f"/certificates/{certificate.pk}/labels"
    client, page = sent_without_a_session(address, {"labels": "prod, <b>x</b>"}, alice)
    shown = page.content.decode()
    assert "Nothing was done" in shown
    assert "<b>x</b>" not in shown
    assert not certificate.labels.exists()
    ((_action, hidden, _typed),) = [
        form for form in Forms(shown).found if form[0] == address and "labels" in form[1]
    ]
    assert client.post(address, hidden).status_code == 302
    assert {each.name for each in certificate.labels.all()} == {"prod", "<b>x</b>"}
    assert client.get(address).status_code == 302, "it is offered once"


def test_a_form_of_another_owner_is_offered_and_does_nothing(certificate, bob):
    address = f"/certificates/{certificate.pk}/delete"
    client, page = sent_without_a_session(address, {"name": certificate.domain}, bob)
    assert page.status_code == 200
    assert client.post(address, {"name": certificate.domain}).status_code == 404
    assert Certificate.objects.get(pk=certificate.pk).retired_at is None


def test_no_secret_is_kept(rows, alice):  # noqa: F811
    secret = "a-secret-nobody-sees"
    for address, name in (
        (f"/dns-credentials/{rows['dns']}/change", "password"),
        (f"/accounts/{rows['account']}/change", "eab_hmac_key"),
        ("/settings/password", "new_password"),
        ("/webhooks", "url"),
    ):
        asked = Client().post(address, {name: secret, "name": "x"})
        assert asked.status_code == 401
        assert secret not in asked.content.decode()
