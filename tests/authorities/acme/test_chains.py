"""Profiles (draft-ietf-acme-profiles) and alternate chains (RFC 8555, section 7.4.2)."""

from datetime import timedelta

import pytest

from authorities import pki
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import Trouble
from tests.authorities.stub import Reply, problem
from tests.fakes.ca import sign, under

LIFE = timedelta(days=90)


@pytest.fixture
def default() -> str:
    return sign(pki.csr(pki.new_key("ecdsa", 256), ["example.com"]), LIFE)


def directory(stub, **meta) -> None:
    stub.tell("/dir", Reply(body=stub.usual("/dir").body | {"meta": meta}))


def chain(pem: str, *alternates: str) -> Reply:
    links = [f'<{each}>;rel="alternate"' for each in alternates]
    return Reply(
        body=pem.encode(),
        headers={"Link": ", ".join(['<https://ca.test/dir>;rel="index"', *links])},
    )


def asked_for(stub, path: str) -> list:
    return [each for each in stub.asked if each.path.startswith(path)]


# --- profiles ---


def test_the_directory_says_which_profiles_there_are(ca, stub):
    directory(
        stub,
        profiles={"classic": "https://ca.test/classic", "shortlived": "six days"},
        website="https://ca.test",
    )
    assert ca.profiles() == {"classic": "https://ca.test/classic", "shortlived": "six days"}


@pytest.mark.parametrize("profiles", [None, [], "classic", 7])
def test_a_directory_without_profiles_lists_none(ca, stub, profiles):
    directory(stub, profiles=profiles)
    assert ca.profiles() == {}


def test_a_directory_without_meta_lists_none(ca):
    assert ca.profiles() == {}


def test_a_profile_travels_in_the_order(ca, stub):
    ca.new_order(["example.com"], profile="shortlived")
    assert asked_for(stub, "/newOrder")[0].payload == {
        "identifiers": [{"type": "dns", "value": "example.com"}],
        "profile": "shortlived",
    }


def test_without_a_profile_the_order_has_no_such_member(ca, stub):
    ca.new_order(["example.com"])
    assert "profile" not in asked_for(stub, "/newOrder")[0].payload


def test_a_profile_that_the_ca_refuses_is_for_a_person(ca, stub):
    stub.tell("/newOrder", problem("invalidProfile", "Not for this account."))
    with pytest.raises(Refused, match="Not for this account") as caught:
        ca.new_order(["example.com"], profile="shortlived")
    assert (caught.value.code, caught.value.permanent) == ("ca_invalid_profile", True)


# --- chains ---


def test_the_alternate_with_the_issuer_is_fetched_by_post_as_get(ca, stub, default):
    stub.tell("/cert/1", chain(default, f"{stub.url}/cert/1/1", "/cert/1/2"))
    stub.tell("/cert/1/1", chain(under(default, "Root X2")))
    wanted = under(default, "Root YE")
    stub.tell("/cert/1/2", chain(wanted))
    assert ca.download(f"{stub.url}/cert/1", preferred_chain="Root YE") == wanted
    asked = asked_for(stub, "/cert/1")
    assert [(each.method, each.path, each.payload) for each in asked] == [
        ("POST", "/cert/1", None),
        ("POST", "/cert/1/1", None),
        ("POST", "/cert/1/2", None),
    ]
    assert {each.headers["accept"] for each in asked} == {"application/pem-certificate-chain"}


def test_an_alternate_is_not_fetched_when_the_default_chain_will_do(ca, stub, default):
    for preferred in ("", "fake CA"):
        stub.tell("/cert/1", chain(default, f"{stub.url}/cert/1/1"))
        assert ca.download(f"{stub.url}/cert/1", preferred_chain=preferred) == default
    assert asked_for(stub, "/cert/1/1") == []


def test_five_alternates_are_fetched_and_no_more(ca, stub, default):
    stub.tell("/cert/1", chain(default, *[f"/cert/1/{n}" for n in range(9)]))
    for n in range(9):
        stub.tell(f"/cert/1/{n}", chain(under(default, f"Root {n}")))
    assert ca.download(f"{stub.url}/cert/1", preferred_chain="Root 7") == default
    assert len(asked_for(stub, "/cert/1/")) == 5


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, b"gone"),
        Reply(503, b"later"),
        Reply(body=b"<html>"),
        Reply(body=b"-----BEGIN CERTIFICATE-----\nAA==\n"),
        Reply(drop=True),
        problem("orderNotReady", status=403),
        problem("rateLimited", status=429),
    ],
    ids=["404", "503", "HTML", "no chain", "dropped", "not ready", "limited"],
)
def test_an_alternate_that_cannot_be_had_is_no_reason_to_fail(ca, stub, default, reply):
    stub.tell("/cert/1", chain(default, "/cert/1/1", "/cert/1/2"))
    stub.tell("/cert/1/1", reply)
    wanted = under(default, "Root YE")
    stub.tell("/cert/1/2", chain(wanted))
    assert ca.download(f"{stub.url}/cert/1", preferred_chain="Root YE") == wanted


def test_a_default_that_cannot_be_had_is_trouble(ca, stub):
    stub.tell("/cert/1", Reply(503, b"later"))
    with pytest.raises(Trouble):
        ca.download(f"{stub.url}/cert/1", preferred_chain="Root YE")


def test_when_the_turn_is_over_the_default_is_taken(ca, stub, default, monkeypatch):
    """A chain in hand is worth more than a possible better one."""
    stub.tell("/cert/1", chain(default, "/cert/1/1"))
    stub.tell("/cert/1/1", chain(under(default, "Root YE")))
    ask = ca.network.ask
    with clock.limit(5):

        def slowly(*args, **kwargs):
            response = ask(*args, **kwargs)
            now = clock.monotonic()
            monkeypatch.setattr(clock, "monotonic", lambda: now + 60)
            return response

        monkeypatch.setattr(ca.network, "ask", slowly)
        assert ca.download(f"{stub.url}/cert/1", preferred_chain="Root YE") == default
    assert asked_for(stub, "/cert/1/1") == []
