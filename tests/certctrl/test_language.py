"""Each request is answered in the language of the person, and the answer says which one it is."""

import asyncio
import json

import pytest
from django.http import Http404, HttpResponse
from django.utils import translation
from rest_framework.exceptions import NotAuthenticated, ParseError, PermissionDenied, Throttled

from certctrl import errorshape
from certctrl.bodylimit import STRANGERS, BodyLimit
from certctrl.language import RequestLanguage
from devices import longpoll, websocket

NOTHING = "/apiv1/nothing"
ENGLISH, CHINESE = "There is nothing", "没有内容"


@pytest.mark.parametrize(
    "accepted", ["zh-hans", "zh-CN,zh;q=0.9,en;q=0.8", "zh", "zh-TW", "de, zh;q=0.5", "ZH-HANS"]
)
@pytest.mark.parametrize("path", [NOTHING, "/nothing", "/sign-in"])
def test_a_request_for_chinese_is_answered_in_chinese(client_of, path, accepted):
    response = client_of().get(path, HTTP_ACCEPT_LANGUAGE=accepted)
    assert response.headers["Content-Language"] == "zh-hans"
    text = response.error["what"] if path == NOTHING else response.content.decode()
    assert any("\u4e00" <= each <= "\u9fff" for each in text)


@pytest.mark.parametrize(
    "accepted", ["", "*", "de", "en-GB, zh;q=0.5", ";q=,,=\xff", "zh" * 5000, "zh;q=2", "z,h"]
)
def test_any_other_request_is_answered_in_english(client_of, accepted):
    response = client_of().get(NOTHING, HTTP_ACCEPT_LANGUAGE=accepted)
    assert response.headers["Content-Language"] == "en"
    assert ENGLISH in response.error["what"]


def test_a_long_header_still_names_its_first_languages(client_of):
    accepted = "zh," + ",".join(["de"] * 5000)
    assert CHINESE in client_of().get(NOTHING, HTTP_ACCEPT_LANGUAGE=accepted).error["what"]


def test_the_language_that_was_chosen_on_the_pages_comes_first(client_of):
    client = client_of()
    client.cookies["language"] = "zh-hans"
    assert CHINESE in client.get(NOTHING, HTTP_ACCEPT_LANGUAGE="en").error["what"]


@pytest.mark.parametrize("path", [NOTHING, "/apiv1/schema", "/auth/general", "/sign-in", "/health"])
def test_caches_keep_the_answers_in_each_language_apart(client_of, db, path):
    varies = client_of().get(path).headers["Vary"].lower().split(", ")
    assert {"accept-language", "cookie"} <= set(varies)


def test_a_file_of_the_pages_is_the_same_in_each_language(client_of):
    response = client_of().get("/static/dashboard/certctrl.css", HTTP_ACCEPT_LANGUAGE="zh")
    assert response.status_code == 200
    assert "Content-Language" not in response.headers
    assert "language" not in response.headers.get("Vary", "").lower()


def test_the_files_of_the_pages_are_where_the_setting_says(rf, settings):
    settings.STATIC_URL = "/certs/static/"
    answer = RequestLanguage(lambda _request: HttpResponse())
    for path, is_file in (("/certs/static/a.css", True), ("/certs/settings", False)):
        assert ("Vary" not in answer(rf.get(path)).headers) is is_file


def test_a_path_without_the_prefix_is_explained_in_the_language(client_of, settings):
    settings.URL_PREFIX = "/certs"
    response = client_of().get("/apiv1/me", HTTP_ACCEPT_LANGUAGE="zh")
    assert response.status_code == 404
    assert "不以设置 URL_PREFIX 的 /certs 开头" in response.error["what"]


JSON = "application/json"
OF_THE_FRAMEWORK = [
    ("GET", "/apiv1/me/apikeys/999", "", JSON, 404),
    ("PATCH", "/apiv1/me/apikeys", "{}", JSON, 405),
    ("POST", "/apiv1/me/apikeys", "{", JSON, 400),
    ("POST", "/apiv1/me/apikeys", "[]", JSON, 400),
    ("POST", "/apiv1/me/apikeys", "{}", JSON, 400),
    ("POST", "/apiv1/me/apikeys", "a=b", "application/x-www-form-urlencoded", 415),
    ("POST", "/apiv1/me/apikeys", '{"name": 1, "permissions": [{}]}', JSON, 400),
]


@pytest.mark.parametrize(("method", "path", "body", "kind", "status"), OF_THE_FRAMEWORK)
def test_errors_of_the_framework_are_in_the_language(
    client_of, alice, method, path, body, kind, status
):
    client = client_of(alice)
    response = client.generic(method, path, body, content_type=kind, HTTP_ACCEPT_LANGUAGE="zh")
    assert response.status_code == status
    assert any("\u4e00" <= each <= "\u9fff" for each in response.error["what"])


@pytest.mark.parametrize(
    "exc", [Throttled(wait=3), NotAuthenticated(), PermissionDenied(), ParseError(), Http404()]
)
def test_each_exception_of_the_framework_has_a_sentence(exc):
    with translation.override("zh-hans"):
        what = errorshape.exception_handler(exc, {}).data["error"]["what"]
    assert any("\u4e00" <= each <= "\u9fff" for each in what)


def answered(application, headers, **scope):
    """Return the body of an ASGI application that refuses the request."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "query_string": b"", "state": {}} | scope
    asyncio.run(application(scope | {"headers": headers}, receive, send))
    return json.loads(sent[1]["body"])["error"]["what"]


@pytest.mark.parametrize(
    ("application", "scope"),
    [
        (BodyLimit(None, lambda scope: False), {"path": "/import"}),
        (longpoll.application, {"path": longpoll.PATH}),
        (websocket.application, {"path": "/api/nothing"}),
    ],
)
@pytest.mark.parametrize(
    "header", [(b"accept-language", b"zh-CN"), (b"cookie", b"a=b; language=zh-hans")]
)
def test_requests_that_django_does_not_see_are_answered_so_too(application, scope, header):
    length = (b"content-length", b"%d" % (STRANGERS + 1))
    expects = (b"expect", b"100-continue")
    in_english, in_chinese = (
        answered(application, [length, expects, *more], **scope) for more in ([], [header])
    )
    assert in_english.isascii()
    assert any("\u4e00" <= each <= "\u9fff" for each in in_chinese)
