"""A person with a browser: from the sign-in link to the certificate in the list."""

import base64
import json
import re
import sys
import uuid
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from shutil import which
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from django.utils import translation
from nacl.public import PrivateKey  # noqa: TID251
from playwright.sync_api import Page, expect, sync_playwright

import tests
from certctrl.state import StateFile
from lab.demo import dns_provider
from lab.loopback import ZONE, Lab
from standalone.embedded import STATE_FILE
from tests.patience import LIMIT
from tests.standalone.starting import Up

CHROMIUM = which("chromium") or ""
AXE = Path(tests.__file__).parent / "axe" / "axe.min.js"
RUN = "axe.run({resultTypes: ['violations']})"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux", reason="processes die with their parent on Linux only"
    ),
    pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed"),
]
PATHS = (
    *("", "certificates", "certificates/1", "issue", "dns-credentials", "api-keys", "devices"),
    *("devices/1", "devices/enrolment-keys", "notices", "notices/settings", "webhooks", "audit"),
)
WAIT = 30_000  # milliseconds, for what the server does


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path / "data", LAB="0").wait()
    yield started
    started.process.terminate()
    started.process.wait(LIMIT)


@pytest.fixture
def watched() -> Iterator[Page]:
    """The page of a browser. No request leaves loopback, and the console shows no error."""
    yield from browsed()


def browsed(**options: Any) -> Iterator[Page]:
    # Its event loop ends with the test. Django refuses queries in a thread that has one.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield from watching(launched.new_context(**options).new_page())
        launched.close()


class Reader(NamedTuple):
    """A new user with a browser of one language, colour scheme and width."""

    language: str
    scheme: Literal["light", "dark"]
    width: int
    page: Page

    @property
    def name(self) -> str:
        return f"{self.language}-{self.scheme}-{self.width}"

    def words(self, text: str, **values: str) -> str:
        """Return a text of the pages in the language of the reader."""
        with translation.override(self.language):
            return translation.gettext(text) % values if values else translation.gettext(text)

    def finds_no_fault(self) -> None:
        """The page fits its width, and axe-core finds no violation in it."""
        page = self.page
        assert page.evaluate("document.documentElement.scrollWidth") <= self.width, page.url
        is_dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        assert is_dark == (self.scheme == "dark")
        page.evaluate(AXE.read_text())
        found = page.evaluate(RUN)["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], page.url


READERS = list(product(("en", "zh-hans"), ("light", "dark"), (360, 1440)))


@pytest.fixture(params=READERS, ids=lambda each: "-".join(map(str, each)))
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    language, scheme, width = request.param
    options = {
        "locale": {"en": "en-GB", "zh-hans": "zh-CN"}[language],
        "color_scheme": scheme,
        "reduced_motion": "reduce",
        "viewport": {"width": width, "height": 800},
    }
    for page in browsed(**options):
        yield Reader(language, scheme, width, page)


class LabServer(NamedTuple):
    """A server with its lab, where each reader is a user who has never signed in."""

    up: Up
    links: dict[str, str]
    lab: Lab


# One process makes the users of all readers. They are staff, because only staff may name the
# private addresses of the lab.
MAKE_USERS = """
import json
from accounts.links import token_for
from accounts.models import User
links = {}
for name in %r:
    user = User.objects.create_user(f"{name}@example.org", is_staff=True)
    links[name] = token_for(user)
print(json.dumps(links))
"""


def lab_of(up: Up) -> Lab:
    """Return the lab of the server, as its data folder has it."""
    state = StateFile(up.folder / STATE_FILE)
    names = ("lab_dns_port", "lab_ca_port", "lab_tsig_secret")
    return Lab(up.folder / "lab", *(state[name] for name in names))


@pytest.fixture(scope="module")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    up = Up(tmp_path_factory.mktemp("walk") / "data").wait()
    names = ["-".join(map(str, each)) for each in READERS]
    said = up.manage("shell", "-v", "0", "-c", MAKE_USERS % names)
    links = json.loads(said.splitlines()[-1])
    yield LabServer(up, links, lab_of(up))
    up.process.terminate()
    up.process.wait(LIMIT)


def watching(page: Page) -> Iterator[Page]:
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda sent: wrong.append(sent.url) if urlsplit(sent.url).hostname != "127.0.0.1" else None,
    )
    page.set_default_timeout(WAIT)
    yield page
    assert wrong == []


def sign_in_link(up: Up) -> str:
    found = re.search(r"sign in +(\S+)", up.said)
    assert found
    return found[1]


def test_a_person_issues_a_certificate(lab_server: LabServer, reader: Reader) -> None:
    page, words, up = reader.page, reader.words, lab_server.up
    page.goto(f"{up.address}/sign-in/link?token={lab_server.links[reader.name]}")
    page.get_by_role("button", name=words("Sign in")).click()
    expect(page.locator("h1")).to_contain_text(words("There is no certificate yet."))
    lang = {"en": "en", "zh-hans": "zh-Hans"}[reader.language]
    expect(page.locator("html")).to_have_attribute("lang", lang)

    lab = lab_server.lab
    page.goto(f"{up.address}/dns-credentials?provider=rfc2136")
    for field, value in (dns_provider(lab) | {"name": "lab zone"}).items():
        if field not in ("provider", "algorithm"):
            page.locator(f"#f-{field}").fill(str(value))
    page.get_by_role("button", name=words("Store it")).click()
    expect(page.locator(".rows")).to_contain_text("lab zone")
    page.goto(f"{up.address}/accounts")
    page.locator("#ca").select_option("custom")
    page.locator("#name").fill("lab CA")
    page.locator("#email").fill("reader@example.org")
    page.get_by_text(words("Another CA, or external account binding")).click()
    page.locator("#directory_url").fill(lab.directory_url)
    page.get_by_label(words("I accept the terms of the CA")).check()
    page.get_by_role("button", name=words("Add the account")).click()
    stored = words("%(name)s is stored. It registers at the CA now.", name="lab CA")
    expect(page.get_by_role("status").first).to_contain_text(stored)

    page.locator("h1").click()
    page.keyboard.press("i")
    domain = f"{reader.name}.{ZONE}"
    names = page.locator("textarea[name=names]")
    names.fill(f"{domain} bad..name")
    refused = (
        "%(name)s is not a host name. Write letters, digits and hyphens between dots, as in "
        "www.example.com, without scheme, port or path."
    )
    expect(page.locator("#names-found .error")).to_have_text(words(refused, name="bad..name"))
    expect(page.locator("#sum .error")).to_have_count(1)
    reader.finds_no_fault()
    page.get_by_role("button", name=words("Leave it out: %(name)s", name="bad..name")).click()
    expect(page.locator("#names-found .error")).to_have_count(0)
    expect(page.locator("#proof")).to_contain_text("lab zone")
    expect(page.locator("#curl")).to_contain_text(domain)
    page.get_by_role("button", name=words("Look at the zones now")).click()
    expect(page.locator("#proof")).to_contain_text(words("sees the zone"))
    reader.finds_no_fault()
    page.get_by_role("button", name=words("Issue the certificate")).click()

    expect(page.locator("[data-state=issued]")).to_be_visible(timeout=4 * WAIT)
    expect(page.locator("h1")).to_contain_text(words("%(name)s is issued.", name=domain))
    expect(page.locator(".walk")).to_contain_text(words("the certificate is stored"))
    reader.finds_no_fault()
    page.get_by_role("link", name=words("See the certificate")).click()
    expect(page.locator("h1")).to_contain_text(words("active"))
    reader.finds_no_fault()
    page.goto(f"{up.address}/certificates")
    expect(page.locator("table.certs tbody tr")).to_have_count(1)
    reader.finds_no_fault()


def test_a_person_chooses_a_language_and_a_colour(up: Up, watched: Page) -> None:
    page = watched
    page.goto(sign_in_link(up))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="admin@").click()
    page.locator("#me button[lang=zh-Hans]").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator("h1")).to_contain_text("证书")
    page.locator("label", has_text="深色").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_person_sees_to_devices_notices_and_the_audit_log(up: Up, watched: Page) -> None:
    page = watched
    page.goto(sign_in_link(up))
    page.get_by_role("button", name="Sign in").click()
    page.goto(f"{up.address}/private-cas")
    page.get_by_label("Name", exact=True).fill("lab root")
    page.get_by_role("button", name="Create the private CA").click()
    page.goto(f"{up.address}/issue")
    page.get_by_label("One on each line").fill("printer.lab.test")
    page.get_by_role("button", name="Issue the certificate").click()
    expect(page.locator("[data-state=issued]")).to_be_visible()

    page.get_by_role("link", name="Devices", exact=True).click()
    expect(page.locator("h1")).to_contain_text("No device is enrolled")
    page.get_by_role("link", name="Keys for a fleet").click()
    page.get_by_label("Name", exact=True).fill("fleet")
    page.get_by_label("Tag of its devices").fill("web")
    page.get_by_role("button", name="Create the key").click()
    token = page.locator(".code code").first.inner_text()
    name = "edge-1 <script>alert(1)</script>"
    enrol(up, token, name)

    page.goto(f"{up.address}/devices")
    page.get_by_role("link", name=name).click()
    page.get_by_label("Assign the certificate of").fill("printer.lab.test")
    page.get_by_role("button", name="Assign it").click()
    expect(page.get_by_role("status").first).to_contain_text("is assigned to")
    page.get_by_role("link", name="printer.lab.test").click()
    expect(page.locator("#devices")).to_contain_text(name)
    page.get_by_text("How a new version reaches them").click()
    page.get_by_label("Canary").check()
    page.locator("form", has=page.get_by_label("Canary")).get_by_role("button").click()
    expect(page.locator("#devices")).to_contain_text("one device first")

    page.goto(f"{up.address}/webhooks")
    page.get_by_label("URL", exact=True).fill("https://hooks.example.com/x")
    page.get_by_role("button", name="Store it").click()
    expect(page.locator("#h-secret")).to_contain_text("hooks.example.com")
    page.locator("form[action$='/disable'] button").click()
    expect(page.get_by_role("status").first).to_contain_text("Nothing is posted")
    page.goto(f"{up.address}/notices/settings")
    page.get_by_role("button", name="Send a test").click()
    expect(page.get_by_role("status").first).to_contain_text("on its way")
    page.goto(f"{up.address}/audit?action=webhook.")
    expect(page.locator("table tbody tr")).to_have_count(2)
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        for path in PATHS:
            page.goto(f"{up.address}/{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def enrol(up: Up, token: str, name: str) -> None:
    """Enrol a device as an agent does."""
    key = base64.b64encode(bytes(PrivateKey.generate().public_key)).decode()
    body = {"device_public_id": str(uuid.uuid4()), "dev_pk": key, "name": name, "platform": "linux"}
    headers = {"Authorization": f"Bearer {token}"}
    path = f"{up.address}/apiv1/me/devices"
    sent = requests.post(path, json=body, headers=headers, timeout=30)  # noqa: TID251
    assert sent.status_code == 201, sent.text
