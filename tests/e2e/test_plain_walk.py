"""A browser without JavaScript, and one on a slow line."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect, sync_playwright

from tests.e2e import test_pages_walk as walk
from tests.patience import LIMIT
from tests.standalone.starting import Up

pytestmark = walk.pytestmark
watched = walk.watched


EMAIL, PASSWORD = "reader@example.com", "Correct-horse-1"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("plain") / "data"
    started = Up(folder, LAB="0", ADMIN_EMAIL=EMAIL, ADMIN_PASSWORD=PASSWORD).wait()
    yield started
    started.process.terminate()
    started.process.wait(LIMIT)


@pytest.fixture
def plain() -> Iterator[Page]:
    yield from walk.browsed(java_script_enabled=False, viewport={"width": 360, "height": 800})


@pytest.fixture
def unwatched() -> Iterator[Page]:
    """The page of a browser whose console may show errors, as it does without a line."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=walk.CHROMIUM, args=["--no-sandbox"])
        yield launched.new_page()
        launched.close()


def sign_in(page: Page, up: Up) -> None:
    page.goto(f"{up.address}/sign-in")
    page.locator("#email").fill(EMAIL)
    page.locator("#password").fill(PASSWORD)
    page.locator("form.approve button").click()


def private_ca(page: Page, up: Up, name: str) -> None:
    page.goto(f"{up.address}/private-cas")
    page.locator("#name").fill(name)
    page.get_by_role("button", name="Create the private CA").click()
    expect(page.get_by_role("status").first).to_contain_text("can sign certificates now")


def test_everything_but_progress_and_palette_works_without_scripts(up: Up, plain: Page) -> None:
    page = plain
    sign_in(page, up)
    private_ca(page, up, "plain root")
    page.goto(f"{up.address}/issue")
    page.locator("#names").fill("plain.lab.test bad..name")
    page.get_by_role("button", name="Look at the zones now").click()
    expect(page.locator("#names-found .error")).to_have_count(1)
    page.get_by_role("button", name="Leave it out: bad..name").click()
    expect(page.locator("#names")).to_have_value("plain.lab.test")
    page.get_by_role("button", name="Make the record, issue later").click()
    expect(page.get_by_role("status").first).to_contain_text("Nothing was ordered")
    page.get_by_role("button", name="Issue now").first.click()
    expect(page.locator("[data-state=issued]")).to_be_visible()

    page.get_by_role("link", name="See the certificate").click()
    address = page.url
    page.get_by_text("Change the labels").first.click()
    page.locator("#labels").fill("prod")
    page.get_by_role("button", name="Change the labels").click()
    page.goto(f"{up.address}/certificates")
    page.locator("input[name=id]").check()
    page.locator(".bulk button[value=renewal_off]").click()
    page.get_by_role("button", name="Switch renewal off").click()
    expect(page.locator("h1")).to_contain_text("Done for 1 certificate")
    page.goto(f"{up.address}/certificates?label=prod&chip=off")
    expect(page.locator("table.certs tbody tr")).to_have_count(1)

    page.goto(address)
    page.get_by_text("Revoke the version in use").click()
    page.locator("#revoke-name").fill("plain.lab.test")
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_role("status").first).to_contain_text("The revocation is on its way")
    page.goto(up.address)
    page.locator("label", has_text="Dark").click()
    page.locator(".theme").get_by_role("button").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name=EMAIL).click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#password")).to_be_visible()


def test_a_slow_line_shows_the_last_names_and_sends_a_form_once(up: Up, watched: Page) -> None:
    page = watched
    sign_in(page, up)
    private_ca(page, up, "slow root")
    page.goto(f"{up.address}/issue")
    held: list[Route] = []
    page.route("**/issue/names", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/issue/names"):
        page.locator("#names").fill("bad..name")
    page.locator("#names").fill("slow.lab.test")
    with page.expect_request("**/issue/names") as newest:
        held[0].continue_()
    assert "slow.lab.test" in (newest.value.post_data or "")
    expect(page.locator("#names-found li .name")).to_have_text("slow.lab.test")
    expect(page.locator("#names-found .error")).to_have_count(0)

    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    page.get_by_role("button", name="Issue the certificate").dblclick()
    expect(page.locator("[data-state=issued]")).to_be_visible()
    assert sent.count(f"POST {up.address}/issue") == 1
    page.goto(f"{up.address}/certificates?q=slow")
    expect(page.locator("table.certs tbody tr")).to_have_count(1)


def test_a_page_that_lost_its_line_says_so_and_is_right_again(up: Up, unwatched: Page) -> None:
    page = unwatched
    sign_in(page, up)
    private_ca(page, up, "lost root")
    page.goto(f"{up.address}/issue")
    page.context.set_offline(offline=True)
    with page.expect_event("requestfailed"):
        page.locator("#names").fill("lost.lab.test")
    expect(page.locator("[data-lost]")).to_be_visible()
    page.context.set_offline(offline=False)
    page.locator("#names").fill("found.lab.test")
    expect(page.locator("#names-found li .name")).to_have_text("found.lab.test")
    expect(page.locator("[data-lost]")).to_be_hidden()
