"""A body over 1 MiB is 413, with a length or in chunks, and an endless body is cut off.

A client without a valid credential has 64 KiB.
"""

import asyncio
import json

import pytest
from django.db import OperationalError

from accounts.authentication import is_known
from certctrl import errors, jsonbody
from certctrl.bodylimit import DRAIN, STRANGERS, BodyLimit
from tests import factories

MIB = 1024 * 1024


@pytest.mark.parametrize("length", [MIB + 1, 5 * MIB])
def test_a_long_body_is_413(client_of, alice, length):
    body = json.dumps({"name": "x" * (length - 12)})
    assert len(body) >= length
    response = client_of(alice).generic(
        "POST", "/apiv1/me/apikeys", body, content_type="application/json"
    )
    assert (response.status_code, response.error["code"]) == (413, errors.TooLarge.code)


def test_a_body_of_just_1_mib_is_read():
    body = b'{"a": "' + b"x" * (MIB - 9) + b'"}'
    assert len(body) == MIB
    assert len(jsonbody.read(body)["a"]) == MIB - 9
    with pytest.raises(errors.TooLarge):
        jsonbody.read(body + b" ")


class Inner:
    """An application that reads its whole body and keeps it."""

    body = None
    headers = ()

    async def __call__(self, scope, receive, send):
        self.headers = dict(scope["headers"])
        message = await receive()
        self.body = message["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def run(inner, chunks, headers=(), is_known=lambda scope: True):
    """Send the chunks. Return the status, the parsed body, and how many chunks were read."""
    sent = []
    taken = []

    async def receive():
        taken.append(chunks[len(taken)])
        return {"type": "http.request", "body": taken[-1], "more_body": len(taken) < len(chunks)}

    async def send(message):
        sent.append(message)

    asyncio.run(
        BodyLimit(inner, is_known)({"type": "http", "headers": list(headers)}, receive, send)
    )
    body = sent[1]["body"]
    return sent[0]["status"], json.loads(body) if body else None, len(taken)


def test_a_chunked_body_reaches_the_application_with_its_length():
    inner = Inner()
    assert run(inner, [b'{"a"', b": 1", b"}"])[0] == 200
    assert inner.body == b'{"a": 1}'
    assert inner.headers[b"content-length"] == b"8"


def test_a_chunked_body_over_the_limit_is_read_on_and_refused_with_413():
    inner = Inner()
    status, body, taken = run(inner, [b"x" * 65536] * 40)
    assert (status, body["error"]["code"]) == (413, errors.TooLarge.code)
    assert taken == 40  # a client that is still sending would not read the answer
    assert inner.body is None


def test_a_last_chunk_that_goes_over_the_limit_is_not_waited_after():
    assert run(Inner(), [b"x" * (MIB + 1)])[::2] == (413, 1)


def test_a_body_without_end_is_cut_off():
    status, _, taken = run(Inner(), [b"x" * 65536] * 2000)
    assert status == 413
    assert taken == 17 + DRAIN // 65536


def test_the_error_is_sent_before_the_rest_of_the_body_is_read():
    order = []

    async def receive():
        order.append("read")
        return {"type": "http.request", "body": b"x" * MIB, "more_body": order.count("read") < 4}

    async def send(message):
        order.append(message.get("body", b"") and "sent")

    asyncio.run(
        BodyLimit(Inner(), lambda scope: True)({"type": "http", "headers": []}, receive, send)
    )
    assert [each for each in order if each] == ["read", "read", "sent", "read", "read"]


def test_a_length_over_the_limit_is_refused_before_the_body_is_sent():
    headers = [(b"content-length", str(MIB + 1).encode()), (b"expect", b"100-continue")]
    status, _, taken = run(Inner(), [b"x"], headers=headers)
    assert (status, taken) == (413, 0)


def test_a_length_over_the_limit_is_refused_whatever_is_sent():
    status, _, taken = run(Inner(), [b"x"], headers=[(b"content-length", str(MIB + 1).encode())])
    assert (status, taken) == (413, 1)


def test_a_wrong_length_is_corrected():
    inner = Inner()
    run(inner, [b"{}"], headers=[(b"content-length", b"1")])
    assert inner.headers[b"content-length"] == b"2"


def test_a_request_without_a_body_stays_without_a_length():
    inner = Inner()
    run(inner, [b""])
    assert b"content-length" not in inner.headers


def test_a_client_that_goes_away_is_passed_on():
    seen = []

    async def inner(scope, receive, send):
        seen.append(await receive())

    async def receive():
        return {"type": "http.disconnect"}

    asyncio.run(
        BodyLimit(inner, lambda scope: True)({"type": "http", "headers": []}, receive, None)
    )
    assert seen == [{"type": "http.disconnect"}]


def nobody(scope):
    return False


def unasked(scope):
    raise AssertionError("asked about a small body")


def broken(scope):
    raise OperationalError("away")


def test_a_body_of_login_size_is_accepted_without_authentication():
    assert run(Inner(), [b"x" * STRANGERS], is_known=unasked)[0] == 200


@pytest.mark.parametrize(
    "headers", [[], [(b"content-length", b"65537")]], ids=["in chunks", "with its length"]
)
def test_more_of_a_stranger_is_413_and_says_what_would_help(headers):
    inner = Inner()
    status, body, _ = run(inner, [b"x" * STRANGERS, b"x"], headers, nobody)
    assert (status, body["error"]["code"]) == (413, errors.TooLarge.code)
    assert "65536 bytes" in body["error"]["what"]
    assert "API key" in body["error"]["what"]
    assert inner.body is None


def test_more_of_a_known_client_is_taken():
    assert run(Inner(), [b"x" * STRANGERS] * 16)[0] == 200


def test_a_database_that_is_away_is_503_and_not_a_word_on_the_size():
    status, body, _ = run(Inner(), [b"x" * STRANGERS, b"x"], is_known=broken)
    assert (status, body["error"]["code"]) == (503, errors.Unavailable.code)


def scope_with(**headers):
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": named}


@pytest.mark.django_db(transaction=True)
def test_a_valid_key_and_a_valid_session_are_known_and_no_others(client_of, alice):
    token = factories.api_key(alice, "certificates:*[read]")
    session = client_of(alice).cookies["cjj365"].value
    assert is_known(scope_with(authorization=f"Bearer {token}"))
    assert is_known(scope_with(cookie=f"cjj365={session}"))
    for headers in (
        {},
        {"authorization": "Bearer ak_unknown"},
        {"cookie": "cjj365=unknown"},
        {"authorization": "Basic eA=="},
    ):
        assert not is_known(scope_with(**headers))
    alice.is_active = False
    alice.save()
    assert not is_known(scope_with(authorization=f"Bearer {token}"))
    assert not is_known(scope_with(cookie=f"cjj365={session}"))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_length_over_the_limit_is_refused_with_the_limit_of_this_client(is_known):
    headers = [(b"content-length", str(MIB + 1).encode())]
    _, body, _ = run(Inner(), [b"x"], headers, lambda scope: is_known)
    limit = MIB if is_known else STRANGERS
    assert body["error"]["what"].startswith(f"The body is larger than {limit} bytes")
