"""Every error has the shape {"error": {"code", "key", "what", "params"}}."""

import json
import re

import pytest
from django.db import InterfaceError, OperationalError
from django.test import RequestFactory
from django.utils import translation
from rest_framework import serializers
from rest_framework.exceptions import Throttled
from structlog.testing import capture_logs

from certctrl import errors, errorshape
from certctrl.sentences import sentence
from certctrl.turns import LostTurn, Wait
from signin import entering

pytestmark = pytest.mark.django_db


def assert_shape(response, status, code):
    assert response.status_code == status
    assert set(response.body) == {"error"}
    assert set(response.error) == {"code", "key", "what", "params"}
    assert response.error["code"] == code
    assert "::" in response.error["key"]
    assert response.error["what"].endswith((".", "..."))


@pytest.mark.parametrize(
    "path",
    [
        "/apiv1/nothing",
        "/apiv1/me/apikeys/",
        "/apiv1/me/apikeys/x",
        "/apiv1/users/alice/apikeys",
        "/auth/nothing",
        "/apiv1",
    ],
)
def test_a_path_that_matches_nothing_is_404_in_json(client_of, alice, path):
    assert_shape(client_of(alice).get(path), 404, 5003)


@pytest.mark.parametrize("path", ["/apiv1/me/apikeys/", "/auth/general/", "/health/"])
def test_a_slash_at_the_end_of_a_path_is_named(client_of, alice, path):
    response = client_of(alice).post(path, {})
    assert_shape(response, 404, 5003)
    assert "Leave out the slash at its end." in response.error["what"]


@pytest.mark.parametrize("path", ["/api/websocket/7", "/api/tunnel?device_id=7", "/api/x"])
def test_a_websocket_without_its_headers_is_told_of_the_proxy(client_of, path):
    response = client_of().get(path)
    assert_shape(response, 404, 5003)
    assert "Upgrade" in response.error["what"]


@pytest.mark.postgres
@pytest.mark.parametrize(
    "path",
    [
        "/apiv1/me/devices?tag=%00",
        "/apiv1/me/devices?tag=a%00b",
        "/apiv1/me/devices/by-public-id/%00",
        "/apiv1/me/certificates?q=%00",
        "/apiv1/me/certificates?label=%00",
        "/apiv1/me/audit-events?object=%00",
        "/auth/sessions/%00",
    ],
)
def test_a_nul_in_a_path_or_a_query_is_no_fault_of_ours(client_of, alice, path):
    method = "delete" if path.startswith("/auth") else "get"
    response = getattr(client_of(alice), method)(path)
    assert_shape(response, 400, 5000)
    assert "NUL" in response.error["what"]


@pytest.mark.postgres
def test_a_nul_in_a_path_is_refused_before_a_key_is_judged(key_client, alice):
    client = key_client(alice, "ForInstallConfigUpdate:*[update]")
    assert_shape(client.post("/apiv1/me/install-config-update/%00", []), 400, 5000)


def test_an_id_that_no_column_can_hold_is_404(client_of, alice):
    assert_shape(client_of(alice).get(f"/apiv1/me/apikeys/{10**18 - 1}"), 404, 5003)
    assert_shape(client_of(alice).get(f"/apiv1/me/apikeys/{10**30}"), 404, 5003)


@pytest.mark.parametrize(
    ("method", "path"), [("put", "/apiv1/me/apikeys"), ("options", "/apiv1/me/apikeys")]
)
def test_a_wrong_method_on_a_known_path_is_405_with_code_5000(client_of, alice, method, path):
    assert_shape(getattr(client_of(alice), method)(path), 405, 5000)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/apiv1/me/apikeys", "This path does not take PUT. Send GET or POST."),
        ("/apiv1/me/apikeys/1", "This path does not take PUT. Send GET or DELETE."),
        ("/auth/logout", "This path does not take PUT. Send POST."),
    ],
)
def test_a_wrong_method_is_told_which_are_right(client_of, alice, path, sentence):
    assert client_of(alice).put(path).error["what"] == sentence


@pytest.mark.parametrize("method", ["put", "options"])
def test_a_wrong_method_is_405_for_a_key_too(key_client, alice, method):
    assert_shape(
        getattr(key_client(alice, "dns_providers:*[read]"), method)("/apiv1/me/dns-providers"),
        405,
        5000,
    )


@pytest.mark.parametrize("path", ["/apiv1/docs", "/apiv1/schema"])
@pytest.mark.parametrize("method", ["options", "post"])
@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/vnd.oai.openapi"])
def test_a_wrong_method_is_405_in_json_even_in_a_view_that_renders_files(
    client_of, path, method, accept
):
    response = getattr(client_of(), method)(path, HTTP_ACCEPT=accept)
    assert_shape(response, 405, 5000)
    assert response.headers["Content-Type"] == "application/json"


def test_too_many_query_parameters_are_400(client_of, alice):
    query = "&".join(f"a{number}=1" for number in range(1001))
    response = client_of(alice).get(f"/apiv1/me/apikeys?{query}")
    assert_shape(response, 400, 5000)
    assert "query" in response.error["what"]


def test_a_fault_of_ours_is_500_with_a_calm_sentence_and_no_trace(client_of, monkeypatch):
    def fail(*args):
        raise RuntimeError("the table is on fire: password=hunter2")

    monkeypatch.setattr(entering, "log_in", fail)
    with capture_logs() as logs:
        response = client_of().post("/auth/general", {"email": "a@example.org", "password": "x"})
    assert_shape(response, 500, 5017)
    assert "fire" not in response.content.decode()
    assert "hunter2" not in response.content.decode()
    assert "Traceback" not in response.content.decode()
    told = [line for line in logs if line["event"] == "request.failed"]
    assert told[0]["request_id"] == response.error["params"]["request_id"]
    assert response.error["params"]["request_id"] in response.error["what"]


@pytest.mark.parametrize(
    "error", [OperationalError("couldn't get a connection"), InterfaceError("it is closed")]
)
def test_a_database_that_is_busy_or_away_is_503_and_worth_another_try(
    client_of, monkeypatch, error
):
    def fail(*args):
        raise error

    monkeypatch.setattr(entering, "log_in", fail)
    response = client_of().post("/auth/general", {"email": "a@example.org", "password": "x"})
    assert_shape(response, 503, 20009)
    assert response.headers["Retry-After"] == "5"
    assert "Send it again" in response.error["what"]
    assert str(error) not in response.content.decode()


def test_an_error_outside_of_any_view_has_the_same_shape():
    try:
        raise RuntimeError("in a middleware")
    except RuntimeError:
        response = errorshape.server_error(RequestFactory().get("/apiv1/me/apikeys"))
    assert response.status_code == 500
    assert json.loads(response.content)["error"]["code"] == 5017
    assert b"middleware" not in response.content


def test_a_host_name_that_is_not_ours_is_400_in_json(client_of):
    assert_shape(client_of().get("/health", HTTP_HOST="evil.example"), 400, 5000)


def test_pages_for_people_keep_their_own_errors(client_of):
    response = client_of().get("/nothing-here")
    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")


def test_an_accept_header_that_we_cannot_serve_is_no_error(client_of):
    response = client_of().get("/apiv1/permissions/catalog", HTTP_ACCEPT="application/zip")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"


def test_a_401_says_how_to_authenticate(client_of):
    response = client_of().get("/apiv1/me/apikeys")
    assert_shape(response, 401, 5104)
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("token", ["Bearer eyJ.eyJ.x", "Basic eDp5", "ak_x"])
def test_a_credential_that_is_no_api_key_is_named(client_of, token):
    response = client_of().get("/apiv1/me/certificates", HTTP_AUTHORIZATION=token)
    assert_shape(response, 401, 5104)
    assert "Authorization has no API key" in response.error["what"]


def every_refusal():
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ApiError)
    ]


def test_codes_and_keys_are_distinct_where_they_are_ours():
    ours = [
        (kind.code, kind.key)
        for kind in every_refusal()
        if kind.code >= 20000 and kind.code != 999999
    ]
    assert len({code for code, _ in ours}) == len(ours)
    assert len({key for _, key in ours}) == len(ours)


def test_the_root_leads_to_the_sign_in(client_of):
    assert client_of().get("/").headers["Location"] == "/sign-in?next=%2F"


@pytest.mark.parametrize(
    ("exc", "pause"),
    [(Wait(2, "The server is already working on it."), 2), (Wait(0), 1), (LostTurn(), 2)],
)
def test_a_row_that_a_worker_holds_is_503_with_the_time_of_the_next_try(exc, pause):
    response = errorshape.exception_handler(exc, {})
    assert (response.status_code, response.headers["Retry-After"]) == (503, str(pause))
    assert response.data["error"]["what"].endswith(f"Send it again in {pause} seconds.")


NUMBER = {"min_value": 1, "max_value": 9}
TEXT = {"max_length": 3}
LIST = {"max_length": 1, "allow_empty": False}
COMPLAINTS = [
    (serializers.CharField(), ..., "is missing. Add it."),
    (serializers.CharField(), None, "is null. Give a value."),
    (serializers.CharField(), " ", "is empty. Give a value."),
    (serializers.CharField(), [], "is not text. Give a string."),
    (serializers.CharField(**TEXT), "four", "is longer than 3 characters."),
    (serializers.CharField(min_length=2), "a", "is shorter than 2 characters."),
    (serializers.CharField(), "a\0", "has a NUL character. Remove it."),
    (serializers.IntegerField(), "x", "is not a whole number. Give one."),
    (serializers.IntegerField(), "9" * 1001, "is too long for a number. Give a shorter one."),
    (serializers.IntegerField(**NUMBER), 10, "is too large. It is at most 9."),
    (serializers.IntegerField(**NUMBER), 0, "is too small. It is at least 1."),
    (serializers.BooleanField(), 2, "is neither true nor false. Give one of them."),
    (serializers.EmailField(), "x", "is not an e-mail address. Give one: name@example.com."),
    (serializers.JSONField(), object(), "is not JSON. Give a text, a number, or an object."),
    (serializers.ListField(**LIST), {}, "is not a list. Give one: [...]."),
    (serializers.ListField(**LIST), [], "is an empty list. Give one entry or more."),
    (serializers.ListField(**LIST), ["a", "b"], "has more than 1 entries."),
    (serializers.DictField(), [], "is not an object. Give one: {...}."),
    (serializers.Serializer(), [], "is not an object. Give one: {...}."),
    (serializers.DateField(), "x", "is not a day. Give one: 2030-12-31."),
    (
        serializers.DateTimeField(),
        "2030-12-31T23:59:59 02:00",
        "is not a time. Give one: 2030-12-31T23:59:59Z. In a query, write + as %2B.",
    ),
    (
        serializers.DateTimeField(),
        "9999-12-31T23:59:59-12:00",
        "is too early or too late. Give another time.",
    ),
    (serializers.ListField(min_length=1), [], "has too few entries. Give 1 or more."),
]


@pytest.mark.parametrize(("field", "value", "sentence"), COMPLAINTS)
def test_the_name_of_a_wrong_member_begins_the_sentence(field, value, sentence):
    kind = type("Kind", (serializers.Serializer,), {"member": field})
    with pytest.raises(serializers.ValidationError) as refused:
        kind().run_validation({} if value is ... else {"member": value})
    assert errorshape.invalid(refused.value.detail).what == f"member {sentence}"


@pytest.mark.parametrize(("field", "value"), [each[:2] for each in COMPLAINTS])
def test_a_wrong_member_is_explained_in_chinese_in_our_words(field, value):
    kind = type("Kind", (serializers.Serializer,), {"member": field})
    with translation.override("zh-hans"):
        given = {} if value is ... else {"member": value}
        refused = kind(data=given)
        assert not refused.is_valid()
        what = str(errorshape.invalid(refused.errors).what)
    assert re.match(r"member ?[\u4e00-\u9fff]", what)


def test_too_many_requests_are_told_when_to_come_again():
    response = errorshape.exception_handler(Throttled(wait=7.2), {})
    assert response.data["error"]["what"] == "Too many requests. Try again in 8 seconds."
    assert response.headers["Retry-After"] == "8"


def test_an_error_is_in_the_language_that_the_request_accepts(client_of, alice):
    path = "/apiv1/me/apikeys/999"
    plain = client_of(alice).get(path).error
    assert plain["what"] == "You have no API key 999. Check the id."
    chinese = client_of(alice).get(path, HTTP_ACCEPT_LANGUAGE="zh-CN,zh;q=0.9,en;q=0.8").error
    assert chinese["what"] == "您没有编号为 999 的“API 密钥”。请检查编号。"
    assert chinese | {"what": ""} == plain | {"what": ""}
    assert client_of(alice).get(path, HTTP_ACCEPT_LANGUAGE="de").error == plain


def test_the_language_of_a_request_ends_with_it(client_of, alice):
    path = "/apiv1/nothing"
    assert "没有内容" in client_of(alice).get(path, HTTP_ACCEPT_LANGUAGE="zh").error["what"]
    assert client_of(alice).get(path).error["what"].startswith("There is nothing at this path.")


def test_a_serializer_speaks_the_language_of_the_request_too(client_of, alice):
    refused = client_of(alice).post(
        "/apiv1/me/webhooks", {"kinds": ["x"]}, HTTP_ACCEPT_LANGUAGE="zh-Hans"
    )
    assert refused.status_code == 400
    assert re.search(r"[\u4e00-\u9fff]", refused.error["what"])


@pytest.mark.parametrize("query", ["%00=x", "a=x&a=%00&a=x", "a=x&a=%00"])
def test_a_nul_anywhere_in_a_query_is_refused(client_of, alice, query):
    assert_shape(client_of(alice).get(f"/apiv1/me/devices?{query}"), 400, 5000)


def test_notes_and_permissions_are_in_the_language_of_the_request(client_of, alice, world):
    certificate, made = world.create(world.account(alice), world.credential(alice))
    type(made).objects.update(waits_for=sentence("the CA needs no proof"))
    api = client_of(alice)

    def in_chinese(path):
        return api.get(f"/apiv1/{path}", HTTP_ACCEPT_LANGUAGE="zh").data_member

    api.put("/apiv1/me/notice-settings", {"email": "new@example.org"})
    renewed = api.post(
        f"/apiv1/me/certificates/{certificate.pk}/renew",
        {"validity_seconds": 86400},
        HTTP_ACCEPT_LANGUAGE="zh",
    )
    texts = [
        renewed.data_member["note"],
        in_chinese(f"me/certificates/{certificate.pk}")["note"],
        in_chinese(f"me/certificates/{certificate.pk}")["issuance"]["waits_for"],
        in_chinese("me/notice-settings")["note"],
        in_chinese("permissions/catalog")[0]["description"],
    ]
    assert [text for text in texts if not re.search(r"[\u4e00-\u9fff]", text)] == []
