"""axe-core finds no violation on any page, narrow and wide, light and dark, in both languages."""

import hashlib
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Page, sync_playwright

import tests
from tests.dashboard.test_crawl import pages

CHROMIUM = which("chromium") or ""
AXE = Path(tests.__file__).parent / "axe" / "axe.min.js"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
DOORS = ["/sign-in", "/register", "/register/code", "/reset", "/reset/code", "/device"]
WIDTHS, THEMES = (360, 1440), ("light", "dark")
RUN = "axe.run({resultTypes: ['violations']})"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed"),
]


@pytest.fixture
def addresses(secrets, visitor: Client, settings) -> list[str]:
    """The pages that are HTML. They are read before the browser starts.

    Django refuses queries in the thread of the browser, because it has an event loop.
    """
    settings.REGISTRATION = "open"
    settings.MAIL_IS_SET_UP = True
    found = []
    for address, _ in pages():
        answer = visitor.get(address)
        is_page = answer.headers.get("Content-Type", "").startswith("text/html")
        if answer.status_code == 200 and is_page and b"<html" in answer.content:
            found.append(address)
    return found


def violations(page: Page, address: str) -> list[str]:
    """Return the violations of a page in each width and theme."""
    found = []
    page.evaluate(AXE.read_text())
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for theme in THEMES:
            page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            result: dict[str, Any] = page.evaluate(RUN)
            found += [
                f"{address} {width} {theme}: {each['id']} {each['nodes'][0]['html'][:200]}"
                for each in result["violations"]
            ]
    return found


def seen(page: Page, root: str, addresses: list[str]) -> list[str]:
    wrong = []
    for address in addresses:
        page.goto(f"{root}{address}")
        wrong += violations(page, address)
    return wrong


def test_the_file_of_axe_is_the_one_that_was_checked():
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == SHA256


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_no_page_has_a_violation(live_server, addresses, visitor, language):
    session = visitor.cookies["cjj365"].value
    assert len(addresses) > 15
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(reduced_motion="reduce")
        context.add_cookies([{"name": "language", "value": language, "url": live_server.url}])
        wrong = seen(context.new_page(), live_server.url, DOORS)
        context.add_cookies([{"name": "cjj365", "value": session, "url": live_server.url}])
        wrong += seen(context.new_page(), live_server.url, addresses)
        browser.close()
    assert wrong == []
