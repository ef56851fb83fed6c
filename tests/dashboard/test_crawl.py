"""Every page of the server, read by each role in a database that is full of secrets.

The pages come from the resolver. A page with parameters needs an example here.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

import dashboard.urls
from accounts.models import ApiKey, SavedView, User
from authorities.models import PrivateCA
from devices.models import Device, EnrolmentKey
from dnsproviders.models import DnsCredential
from issuance.models import Certificate
from notices.models import Webhook
from tests.dashboard.test_every_page import Tags, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


# These refuse a person without a link, or without an OpenID provider.
REFUSING = ("/sign-in/link", "/sign-in/openid", "/sign-in/openid/back")


@pytest.fixture(autouse=True)
def _registration_is_open(settings):
    settings.REGISTRATION = "open"
    settings.MAIL_IS_SET_UP = True


def ids(model: Any) -> Callable[[], list[Any]]:
    return lambda: [model.objects.order_by("pk").first().pk]


def certificate() -> Certificate:
    return Certificate.objects.get(domain="own.example.com")


def attempt() -> list[Any]:
    return [certificate().pk, certificate().issuances.get().pk]


def of_certificate(*others: Any) -> Callable[[], list[Any]]:
    return lambda: [certificate().pk, *others]


# The arguments of a page, by its name or by what its name begins with.
EXAMPLES: dict[str, Callable[[], list[Any]]] = {
    "attempt": attempt,
    "certificate-file": of_certificate("fullchain.pem"),
    "certificate": of_certificate(),
    "dns-action": lambda: [*ids(DnsCredential)(), "delete"],
    "account-action": lambda: [certificate().account_id, "delete"],
    "private-ca-action": lambda: [*ids(PrivateCA)(), "delete"],
    "private-ca": ids(PrivateCA),
    "api-key-action": lambda: [*ids(ApiKey)(), "revoke"],
    "enrolment-key-action": lambda: [*ids(EnrolmentKey)(), "revoke"],
    "device": ids(Device),
    "settings-action": lambda: ["name"],
    "notice-settings-action": lambda: ["change"],
    "view-action": ids(SavedView),
    "webhook-action": lambda: [*ids(Webhook)(), "delete"],
}


def arguments(pattern: URLPattern) -> list[Any]:
    if not pattern.pattern.converters:
        return []
    name = pattern.name or ""
    begins = [each for each in EXAMPLES if name == each or name.startswith(f"{each}-")]
    assert begins, f"EXAMPLES has no arguments for the page {name}"
    return EXAMPLES[max(begins, key=len)]()


def pages() -> Iterator[tuple[str, bool]]:
    """Yield the address of each page, and whether it names a row."""
    for pattern in dashboard.urls.urlpatterns:
        given = arguments(pattern)
        # Without a form, an action leads to the list of the person's own rows.
        is_action = (pattern.name or "").endswith("-action")
        yield reverse(pattern.name, args=given), bool(given) and not is_action


def below(resolver: URLResolver) -> Iterator[URLPattern]:
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            yield from below(each)
        else:
            yield each


def admin_pages() -> Iterator[str]:
    """Yield the address of each page of the admin that has a name."""
    [resolver] = [each for each in get_resolver().url_patterns if str(each.pattern) == "admin/"]
    models = {f"{m._meta.app_label}_{m._meta.model_name}": m for m in admin.site._registry}
    for pattern in below(resolver):
        name = pattern.name or ""
        if not name or name == "app_list":
            continue
        if not pattern.pattern.regex.groups:
            yield reverse(f"admin:{name}")
        elif name == "view_on_site":
            yield reverse("admin:view_on_site", args=[1, 1])
        elif name == "auth_user_password_change":
            yield reverse(f"admin:{name}", args=[User.objects.order_by("pk").first().pk])
        else:
            model = models[name.rpartition("_")[0]]
            if admin.site._registry[model].list_display_links is None:  # a row has no page
                continue
            row = model._default_manager.order_by("pk").first()
            assert row, f"everything.fill() makes no row for the page {name}"
            yield reverse(f"admin:{name}", args=[row.pk])
    for label in {model._meta.app_label for model in admin.site._registry}:
        yield reverse("admin:app_list", args=[label])


@pytest.fixture
def staff(db) -> User:
    return User.objects.create_superuser("root@example.net")


def client_of(user: User | None) -> Client:
    client = Client()
    if user:
        client.force_login(user)
    return client


def read(client: Client, address: str, *, follow: bool = False) -> tuple[Any, str]:
    page = client.get(address, follow=follow)
    assert page.status_code < 500, address
    return page, "" if getattr(page, "is_async", False) else text_of(page)


def faults(address: str, page: Any, text: str, *, in_admin: bool = False) -> list[str]:
    """Return what a page has that no page may have.

    The admin has styles, and links to the URLs of a row.
    """
    found: list[str] = []
    if not text or not page.headers.get("Content-Type", "").startswith("text/html"):
        return found
    if "Content-Security-Policy" not in page.headers:
        found.append(f"{address} has no security policy")
    for tag, attributes in Tags(text).tags:
        is_data = attributes.get("type") in ("application/json", "importmap")
        if tag == "script" and not attributes.get("src") and not is_data:
            found.append(f"{address} has an inline script")
        if not in_admin and (tag == "style" or "style" in attributes):
            found.append(f"{address} has an inline style")
        found += [f"{address}: {tag} {name}" for name in attributes if re.match("on[a-z]", name)]
        if in_admin and tag == "a":
            continue
        for name in ("src", "href", "action", "formaction", "srcset", "poster"):
            if re.match(r"\s*([a-z]+:)?//", attributes.get(name) or "", re.IGNORECASE):
                found.append(f"{address} leads to {attributes[name]}")
    return found


def told(secrets: list[str], text: str) -> list[str]:
    return [each for each in [*secrets, "PRIVATE KEY"] if each in text]


def test_every_table_of_the_server_has_a_row(secrets):
    elsewhere = {"auth", "contenttypes", "admin"}
    tables = [model for model in apps.get_models() if model._meta.app_label not in elsewhere]
    empty = [each.__name__ for each in tables if not each._base_manager.exists()]
    assert empty == []


def test_the_owner_reads_every_page_without_a_secret(secrets, alice):
    client = client_of(alice)
    wrong = []
    for address, _ in pages():
        page, text = read(client, address)
        is_open = page.status_code in (200, 204, 302, 405) or address in REFUSING
        wrong += [] if is_open else [f"{page.status_code} {address}"]
        wrong += faults(address, page, text) + told(secrets, text)
    assert wrong == []


@pytest.mark.parametrize("role", ["another owner", "staff"])
def test_pages_of_another_owner_are_not_found(secrets, bob, staff, role):
    client = client_of({"another owner": bob, "staff": staff}[role])
    wrong = []
    for address, names_a_row in pages():
        page, text = read(client, address, follow=True)
        if names_a_row and page.status_code not in (404, 405):
            wrong.append(f"{page.status_code} {address}")
        wrong += faults(address, page, text) + told([*secrets, "alice@", "own.example"], text)
    assert wrong == []


def test_without_a_session_no_page_shows_a_row(secrets):
    wrong = []
    for address, names_a_row in pages():
        page, text = read(Client(), address)
        if names_a_row and page.status_code not in (302, 405):
            wrong.append(f"{page.status_code} {address}")
        wrong += faults(address, page, text) + told([*secrets, "alice@", "own.example"], text)
    assert wrong == []


def test_staff_read_every_page_of_the_admin_without_a_secret(secrets, staff):
    client = client_of(staff)
    wrong = []
    for address in admin_pages():
        page, text = read(client, address)
        wrong += faults(address, page, text, in_admin=True) + told(secrets, text)
    assert wrong == []


@pytest.mark.parametrize("role", ["an owner", "nobody"])
def test_others_read_no_page_of_the_admin(secrets, alice, role):
    client = client_of({"an owner": alice, "nobody": None}[role])
    for address in admin_pages():
        page, text = read(client, address)
        assert page.status_code in (302, 404, 405) or "/login/" in address, address
        assert told([*secrets, "own.example"], text) == []
