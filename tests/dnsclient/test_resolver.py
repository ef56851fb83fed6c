"""A challenge's record is written where its CNAMEs lead. Those of wildcards are not followed."""

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import dns.rdatatype
import pytest

from certctrl import clock
from certctrl.turns import Trouble
from dnsclient import cnames, queries, resolver
from lab.nameserver import NameServer
from tests.fakes.internet import NS1, RESOLVER, internet, zone


def final_name(name: str) -> str:
    """Return where the CNAMEs of the name's challenge end. Raise its Trouble."""
    path = cnames.follow([name], clock.time_left())[name]
    if path.trouble:
        raise path.trouble
    return path.final


@pytest.fixture
def world(settings: Any) -> Iterator[NameServer]:
    with internet(
        settings, {"example.com": zone(ns1=NS1), "auth.example.net": zone(ns1=NS1)}
    ) as server:
        yield server


def test_a_name_without_a_cname_is_its_own_place(world: NameServer) -> None:
    assert final_name("example.com") == "_acme-challenge.example.com"
    assert final_name("_acme-challenge.Example.COM.") == "_acme-challenge.example.com"


def test_a_name_that_exists_without_a_cname_is_its_own_place(world: NameServer) -> None:
    world.add("_acme-challenge.example.com", "TXT", "older")
    assert final_name("example.com") == "_acme-challenge.example.com"


def test_a_chain_of_cnames_is_followed_to_its_end(world: NameServer) -> None:
    world.add("_acme-challenge.www.example.com", "CNAME", "One.auth.example.net.")
    world.add("one.auth.example.net", "CNAME", "two.auth.example.net.")
    assert final_name("www.example.com") == "two.auth.example.net"


def test_a_wildcards_cname_is_not_followed(world: NameServer) -> None:
    world.add("*.example.com", "CNAME", "www.auth.example.net.")
    assert final_name("example.com") == "_acme-challenge.example.com"
    assert final_name("deep.below.example.com") == "_acme-challenge.deep.below.example.com"


def test_a_challenges_own_cname_is_followed_beside_a_wildcard(world: NameServer) -> None:
    world.add("*.example.com", "CNAME", "www.auth.example.net.")
    world.add("_acme-challenge.example.com", "CNAME", "mine.auth.example.net.")
    assert final_name("example.com") == "mine.auth.example.net"


def test_a_wildcard_where_the_cname_leads_is_not_followed_further(world: NameServer) -> None:
    world.add("_acme-challenge.example.com", "CNAME", "mine.auth.example.net.")
    world.add("*.auth.example.net", "CNAME", "www.example.com.")
    assert final_name("example.com") == "mine.auth.example.net"


def test_a_wildcard_address_is_no_cname(world: NameServer) -> None:
    world.add("*.example.com", "A", "192.0.2.1")
    assert final_name("example.com") == "_acme-challenge.example.com"


def test_cnames_in_a_circle_are_reported(world: NameServer) -> None:
    world.add("_acme-challenge.example.com", "CNAME", "one.auth.example.net.")
    world.add("one.auth.example.net", "CNAME", "_acme-challenge.example.com.")
    with pytest.raises(Trouble) as caught:
        final_name("example.com")
    assert (caught.value.code, caught.value.permanent) == ("dns_cname_loop", False)
    assert "_acme-challenge.example.com → one.auth.example.net" in caught.value.what
    assert [kind for _, _, kind in world.seen].count("CNAME") == 4  # each and its sibling, once


def test_a_cname_to_one_of_the_longest_names_is_followed(world: NameServer) -> None:
    longest = f"{'.'.join(['x' * 60] * 3)}.{'y' * 49}.auth.example.net"
    assert len(f"a.{longest}") == 251
    world.add("_acme-challenge.example.com", "CNAME", f"a.{longest}.")
    world.add(f"a.{longest}", "CNAME", "mine.auth.example.net.")
    assert final_name("example.com") == "mine.auth.example.net"


@pytest.mark.parametrize(("hops", "is_followed"), [(10, True), (11, False)])
def test_ten_cnames_are_followed_and_no_more(
    world: NameServer, hops: int, is_followed: bool
) -> None:
    names = [
        "_acme-challenge.example.com",
        *(f"hop{number}.auth.example.net" for number in range(hops)),
    ]
    for name, target in itertools.pairwise(names):
        world.add(name, "CNAME", f"{target}.")
    if is_followed:
        assert final_name("example.com") == names[-1]
    else:
        with pytest.raises(Trouble, match="more than 10"):
            final_name("example.com")


def test_a_cname_to_a_strange_name_is_not_written_at(world: NameServer) -> None:
    world.add("_acme-challenge.example.com", "CNAME", r"semi\;colon.example.net.")
    with pytest.raises(Trouble, match="can have no TXT record"):
        final_name("example.com")


@pytest.mark.parametrize(
    ("switch", "said"), [("fails", "answered SERVFAIL"), ("silent", "did not answer")]
)
def test_a_failing_resolver_is_reported_with_the_name_and_what_to_do(
    world: NameServer, switch: str, said: str
) -> None:
    setattr(world.at(RESOLVER), switch, True)
    with pytest.raises(Trouble) as caught:
        final_name("example.com")
    assert caught.value.code == "dns_lookup_failed"
    assert not caught.value.permanent
    for part in ("_acme-challenge.example.com", said, RESOLVER, "DNS_RESOLVERS"):
        assert part in caught.value.what


def test_no_resolver_is_asked_for_a_name_that_is_to_come(world: NameServer) -> None:
    """A resolver would cache the negative answer until after the record exists (RFC 2308)."""
    world.add("_acme-challenge.example.com", "CNAME", "mine.auth.example.net.")
    assert final_name("example.com") == "mine.auth.example.net"
    assert resolver.servers_of("mine.auth.example.net").zone == "auth.example.net"
    assert resolver.servers_of("_acme-challenge.www.example.com").zone == "example.com"
    by_resolver = {name for address, name, _ in world.seen if address == RESOLVER}
    assert by_resolver == {
        "example.com",
        "auth.example.net",
        "www.example.com",
        "ns1.example.com",
        "ns1.auth.example.net",
    }


def test_resolvers_are_asked_where_no_server_can_be_reached(world: NameServer) -> None:
    world.add("_acme-challenge.example.com", "CNAME", "mine.auth.example.net.")
    world.at(NS1).silent = True
    assert final_name("example.com") == "mine.auth.example.net"
    world.seen.clear()
    assert final_name("example.com") == "mine.auth.example.net"
    assert NS1 not in {address for address, _, _ in world.seen}, (
        "and the silent are left alone for a minute"
    )


@pytest.mark.parametrize(("seconds", "is_asked"), [(0.4, True), (4.0, False)])
def test_a_zone_is_deaf_only_after_a_wait_of_a_quarter_second(
    world: NameServer, seconds: float, is_asked: bool
) -> None:
    question = ("_acme-challenge.example.com", dns.rdatatype.CNAME)
    resolver.ask_holders([question], clock.monotonic() + 20)  # finds the servers of the zone
    world.at(NS1).silent = True
    resolver.ask_holders([question], clock.monotonic() + seconds)
    world.at(NS1).silent = False
    world.seen.clear()
    resolver.ask_holders([question], clock.monotonic() + 20)
    assert (NS1 in {address for address, _, _ in world.seen}) == is_asked


def test_a_zone_is_not_deaf_when_no_question_was_sent(
    world: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = ("_acme-challenge.example.com", dns.rdatatype.CNAME)
    resolver.ask_holders([question], clock.monotonic() + 20)
    with monkeypatch.context() as patch:
        patch.setattr(queries._Batch, "_channel", lambda batch, family: None)
        resolver.ask_holders([question], clock.monotonic() + 4)
    world.seen.clear()
    resolver.ask_holders([question], clock.monotonic() + 20)
    assert NS1 in {address for address, _, _ in world.seen}


def test_the_next_resolver_is_asked_when_the_first_one_fails(
    world: NameServer, settings: Any
) -> None:
    world.add("_acme-challenge.example.com", "CNAME", "mine.auth.example.net.")
    world.at(RESOLVER).fails = True
    settings.DNS_RESOLVERS = [RESOLVER, f"{NS1}:{world.port}", f"[::1]:{world.port}"]
    assert final_name("example.com") == "mine.auth.example.net"


@pytest.mark.parametrize(
    "place", ["::1", "[::1]", "[::1]:{port}", "127.0.0.2:{port}", " 127.0.0.2 "]
)
def test_resolvers_may_be_written_in_every_usual_way(
    world: NameServer, settings: Any, place: str
) -> None:
    settings.DNS_RESOLVERS = [place.format(port=world.port)]
    assert final_name("example.com") == "_acme-challenge.example.com"


def test_a_link_local_resolver_is_asked_at_its_interface(settings: Any) -> None:
    settings.DNS_RESOLVERS = ["fe80::1%lo", "[fe80::2%lo]:5353"]
    settings.DNS_PORT = 53
    lo = socket.if_nametoindex("lo")
    assert resolver.resolvers() == [("fe80::1", 53, 0, lo), ("fe80::2", 5353, 0, lo)]
    settings.DNS_RESOLVERS = ["fe80::1%nosuch0"]
    with pytest.raises(Trouble, match="Set DNS_RESOLVERS"):
        resolver.resolvers()


def test_a_resolver_that_is_not_an_address_is_reported(world: NameServer, settings: Any) -> None:
    settings.DNS_RESOLVERS = ["dns.example.com"]
    with pytest.raises(Trouble, match="set DNS_RESOLVERS"):
        final_name("example.com")


def test_the_small_internet_puts_everything_back_after_an_error(settings: Any) -> None:
    def fail() -> None:
        with internet(settings, {"example.com": zone(ns1=NS1)}, patience=0.1):
            resolver.servers_of("example.com")
            raise RuntimeError

    before = queries.PATIENCE
    with pytest.raises(RuntimeError):
        fail()
    after = queries.PATIENCE
    assert after == before
    assert not resolver._zones._kept
