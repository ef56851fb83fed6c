"""Each request has one log line. Its id may come from the caller, and is in the response."""

import asyncio
import json

import pytest
import structlog
from asgiref.sync import iscoroutinefunction
from django.http import HttpResponse
from django.test import RequestFactory

from certctrl.log import RequestContext


@pytest.fixture
def logged():
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as lines:
        yield lines


def view(request):
    structlog.get_logger().info("inside")
    return HttpResponse(status=201)


def ask(get_response=view, path="/apiv1/me/certificates?token=sesame", **headers):
    return RequestContext(get_response)(RequestFactory().post(path, headers=headers))


def test_a_request_is_one_line_without_its_query(logged):
    ask()
    line = logged[-1]
    assert (line["event"], line["method"], line["path"], line["status"]) == (
        "request",
        "POST",
        "/apiv1/me/certificates",
        201,
    )
    assert line["ms"] >= 0
    assert "sesame" not in json.dumps(logged)


def test_lines_inside_carry_the_id_that_is_answered(logged):
    response = ask()
    assert {line["request_id"] for line in logged} == {response["X-Request-Id"]}
    assert ask()["X-Request-Id"] != response["X-Request-Id"]


def test_the_callers_id_is_kept(logged):
    assert ask(**{"X-Request-Id": "deploy-2026.03_01"})["X-Request-Id"] == "deploy-2026.03_01"
    assert logged[-1]["request_id"] == "deploy-2026.03_01"


@pytest.mark.parametrize(
    "given",
    ["", "short", "x" * 65, "with space in it", 'quote"quote"', "line\nbreak-here", "ünicode-id"],
)
def test_an_id_that_is_not_short_and_plain_is_replaced(given, logged):
    response = ask(**{"X-Request-Id": given})
    assert response["X-Request-Id"] not in ("", given)
    assert response["X-Request-Id"].isalnum()


def test_nothing_stays_bound_after_the_request(logged):
    ask()
    structlog.get_logger().info("after")
    assert "request_id" not in logged[-1]


def test_a_crash_is_a_line_of_status_500(logged):
    def crash(request):
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        ask(crash)
    assert logged[-1]["status"] == 500


def test_an_asynchronous_view_is_awaited_under_its_id(logged):
    async def later(request):
        await asyncio.sleep(0)
        return view(request)

    middleware = RequestContext(later)
    assert iscoroutinefunction(middleware)
    response = asyncio.run(middleware(RequestFactory().get("/health")))
    assert {line["request_id"] for line in logged} == {response["X-Request-Id"]}
    assert logged[-1]["path"] == "/health"


def test_the_middleware_is_installed_first(settings):
    assert settings.MIDDLEWARE[0] == "certctrl.log.RequestContext"
