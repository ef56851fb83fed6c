"""Take the pictures of docs/screenshots/ in Chromium: `make screenshots`.

They show the invented year of a demo, which contacts nothing. Names are the same on each run.
Times are those of the run.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.test_pages_walk import CHROMIUM, sign_in_link
from tests.standalone.starting import Up

FOLDER = Path(__file__).parent.parent / "docs" / "screenshots"
WIDE, NARROW = {"width": 1440, "height": 1080}, {"width": 360, "height": 1080}
NAMES = ("shop.example.net", "*.shop.example.net", "bad..name")


def take(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=FOLDER / f"{name}.png")


def take_all(page: Page, up: Up) -> None:
    link = sign_in_link(up)
    page.goto(f"{up.address}/sign-in")
    take(page, "sign-in")
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("note")).to_be_visible()

    take(page, "overview")
    page.goto(f"{up.address}/certificates")
    take(page, "certificates")
    page.goto(f"{up.address}/certificates?q=old-297")
    page.locator("table.certs td.who a").click()
    take(page, "certificate")
    page.goto(f"{up.address}/certificates?chip=open")
    page.locator("table.certs tr", has_text="present").first.locator("td.who a").click()
    page.locator("a[href*='/attempts/']").first.click()
    take(page, "attempt")
    page.goto(f"{up.address}/devices")
    take(page, "devices")
    page.goto(f"{up.address}/issue")
    page.get_by_label("One on each line").fill("\n".join(NAMES))
    expect(page.locator("#names-found .error")).to_have_count(1)
    take(page, "issue")

    page.goto(up.address)
    page.emulate_media(color_scheme="dark")
    take(page, "overview-dark")
    page.set_viewport_size(NARROW)
    take(page, "overview-360-dark")
    page.emulate_media(color_scheme="light")
    page.goto(f"{up.address}/certificates")
    take(page, "certificates-360")
    page.set_viewport_size(WIDE)
    page.context.add_cookies([{"name": "language", "value": "zh-hans", "url": up.address}])
    page.goto(up.address)
    take(page, "overview-zh")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        up = Up(Path(folder) / "data", DEMO="1").wait()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        take_all(browser.new_page(viewport=WIDE, reduced_motion="reduce"), up)
        browser.close()
        up.end()


if __name__ == "__main__":
    main()
