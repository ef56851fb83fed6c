"""The servers of a name are the servers of the zone that contains it."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from dns import rdatatype

from certctrl import clock
from certctrl.turns import Trouble
from dnsclient import cnames, queries, resolver
from dnsproviders import propagation
from dnsproviders.propagation import servers_of
from lab.nameserver import NameServer
from tests.fakes.internet import (
    CHALLENGE,
    NOBODY,
    NS1,
    NS2,
    NS3,
    NS6,
    RESOLVER,
    VALUE,
    internet,
    record,
    silence,
    zone,
)


@pytest.fixture
def world(settings: Any) -> Iterator[NameServer]:
    zones = {
        "example.com": zone(ns1=NS1, ns2=[NS2, NS6]),
        "deep.example.com": zone(ns1=NS3),
        "_acme-challenge.delegated.example.com": zone(ns1=NS3),
        "hosted.test": zone().replace("@ 60 A", "@ 60 NS ns1.example.com.\n@ 60 A"),
    }
    with internet(settings, zones) as server:
        server.add("deep.example.com", "NS", "ns1.deep.example.com.")
        yield server


def found(name: str) -> tuple[str, list[str]]:
    servers = servers_of(name)
    return servers.zone, [server.at[0] for server in servers.servers]


def test_the_servers_are_those_of_the_nearest_zone_above(world: NameServer) -> None:
    assert found("_acme-challenge.www.example.com") == ("example.com", [NS1, NS2, NS6])


def test_a_zone_cut_on_the_way_down_is_seen(world: NameServer) -> None:
    assert found("_acme-challenge.www.deep.example.com") == ("deep.example.com", [NS3])


def test_a_challenge_label_that_is_delegated_is_a_zone_of_its_own(world: NameServer) -> None:
    assert found("_acme-challenge.delegated.example.com") == (
        "_acme-challenge.delegated.example.com",
        [NS3],
    )
    name = "_acme-challenge.delegated.example.com"
    world.add(name, "TXT", VALUE)
    world.seen.clear()
    assert propagation.look([record(name)], 5)[1].shown == 1
    assert {address for address, _, kind in world.seen if kind == "TXT"} == {NS3}


def test_servers_in_another_zone_are_found(world: NameServer) -> None:
    assert found("_acme-challenge.hosted.test") == ("hosted.test", [NS1])


def test_a_wildcard_cname_over_the_name_does_not_hide_the_zone(world: NameServer) -> None:
    world.add("*.example.com", "CNAME", "www.hosted.test.")
    assert found("_acme-challenge.example.com")[0] == "example.com"
    world.add(
        "*.deep.example.com", "CNAME", "www2.example.com."
    )  # whose SOA is one above, and the wrong one
    assert found("_acme-challenge.deep.example.com")[0] == "deep.example.com"


def test_a_resolver_without_authority_section_is_asked_for_each_parent(
    world: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = resolver._reply

    def stripped(*args: Any) -> Any:
        message = reply(*args)
        if not isinstance(message, str):
            message.authority = []
        return message

    monkeypatch.setattr(resolver, "_reply", stripped)
    assert found("_acme-challenge.www.deep.example.com") == ("deep.example.com", [NS3])


def test_a_name_in_no_zone_is_reported(world: NameServer) -> None:
    with pytest.raises(
        Trouble, match=r"The zone of _acme-challenge\.example\.org could not be found"
    ) as caught:
        servers_of("_acme-challenge.example.org")
    assert (caught.value.code, caught.value.permanent) == ("dns_lookup_failed", False)


def test_a_server_without_an_address_is_reported(world: NameServer) -> None:
    world.add("example.com", "NS", "gone.example.com.")
    assert servers_of(CHALLENGE).skipped == ("gone.example.com (no address)",)


def test_the_next_server_is_asked_for_a_future_name_after_a_silent_one(
    world: NameServer,
) -> None:
    world.at(NS1).silent = True
    assert found("_acme-challenge.www.example.com")[0] == "example.com"
    asked = {
        address for address, name, _ in world.seen if name == "_acme-challenge.www.example.com"
    }
    assert NS2 in asked
    assert RESOLVER not in asked


def test_answers_without_authority_do_not_count_for_a_future_name(
    world: NameServer,
) -> None:
    """A server that refers to the servers of a delegated name gives such answers."""
    for address in (NS1, NS2, NS6):
        world.at(address).without_aa = True
    assert found("_acme-challenge.www.example.com")[0] == "example.com"
    assert RESOLVER in {
        address for address, name, _ in world.seen if name == "_acme-challenge.www.example.com"
    }


def test_a_silent_resolver_is_asked_in_one_look_and_not_in_the_next(
    world: NameServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "PATIENCE", 0.3)
    with silence() as silent:
        settings.DNS_RESOLVERS = [f"{NOBODY}:{silent.port}", RESOLVER]
        assert servers_of("_acme-challenge.example.com").servers
        assert silent.heard()
        assert servers_of("_acme-challenge.deep.example.com").servers
        assert not silent.heard()


def test_servers_of_unknown_address_do_not_count_as_no_servers(
    world: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = resolver.resolve

    def lose_addresses(questions: Any, seconds: float) -> Any:
        replies = resolve(questions, seconds)
        return {
            each: "the resolver did not answer" if each[1] in resolver.ADDRESSES else replies[each]
            for each in replies
        }

    with monkeypatch.context() as patch:
        patch.setattr(resolver, "resolve", lose_addresses)
        with pytest.raises(
            Trouble, match=r"addresses of the name servers of .* could not be found"
        ):
            servers_of(CHALLENGE)
    assert servers_of(CHALLENGE).servers, "and it is not kept"


def test_of_a_zone_with_too_many_servers_some_of_each_host_are_asked(settings: Any) -> None:
    many = {f"ns{host}": [f"127.0.{host}.{each}" for each in range(1, 21)] for host in range(1, 5)}
    with internet(settings, {"example.com": zone(**many)}):
        servers = servers_of(CHALLENGE).servers
    assert len(servers) == resolver.MOST_ADDRESSES == 13
    assert Counter(server.name for server in servers) == {
        "ns1.example.com": 4,
        "ns2.example.com": 3,
        "ns3.example.com": 3,
        "ns4.example.com": 3,
    }


def test_a_zone_with_100_servers_costs_as_many_lookups_as_one_with_13(
    settings: Any,
) -> None:
    many = {f"ns{host}": NS1 for host in range(100)}
    with internet(settings, {"example.com": zone(**many)}) as world:
        servers_of(CHALLENGE)
        assert len([kind for _, _, kind in world.seen if kind in ("A", "AAAA")]) == 2 * 13


def test_servers_are_looked_for_in_the_order_of_the_names(world: NameServer) -> None:
    names = [
        "_acme-challenge.www.example.com",
        "_acme-challenge.deep.example.com",
        "_acme-challenge.b.example.com",
    ]
    resolver.servers_of_all(names, 5)
    asked = [(address, name) for address, name, kind in world.seen if kind == "SOA"]
    assert asked[:3] == [(RESOLVER, resolver.above(name)) for name in names]


@pytest.mark.parametrize(
    ("seconds", "asked_again"),
    [(59, set()), (61, {"NS", "A", "AAAA"}), (301, {"SOA", "NS", "A", "AAAA"})],
)
def test_servers_are_kept_for_a_minute_and_the_zone_of_a_name_for_five(
    world: NameServer, monkeypatch: pytest.MonkeyPatch, seconds: int, asked_again: set[str]
) -> None:
    servers_of(CHALLENGE)
    world.seen.clear()
    later = clock.monotonic() + seconds
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    servers_of(CHALLENGE)
    assert {kind for _, _, kind in world.seen} == asked_again


def test_a_fresh_lookup_bypasses_the_cache(world: NameServer) -> None:
    servers_of(CHALLENGE)
    world.seen.clear()
    resolver.servers_of_all(iter([CHALLENGE]), 5, since=clock.monotonic())
    assert {kind for _, _, kind in world.seen} == {"SOA"}


def test_the_zone_is_learned_from_an_answer_without_records(world: NameServer) -> None:
    resolver.resolve([("www.example.com", rdatatype.CAA)], 5)
    cnames.follow(["www.example.com"], 5)
    world.seen.clear()
    assert found("_acme-challenge.www.example.com") == ("example.com", [NS1, NS2, NS6])
    assert not [kind for _, _, kind in world.seen if kind == "SOA"]


def test_a_zone_that_was_learned_before_is_looked_up_again(world: NameServer) -> None:
    cnames.follow(["www.example.com"], 5)
    world.seen.clear()
    since = clock.monotonic()
    resolver.servers_of_all(["_acme-challenge.www.example.com"], 5, since=since)
    assert [kind for _, _, kind in world.seen] == ["SOA"]


def test_a_delegated_label_is_not_learned_from_the_zone_above(world: NameServer) -> None:
    cnames.follow(["delegated.example.com"], 5)
    assert found("_acme-challenge.delegated.example.com")[1] == [NS3]


def test_other_resolvers_are_another_truth(world: NameServer, settings: Any) -> None:
    servers_of(CHALLENGE)
    settings.DNS_RESOLVERS = [NS1]
    world.seen.clear()
    servers_of(CHALLENGE)
    assert {address for address, _, _ in world.seen} == {NS1}


def test_another_guard_is_another_truth(world: NameServer, settings: Any) -> None:
    assert servers_of(CHALLENGE).servers
    settings.ALLOW_PRIVATE = []
    assert not servers_of(CHALLENGE).servers


def test_the_cache_is_bounded(world: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "KEPT", 5)
    for number in range(8):
        servers_of(f"_acme-challenge.host{number}.example.com")
    assert len(resolver._zones._kept) == 5


def test_threads_may_ask_at_once(world: NameServer) -> None:
    names = [f"_acme-challenge.host{number}.example.com" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert {each.zone for each in pool.map(servers_of, names)} == {"example.com"}
    assert RESOLVER in {address for address, _, _ in world.seen}
