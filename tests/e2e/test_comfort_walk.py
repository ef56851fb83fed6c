"""The demo in a browser: its banner, the palette and the keys, the list, and no dead view."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e import test_pages_walk as walk
from tests.standalone.starting import Up

pytestmark = walk.pytestmark
watched = walk.watched


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path / "data", DEMO="1").wait()
    yield started
    started.process.terminate()
    started.process.wait(30)


def test_a_person_finds_selects_and_changes_many(demo: Up, watched: Page) -> None:
    page = watched
    page.goto(walk.sign_in_link(demo))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("note")).to_contain_text("Everything in it is invented")

    # The keys, and none of them while a field has the focus.
    page.keyboard.press("g")
    page.keyboard.press("c")
    expect(page.locator("h1")).to_contain_text("the soonest end first")
    page.locator(".filter input[name=q]").fill("")
    page.locator(".filter input[name=q]").press_sequentially("g/i?")
    expect(page.locator(".filter input[name=q]")).to_have_value("g/i?")
    page.locator("main h1").click()
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("tbody :checked")).to_have_count(2)

    # The palette.
    page.keyboard.press("/")
    palette = page.get_by_role("dialog")
    field = palette.get_by_role("combobox")
    expect(field).to_be_focused()
    field.fill("webhook")
    expect(palette.get_by_role("option", selected=True)).to_contain_text("Webhooks")
    field.fill("office.internal")
    expect(palette.get_by_role("option").first).to_contain_text("office.internal")
    field.press("ArrowDown")
    expect(palette.get_by_role("option").nth(1)).to_have_attribute("aria-selected", "true")
    field.press("Escape")
    expect(palette).to_be_hidden()

    # A dry run, its result, and the label in the list.
    page.locator(".bulk input[name=label]").fill("moved")
    page.get_by_role("button", name="Give the label").click()
    expect(page.locator("h1")).to_contain_text("this will change 2 certificates")
    page.get_by_role("button", name="Give the label").click()
    expect(page.locator("h1")).to_contain_text("Done for 2 certificates")
    page.goto(f"{demo.address}/certificates?label=moved")
    expect(page.locator("table.certs tbody tr")).to_have_count(2)

    # Letters can be switched off, in this browser.
    page.keyboard.press("?")
    page.get_by_label("Letters are keys in this browser").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(page.locator("h1")).to_contain_text("the soonest end first")


def test_no_view_of_the_demo_is_empty_or_too_wide(demo: Up, watched: Page) -> None:
    page = watched
    page.goto(walk.sign_in_link(demo))
    page.get_by_role("button", name="Sign in").click()
    for path in ("certificates", "devices", "notices", "audit", "dns-credentials", "accounts"):
        page.goto(f"{demo.address}/{path}")
        assert page.locator("main .empty").count() == 0, path
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        for path in ("", "certificates", "certificates/1", "certificates/import", "devices"):
            page.goto(f"{demo.address}/{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
