"""A malformed body is refused with a sentence and leaves no row."""

import gzip
import json

import pytest

from accounts.models import ApiKey
from certctrl import errors, jsonbody

GOOD = {
    "name": "ci",
    "expires_in_seconds": 60,
    "permissions": [{"obtype": "devices", "obid": "*", "actions": ["read"]}],
}


def send(client, body):
    return client.generic("POST", "/apiv1/me/apikeys", body, content_type="application/json")


def test_a_good_body_is_taken(client_of, alice):
    assert send(client_of(alice), json.dumps(GOOD)).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "",
        "   ",
        "{'name': 1}",
        '{"name": "a",}',
        '{"name": NaN}',
        '{"name": -Infinity}',
        '{"name": 1e999}',
        '{"name": "a", "name": "b"}',
        '{"permissions": [{"obid": "1", "obid": "*"}]}',
        '{"name": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"a":' * 17 + "1" + "}" * 17,
        b'{"name": "\xff"}',
        '{"name": "a\nb"}',
    ],
)
def test_malformed_json_is_400_and_leaves_no_row(client_of, alice, body):
    response = send(client_of(alice), body)
    assert response.status_code == 400
    assert response.error["code"] == (
        5008 if body == "" else 9000
    )  # nothing at all is an empty object
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("body", ["[]", "null", '"text"', "1", "true", "[1, 2]"])
def test_a_body_that_is_no_object_is_400(client_of, alice, body):
    response = send(client_of(alice), body)
    assert (response.status_code, response.error["code"]) == (400, 5000)
    assert "object" in response.error["what"]


@pytest.mark.parametrize(
    "char", ["\x00", "\x01", "\n", "\t", "\r", "\x1b", "\x7f", "\x85", "\x9f", "\ud800"]
)
def test_a_control_character_is_400_and_the_member_is_named(client_of, alice, char):
    response = send(client_of(alice), json.dumps(GOOD | {"name": f"c{char}i"}))
    assert response.status_code == 400
    assert response.error["params"] == {"field": "name"}
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("member", jsonbody.PEM)
def test_pem_may_come_back_in_lines(member):
    text = "-----BEGIN\r\n\tMIIB\n-----END\n"
    assert jsonbody.read(json.dumps({member: text}).encode()) == {member: text}


@pytest.mark.parametrize(
    "body", [{"cert": "a\x00"}, {"cert\n": "a"}, {"inner": {"cert": "a\n"}}, {"cert": ["a\n"]}]
)
def test_pem_is_a_text_of_its_own_name_without_other_control_characters(body):
    with pytest.raises(errors.Invalid, match="control character"):
        jsonbody.read(json.dumps(body).encode())


@pytest.mark.parametrize("value", ["[]", "{}", '"",1'])
def test_a_crowd_of_values_is_refused_before_it_is_parsed(monkeypatch, value):
    """A megabyte of empty lists took seconds to parse."""
    monkeypatch.setattr(jsonbody, "parse", None)
    body = '{"a": [' + ",".join([value] * (jsonbody.MAX_VALUES // 2 + 1)) + "]}"
    with pytest.raises(errors.MalformedJSON, match=f"more than {jsonbody.MAX_VALUES} "):
        jsonbody.read(body.encode())


def test_a_thousand_names_are_no_crowd():
    body = {"sans": [f"name-{number}.example.com" for number in range(1000)]}
    assert jsonbody.read(json.dumps(body).encode()) == body


def test_a_control_character_deep_inside_is_found(client_of, alice):
    permissions = [{"obtype": "devices", "obid": "\x00", "actions": ["read"]}]
    response = send(client_of(alice), json.dumps(GOOD | {"permissions": permissions}))
    assert response.error["params"] == {"field": "permissions[0].obid"}


def test_a_control_character_in_a_name_is_refused_and_not_repeated(client_of, alice):
    response = send(client_of(alice), json.dumps(GOOD | {"ev\x1bil": 1}))
    assert response.status_code == 400
    assert response.error["params"] == {"field": "ev?il"}


@pytest.mark.parametrize("text", ["héllo", "例え.jp", "a b", "emoji 🙂", "\u00a0", ""])
def test_other_text_is_text(text):
    assert jsonbody.read(json.dumps({"a": text}).encode()) == {"a": text}


def test_the_first_wrong_member_is_named_in_a_sentence(client_of, alice):
    response = client_of(alice).post("/apiv1/me/apikeys", GOOD | {"expires_in_seconds": 0})
    assert response.status_code == 400
    assert response.error["params"] == {"field": "expires_in_seconds"}
    assert response.error["what"].startswith("expires_in_seconds is too small.")


def test_a_missing_member_has_its_own_code(client_of, alice):
    response = client_of(alice).post("/apiv1/me/apikeys", {"name": "ci"})
    assert response.status_code == 400
    assert response.error["code"] == errors.MissingField.code
    assert response.error["params"]["field"] in ("permissions", "expires_in_seconds")


def test_a_wrong_member_inside_a_list_is_named_by_its_path(client_of, alice):
    permissions = [*GOOD["permissions"], {"obtype": "nonsense", "obid": "*", "actions": ["read"]}]
    response = client_of(alice).post("/apiv1/me/apikeys", GOOD | {"permissions": permissions})
    assert response.error["params"] == {"field": "permissions[1].obtype"}


@pytest.mark.parametrize(
    ("given", "said"),
    [("nonsense", '"nonsense"'), (None, "null"), (7, '"7"'), ("n" * 300, "n" * 100 + '"')],
)
def test_a_choice_that_there_is_not_is_answered_with_those_there_are(client_of, alice, given, said):
    permissions = [{"obtype": given, "obid": "*", "actions": ["read"]}]
    what = (
        client_of(alice)
        .post("/apiv1/me/apikeys", GOOD | {"permissions": permissions})
        .error["what"]
    )
    assert said in what
    assert (
        "Give one of ForDeviceAuthenticate, ForInstallConfigUpdate, acme_accounts, audit, cas, "
        "certificates" in what
    )


class Compared(str):
    """A name that counts how often names are compared."""

    __hash__ = str.__hash__
    count = 0

    def __eq__(self, other):
        Compared.count += 1
        return str.__eq__(self, other)


def test_a_duplicate_member_is_found_in_linear_time(monkeypatch):
    monkeypatch.setattr(Compared, "count", 0)
    pairs = [(Compared(number), 0) for number in [*range(2000), 1999]]
    with pytest.raises(errors.MalformedJSON, match="The member 1999 occurs twice"):
        jsonbody.without_duplicates(pairs)
    assert Compared.count < 2 * len(pairs)


@pytest.mark.parametrize(
    "wide",
    [lambda name: {name: ["x"] * 50}, lambda name: {name: {f"n{n}": "x" for n in range(50)}}],
)
def test_a_long_name_is_not_copied_for_each_value_below_it(monkeypatch, wide):
    paths = []
    monkeypatch.setattr(
        jsonbody, "refuse_control_characters", lambda text, path, **_: paths.append(path)
    )
    jsonbody.read(json.dumps(wide("n" * 100_000)).encode())
    assert len(paths) > 50
    assert max(map(len, paths)) <= 250


def test_a_long_path_is_cut_in_the_answer(client_of, alice):
    response = send(client_of(alice), json.dumps(GOOD | {"n" * 1000: ["\x00"]}))
    assert response.error["params"] == {"field": "n" * 100}


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", '; charset="UTF-8"', ";charset=utf8"])
def test_a_byte_order_mark_is_passed_over(client_of, alice, charset):
    body = b"\xef\xbb\xbf" + json.dumps(GOOD | {"name": "bücher"}, ensure_ascii=False).encode()
    answer = client_of(alice).generic(
        "POST", "/apiv1/me/apikeys", body, content_type=f"application/json{charset}"
    )
    assert answer.status_code == 201, answer.content
    assert ApiKey.objects.get().name == "bücher"


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_utf_16_and_utf_32_are_named_in_the_error(client_of, alice, encoding):
    answer = send(client_of(alice), json.dumps(GOOD).encode(encoding))
    assert (answer.status_code, answer.error["code"]) == (400, 9000)
    assert answer.error["what"] == "The body is UTF-16 or UTF-32. Send UTF-8."


@pytest.mark.parametrize("charset", ["utf-16", "iso-8859-1", "windows-1252", "no-such", "x" * 90])
def test_another_charset_is_415_with_its_name(client_of, alice, charset):
    content_type = f"application/json; charset={charset}"
    answer = client_of(alice).generic(
        "POST", "/apiv1/me/apikeys", json.dumps(GOOD), content_type=content_type
    )
    assert (answer.status_code, answer.error["code"]) == (415, 20008)
    assert charset[:100] in answer.error["what"]
    assert len(answer.error["what"]) < 300
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "X-GZIP"])
@pytest.mark.parametrize("path", ["/apiv1/me/apikeys", "/auth"])
def test_a_compressed_body_is_415(client_of, alice, coding, path):
    body = gzip.compress(json.dumps(GOOD).encode())
    answer = client_of(alice).generic(
        "POST", path, body, content_type="application/json", HTTP_CONTENT_ENCODING=coding
    )
    assert (answer.status_code, answer.error["code"]) == (415, 20008)
    assert "compressed" in answer.error["what"]


def test_a_compressed_body_is_refused_with_the_advice_to_send_it_plain(client_of, alice):
    answer = send(client_of(alice), gzip.compress(json.dumps(GOOD).encode()))
    assert (answer.status_code, answer.error["code"]) == (400, 9000)
    assert "uncompressed" in answer.error["what"]


def test_identity_is_no_encoding(client_of, alice):
    answer = client_of(alice).generic(
        "POST",
        "/apiv1/me/apikeys",
        json.dumps(GOOD),
        content_type="application/json",
        HTTP_CONTENT_ENCODING="identity",
    )
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "a member's name, in double quotes, is missing"),
        ('{"a" 1}', "a colon is missing"),
        ('{"a": 1 "b": 2}', "a comma or a closing bracket is missing"),
        ('{"a":}', "a value is missing"),
        ("", "a value is missing"),
        ('{"a": "x', "no closing quote for the string that begins"),
        (r'{"a": "\q"}', "a string holds an unknown escape"),
        (r'{"a": "\u12"}', "a string holds an unknown escape"),
        ('{"a": "\n"}', "a string holds a line break"),
        ("{} x", "there is text after the end"),
        ("\ufeff\ufeff{}", "there is a second byte order mark"),
    ],
)
def test_a_json_error_is_explained_in_plain_words_with_its_place(body, words):
    with pytest.raises(errors.MalformedJSON) as refused:
        jsonbody.read(body.encode())
    assert words in refused.value.what
    assert " at line " in refused.value.what
    for theirs in ("Expecting", "delimiter", "utf-8-sig", "Extra data", "decode"):
        assert theirs not in refused.value.what
