"""The pages of errors: a wrong address, a refused form, and a failure of the server."""

import pytest
from django.core.cache import cache
from django.test import Client

from certctrl import clock, disk
from certctrl.health import SWEPT
from dashboard.page import SECURITY_POLICY

pytestmark = pytest.mark.django_db


def test_a_wrong_address_has_the_frame_of_the_pages(visitor):
    page = visitor.get("/nothing-<script>here")
    shown = page.content.decode()
    assert page.status_code == 404
    assert page.headers["Content-Security-Policy"] == SECURITY_POLICY
    assert '<nav class="nav"' in shown
    assert "nothing at this address" in shown
    assert "<script>here" not in shown


def test_each_page_says_why_nothing_moves(visitor):
    assert "Nothing moves" not in visitor.get("/").content.decode()
    cache.set(SWEPT, clock.now().timestamp() - 90, None)
    for path in ("/", "/certificates", "/nothing"):
        shown = visitor.get(path).content.decode()
        assert "Nothing moves at the moment. No sweep ended for 90 seconds." in shown
    cache.set(SWEPT, clock.now().timestamp(), None)
    assert "Nothing moves" not in visitor.get("/").content.decode()
    cache.set(disk.KEPT, disk.SERVER, None)
    assert "The disk of this server is full." in visitor.get("/").content.decode()


def test_a_stranger_sees_no_menu_of_the_pages():
    page = Client().get("/nothing")
    assert page.status_code == 404
    assert '<nav class="nav"' not in page.content.decode()


def test_an_api_path_still_answers_in_json(visitor):
    assert "nothing at this path" in visitor.get("/apiv1/nothing").json()["error"]["what"]


def test_a_form_without_its_token_is_refused_on_a_page(alice):
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    page = client.post("/api-keys", {"name": "x"})
    assert page.status_code == 403
    assert "The form has no token" in page.content.decode()
    assert '<nav class="nav"' in page.content.decode()


def test_a_failure_of_the_server_shows_no_detail(alice, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("secret detail")

    client = Client(raise_request_exception=False)
    client.force_login(alice)
    monkeypatch.setattr("dashboard.devices.with_conditions", fail)
    page = client.get("/devices")
    assert page.status_code == 500
    assert "secret detail" not in page.content.decode()
    monkeypatch.setattr("dashboard.devices.DeviceList.dispatch", fail)
    assert "The server has failed" in client.get("/devices").content.decode()
