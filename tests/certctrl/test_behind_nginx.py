"""The guide's lines in a real nginx with a port and a path, in front of a real web process."""

import re
from pathlib import Path

import pytest
import requests

from standalone.redisserver import RedisServer
from tests import nginx
from tests.certctrl.proxied import below_a_path, guide, proxy, replaced
from tests.certctrl.site import EMAIL, PASSWORD, Site

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(nginx.PROGRAM is None, reason="needs nginx (nginx-light)"),
    pytest.mark.skipif(RedisServer.found(Path(), "") is None, reason="needs redis-server"),
]
BEHIND = {"BEHIND_PROXY": "true", "SESSION_COOKIE_SECURE": "true", "ALLOWED_HOSTS": "localhost"}
LOGIN = {"action": "login", "email": EMAIL, "password": PASSWORD}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.start_redis()
        made.release()
        made.port = made.start_web("web", **BEHIND)
        made.prefixed = made.start_web("prefixed", URL_PREFIX="/certctrl", **BEHIND)
        made.unprepared = made.start_web("unprepared", ALLOWED_HOSTS="localhost")
        yield made
    finally:
        made.stop()


@pytest.fixture
def proxied(tmp_path):
    """Start nginx with lines of the guide in front of a port."""
    return lambda lines, port: proxy(tmp_path / "nginx", lines, port)


class Browser(requests.Session):
    """Sends its origin, as browsers do."""

    def __init__(self, origin):
        super().__init__()
        self.trust_env = False
        self.verify = False
        self.origin = origin

    def post(self, url, **kwargs):
        headers = {"Origin": self.origin, "Sec-Fetch-Site": "same-origin", "Referer": url}
        return super().post(url, headers=headers, **kwargs)

    def log_in_to_the_admin(self, base):
        page = self.get(f"{base}/admin/")
        assert page.url.startswith(f"{base}/sign-in?next="), page.url
        (form,) = re.findall(r'<form[^>]* action="\S*/sign-in" .*?</form>', page.text, re.DOTALL)
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))
        return self.post(f"{base}/sign-in", data=hidden | {"email": EMAIL, "password": PASSWORD})


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """Hide the warning of requests about the self-signed certificate."""


def test_the_guides_lines_let_people_into_admin_and_api_on_any_port(site, proxied):
    with proxied(guide()[0], site.port) as origin:
        browser = Browser(origin)
        page = browser.log_in_to_the_admin(origin)
        assert (page.status_code, page.url) == (200, f"{origin}/admin/")
        for style in re.findall(r'<link href="([^"]+\.css)"', page.text):
            assert browser.get(origin + style).status_code == 200
        answer = Browser(origin).post(f"{origin}/auth/general", json=LOGIN)
        assert answer.status_code == 200, answer.text
        assert "Secure" in answer.headers["Set-Cookie"]


def test_a_proxy_that_drops_the_port_is_named_in_admin_and_api(site, proxied):
    lines = replaced(
        guide()[0], "proxy_set_header Host $http_host;", "proxy_set_header Host $host;"
    )
    with proxied(lines, site.port) as origin:
        page = Browser(origin).log_in_to_the_admin(origin)
        answer = Browser(origin).post(f"{origin}/auth/general", json=LOGIN)
        for status, text in (
            (page.status_code, page.text),
            (answer.status_code, answer.json()["error"]["what"]),
        ):
            assert status == 403
            assert f"origin {origin}, but this server was called as localhost." in text
            assert "proxy_set_header Host $http_host;" in text
        assert answer.json()["error"]["params"] == {"origin": origin, "host": "localhost"}


def test_a_server_unaware_of_its_proxy_names_the_setting(site, proxied):
    with proxied(guide()[0], site.unprepared) as origin:
        page = Browser(origin).log_in_to_the_admin(origin)
        assert page.status_code == 403
        assert "BEHIND_PROXY" in page.text
        assert "X-Forwarded-Proto" in page.text


def test_below_a_path_every_link_redirect_cookie_and_file_keeps_the_prefix(site, proxied):
    with proxied(below_a_path(), site.prefixed) as origin:
        base = f"{origin}/certctrl"
        browser = Browser(origin)
        start = browser.get(f"{base}/", allow_redirects=False)
        assert start.headers["Location"] == "/certctrl/sign-in?next=%2Fcertctrl%2F"
        page = browser.log_in_to_the_admin(base)
        assert (page.status_code, page.url) == (200, f"{base}/admin/")
        links = [
            link
            for link in re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text)
            if not link.startswith("//")
        ]
        assert [link for link in links if not link.startswith("/certctrl/")] == []
        files = [link for link in links if link.startswith("/certctrl/static/")]
        assert files
        assert {browser.get(origin + each).status_code for each in files} == {200}
        assert {cookie.path for cookie in browser.cookies} == {"/certctrl"}


def test_below_a_path_the_api_and_its_description_are_there(site, proxied):
    with proxied(below_a_path(), site.prefixed) as origin:
        base = f"{origin}/certctrl"
        browser = Browser(origin)
        assert browser.post(f"{base}/auth/general", json=LOGIN).status_code == 200
        assert browser.get(f"{base}/apiv1/me/apikeys").json() == {"data": []}
        assert browser.get(f"{base}/health").status_code == 503  # nothing sweeps here
        assert (
            browser.get(f"{base}/apiv1/none")
            .json()["error"]["what"]
            .endswith("See /certctrl/apiv1/docs.")
        )
        schema = browser.get(f"{base}/apiv1/schema").text
        assert "url: /certctrl\n" in schema
        paths = re.findall(r"^  (/\S+):$", schema, re.MULTILINE)
        assert "/apiv1/me/certificates" in paths
        assert [path for path in paths if path.startswith("/certctrl")] == []
        docs = browser.get(f"{base}/apiv1/docs").text
        assert "/certctrl/apiv1/schema" in docs
        scripts = re.findall(r'(?:href|src)="(/[^"]+)"', docs)
        assert scripts
        assert {browser.get(origin + script).status_code for script in scripts} == {200}


def test_a_proxy_that_strips_the_prefix_is_named(site, proxied):
    lines = replaced(below_a_path(), "proxy_pass http://certctrl;", "proxy_pass http://certctrl/;")
    with proxied(lines, site.prefixed) as origin:
        for path in ("/", "/admin/", "/health", "/apiv1/me/apikeys", "/static/admin/css/base.css"):
            answer = Browser(origin).get(f"{origin}/certctrl{path}")
            assert answer.status_code == 404
            what = answer.json()["error"]["what"]
            assert f"The path {path} does not begin with /certctrl, the setting URL_PREFIX." in what
            assert "proxy_pass http://127.0.0.1:8080;" in what


def test_a_server_without_the_setting_below_a_path_names_it(site, proxied):
    with proxied(below_a_path(), site.port) as origin:
        for path in ("/admin/", "/health", "/apiv1/me/apikeys", "/auth/general"):
            answer = Browser(origin).get(f"{origin}/certctrl{path}")
            assert answer.status_code == 404
            assert "set URL_PREFIX=/certctrl." in answer.json()["error"]["what"]


def test_a_connection_of_the_proxy_serves_one_request_after_another(site, proxied):
    """The guide's `keepalive` needs HTTP/1.1, and nginx must not send `Connection: close`."""
    with proxied(guide()[0], site.port) as origin:
        before = connections_to(site.port)
        for _ in range(5):
            assert Browser(origin).get(f"{origin}/auth/status").status_code == 200
        assert len(connections_to(site.port) - before) == 1


def connections_to(port):
    """Return the local ports of established connections to a loopback port, from /proc."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split()[1:4] for line in lines]
    return {
        local for local, remote, state in rows if remote == f"0100007F:{port:04X}" and state == "01"
    }


@pytest.mark.parametrize("prefix", ["", "/certctrl"])
def test_a_websocket_reaches_the_server(site, proxied, prefix):
    lines, port = (below_a_path(), site.prefixed) if prefix else (guide()[0], site.port)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    with proxied(lines, port) as origin:
        address = f"{origin}{prefix}/api/websocket/7?token=x"
        answer = Browser(origin).get(address, headers=upgrade)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == 5018
