"""A person with a browser: register, add a second factor, sign in with it, reset the password."""

import base64
import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from django_otp.oath import TOTP
from playwright.sync_api import Page, expect

from tests.e2e.test_pages_walk import pytestmark, watched  # noqa: F401
from tests.patience import until
from tests.signin.conftest import CODE
from tests.standalone.starting import Up

EMAIL, PASSWORD, NEW_PASSWORD = "carol@example.org", "Correct-horse-1", "Another-horse-2"


class Mails:
    """The folder that the server writes its mails to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: set[Path] = set()
        self.last_code = ""

    def code(self) -> str:
        """Wait for the next mail with a code, and return the code. Other mails say what changed."""
        until(self._read_code, "a mail with a code came")
        return self.last_code

    def _read_code(self) -> bool:
        for path in set(self.folder.glob("*")) - self.read:
            self.read.add(path)
            mail = message_from_bytes(path.read_bytes(), policy=policy.default)
            assert mail["To"] == EMAIL
            if found := re.search(CODE, mail.get_content()):
                self.last_code = found[1]
                return True
        return False


@pytest.fixture
def mails(tmp_path: Path) -> Mails:
    (tmp_path / "mails").mkdir()
    return Mails(tmp_path / "mails")


@pytest.fixture
def up(tmp_path: Path, mails: Mails) -> Iterator[Up]:
    started = Up(
        tmp_path / "data",
        LAB="0",
        REGISTRATION="open",
        EMAIL_BACKEND="tests.fakes.mailfolder.EmailBackend",
        MAIL_FOLDER=str(mails.folder),
        NOTICE_FROM="certctrl@example.com",
    ).wait()
    yield started
    started.process.terminate()
    started.process.wait(30)


class App:
    """An authenticator app. It waits until it can show a code that was not used."""

    def __init__(self, secret: str) -> None:
        self.totp = TOTP(base64.b32decode(secret))
        self.last = 0

    def code(self) -> str:
        # A code of the next step is accepted too, so nobody waits for more than one step.
        until(lambda: self.totp.t() + 1 > self.last, "the app shows a new code")
        self.last = max(self.last + 1, self.totp.t())
        self.totp.drift = self.last - self.totp.t()
        code = f"{self.totp.token():06d}"
        self.totp.drift = 0
        return code


def sign_in(page: Page, up: Up, password: str) -> None:
    page.goto(f"{up.address}/sign-in")
    page.get_by_label("E-mail address").fill(EMAIL)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def sign_out(page: Page) -> None:
    page.get_by_role("button", name=EMAIL).click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Password")).to_be_visible()


def test_a_person_registers_and_guards_the_account(
    up: Up,
    mails: Mails,
    watched: Page,  # noqa: F811
) -> None:
    page = watched
    page.goto(f"{up.address}/sign-in")
    page.get_by_role("link", name="Register").click()
    page.get_by_label("E-mail address").fill(EMAIL)
    page.get_by_label("Name").fill("carol")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Register").click()
    page.get_by_label("Code in the mail").fill(mails.code())
    page.get_by_label("Your new password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("status").first).to_contain_text("Your account is ready")

    page.get_by_role("button", name=EMAIL).click()
    page.get_by_role("link", name="Settings").click()
    expect(page.locator("h1")).to_contain_text("password alone")
    page.get_by_role("button", name="Add an authenticator app").click()
    drawing = page.get_by_role("img", name="QR code").bounding_box()
    assert drawing
    assert drawing["width"] > 120
    app = App(page.locator(".code code").first.inner_text().strip())
    page.get_by_label("The code that the app shows now").fill(app.code())
    page.get_by_role("button", name="Switch on").click()
    codes = page.locator(".code code").inner_text().split()
    assert len(codes) == 10
    page.get_by_role("link", name="I have stored them").click()
    expect(page.locator("h1")).to_contain_text("two factors")
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    sign_out(page)

    sign_in(page, up, PASSWORD)
    page.get_by_label("Code").fill(app.code())
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_contain_text("There is no certificate yet")
    sign_out(page)

    page.get_by_role("link", name="Forgot the password?").click()
    page.get_by_label("E-mail address").fill(EMAIL)
    page.get_by_role("button", name="Mail me a code").click()
    page.get_by_label("Code in the mail").fill(mails.code())
    page.get_by_label("New password").fill(NEW_PASSWORD)
    page.get_by_role("button", name="Set the password").click()
    page.get_by_label("Code").fill(codes[0])
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("h1")).to_contain_text("There is no certificate yet")

    page.goto(f"{up.address}/settings")
    expect(page.locator("#h-factor + *, main")).to_contain_text("9 recovery codes are left")
