"""Renewal information at a CA (RFC 9773): requests and responses."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from authorities import acme
from authorities.base import RenewalInfoResource
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import Trouble
from tests.authorities.stub import Reply, problem

ARI_ID = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
PATH = f"/renewalInfo/{ARI_ID}"
START = datetime(2030, 3, 1, 4, tzinfo=UTC)
END = datetime(2030, 3, 2, 4, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _offered(stub):
    stub.offers("renewalInfo")


def document(
    start: object = "2030-03-01T04:00:00Z", end: object = "2030-03-02T04:00:00Z", **more: object
) -> dict:
    return {"suggestedWindow": {"start": start, "end": end}, **more}


def answered(ca, stub, *replies: Reply) -> RenewalInfoResource:
    stub.tell(PATH, *replies)
    return ca.renewal_info(ARI_ID)


# --- the window ---


def test_the_window_is_read_without_an_account_and_without_a_signature(stub):
    stub.tell(PATH, Reply(body=document()))
    found = acme.AcmeCA(stub.directory_url, acme.new_account_key()).renewal_info(ARI_ID)
    assert (found.window_start, found.window_end) == (START, END)
    assert stub.paths() == ["GET /dir", f"GET {PATH}"]
    assert stub.asked[-1].protected == {}


def test_the_page_that_explains_and_the_pause_are_kept(ca, stub):
    body = document(explanationURL="https://ca.example/docs/why")
    found = answered(ca, stub, Reply(body=body, headers={"Retry-After": "21600"}))
    assert (found.explanation_url, found.retry_after) == ("https://ca.example/docs/why", 21600.0)


def test_the_pause_may_be_a_date(ca, stub):
    at = format_datetime(clock.now() + timedelta(hours=2), usegmt=True)
    found = answered(ca, stub, Reply(body=document(), headers={"Retry-After": at}))
    assert found.retry_after == pytest.approx(7200, abs=30)


@pytest.mark.parametrize(
    "text",
    [
        "2030-03-01T04:00:00Z",
        "2030-03-01t04:00:00z",
        "2030-03-01T04:00:00.000000000Z",
        "2030-03-01T06:00:00+02:00",
        "2030-02-28T20:30:00.0-07:30",
    ],
)
def test_times_are_read_as_rfc_3339_has_them(ca, stub, text):
    assert answered(ca, stub, Reply(body=document(start=text))).window_start == START


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "//ca.example", 7, "https://ca.example/\x07", "https://" + "x" * 500],
)
def test_a_page_that_is_no_link_is_left_out(ca, stub, link):
    assert answered(ca, stub, Reply(body=document(explanationURL=link))).explanation_url == ""


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"suggestedWindow": None},
        {"suggestedWindow": ["start", "end"]},
        {"suggestedWindow": {"start": "2030-03-01T04:00:00Z"}},
        document(start=5),
        document(start="soon"),
        document(start="2030-03-01"),
        document(start="2030-03-01T04:00:00"),
        document(end="0001-01-01T00:00:00+14:00"),
        document(end="9999-12-31T23:59:59-14:00"),
        document(end="2030-03-01T04:00:00Z"),
        document(end="2029-03-01T04:00:00Z"),
        b"<html>log in first</html>",
    ],
)
def test_an_invalid_window_is_refused_in_a_sentence(ca, stub, body):
    with pytest.raises(Refused, match=r"^The CA at 127\.0\.0\.1:\d+ sent no renewal window"):
        answered(ca, stub, Reply(body=body))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, b"not found"),
        problem("malformed", status=400),
        problem("orderNotReady", status=403),
    ],
)
def test_a_response_that_would_not_change_is_refused(ca, stub, reply):
    with pytest.raises(Refused, match="does not say when to renew"):
        answered(ca, stub, reply)


@pytest.mark.parametrize(
    ("reply", "pause"),
    [
        (Reply(503, b"", {"Retry-After": "90"}), 90.0),
        (problem("serverInternal", status=500), None),
        (problem("rateLimited", status=429, headers={"Retry-After": "600"}), 600.0),
        (Reply(drop=True), None),
    ],
)
def test_a_response_that_may_change_is_trouble(ca, stub, reply, pause):
    with pytest.raises(Trouble) as caught:
        answered(ca, stub, reply)
    assert not isinstance(caught.value, Refused)
    assert caught.value.retry_after == pause


def test_a_certificate_unknown_to_the_ca_does_not_reload_the_directory(ca, stub):
    for _ in range(2):
        with pytest.raises(Refused):
            answered(ca, stub, Reply(404, b"not found"))
    assert stub.paths().count("GET /dir") == 1


# --- who offers it ---


@pytest.mark.parametrize("offered", [None, 7, "", ["https://ca.example"]])
def test_a_directory_that_offers_none_is_no_trouble(ca, stub, offered):
    directory = dict(stub.usual("/dir").body)
    directory.pop("renewalInfo")
    stub.tell(
        "/dir", Reply(body=directory if offered is None else directory | {"renewalInfo": offered})
    )
    assert not ca.offers_renewal_info()
    assert ca.renewal_info(ARI_ID) is None
    assert stub.paths() == ["GET /dir"]


def test_a_slash_at_the_end_of_its_address_is_not_doubled(ca, stub):
    directory = dict(stub.usual("/dir").body)
    stub.tell("/dir", Reply(body=directory | {"renewalInfo": f"{stub.url}/renewalInfo/"}))
    stub.tell(PATH, Reply(body=document()))
    assert ca.renewal_info(ARI_ID)


def test_asking_who_offers_it_reads_the_directory_once(ca, stub):
    assert ca.offers_renewal_info()
    assert ca.offers_renewal_info()
    assert stub.paths() == ["GET /dir"]


# --- replaces ---


def sent(stub) -> dict:
    return next(each.payload for each in reversed(stub.asked) if each.path == "/newOrder")


def test_an_order_says_what_it_replaces(ca, stub):
    ca.new_order(["example.com"], replaces=ARI_ID)
    assert sent(stub) == {
        "identifiers": [{"type": "dns", "value": "example.com"}],
        "replaces": ARI_ID,
    }


def test_an_order_that_replaces_nothing_does_not_say_so(ca, stub):
    ca.new_order(["example.com"])
    assert "replaces" not in sent(stub)


def test_an_already_replaced_certificate_is_refused_in_the_cas_words(ca, stub):
    stub.tell("/newOrder", problem("alreadyReplaced", "Replaced by order 7.", 409))
    with pytest.raises(Refused, match=r"Replaced by order 7\.") as caught:
        ca.new_order(["example.com"], replaces=ARI_ID)
    assert (caught.value.code, caught.value.permanent) == ("ca_already_replaced", False)
