"""A survey reads CNAME chains, CAA records, servers, and the cause of a SERVFAIL."""

from collections.abc import Iterator
from typing import Any

import dns.rdatatype
import pytest

from certctrl import clock
from dnsclient import cnames, queries, survey
from dnsclient.diagnosis import Doubt, Fault, doubts
from dnsclient.nameservers import zones_of
from dnsclient.queries import Query
from dnsclient.survey import Unanswered, Zone
from lab.nameserver import NameServer
from tests.fakes.internet import CHALLENGE, NS1, NS2, NS3, RESOLVER, internet, zone

SOA = dns.rdatatype.SOA
OTHER = NS3  # another resolver
ZONES = {
    "com": zone(ns1=NS1)
    + f"dead 60 NS ns1.dead\ndead 60 NS ns.elsewhere.net.\nns1.dead 60 A {NS3}\n",
    "example.com": zone(ns1=NS1, ns2=NS2),
    "auth.net": zone(ns1=NS1),
    "net": zone(ns1=NS1) + f"ns.elsewhere 60 A {NS2}\n",
}


@pytest.fixture
def world(settings: Any) -> Iterator[NameServer]:
    with internet(settings, ZONES, patience=0.8) as server:
        yield server


def soon() -> float:
    return clock.monotonic() + 60


# --- Chains ---


def test_many_chains_are_followed_in_as_many_batches_as_the_longest_needs(
    world: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        world.add(f"_acme-challenge.host{number}.example.com", "CNAME", f"one{number}.auth.net.")
    world.add("one7.auth.net", "CNAME", "two.auth.net.")
    batches: list[int] = []
    ask = queries.ask
    monkeypatch.setattr(
        queries, "ask", lambda asks, seconds: batches.append(1) or ask(asks, seconds)
    )
    chains = cnames.follow([f"host{number}.example.com" for number in range(25)], 5)
    # The zones and servers of both ends, a CNAME and its sibling, twice, and that there is no
    # third.
    assert len(batches) == 11
    assert chains["host7.example.com"].names[1:] == ("one7.auth.net", "two.auth.net")
    assert chains["host8.example.com"].final == "one8.auth.net"
    assert chains["host24.example.com"].names == ("_acme-challenge.host24.example.com",)


def test_a_wildcards_cname_is_noted_where_the_chain_ends(world: NameServer) -> None:
    world.add("*.example.com", "CNAME", "www.auth.net.")
    chain = cnames.follow(["example.com"], 5)["example.com"]
    assert (chain.final, chain.wildcard, chain.trouble) == (CHALLENGE, "www.auth.net", None)


def test_a_chain_that_ends_nowhere_says_why_and_the_others_are_followed(world: NameServer) -> None:
    world.add(CHALLENGE, "CNAME", f"{CHALLENGE}.")
    world.add("_acme-challenge.a.example.com", "CNAME", r"semi\;colon.auth.net.")
    world.at(RESOLVER).dead = frozenset(["b.example.com"])
    chains = cnames.follow(["example.com", "a.example.com", "b.example.com", "c.example.com"], 5)
    assert [each.trouble and each.trouble.code for each in chains.values()] == [
        "dns_cname_loop",
        "dns_cname_target",
        "dns_lookup_failed",
        None,
    ]
    assert [each.is_unknown for each in chains.values()] == [False, False, True, False]


# --- Doubts ---


def behind(name: str) -> Doubt:
    return doubts([(name, SOA)], soon())[name, SOA]


def test_a_name_that_resolves_only_unchecked_has_a_dnssec_fault(world: NameServer) -> None:
    world.at(RESOLVER).bogus = frozenset(["example.com"])
    assert behind("www.example.com") == Doubt(Fault.BOGUS, "example.com")
    assert behind("www.auth.net") == Doubt(None)


def test_a_name_that_fails_unchecked_too_has_no_dnssec_fault(world: NameServer) -> None:
    world.at(RESOLVER).dead = frozenset(["example.com"])
    assert behind("www.example.com") == Doubt(Fault.DEAD)


@pytest.mark.parametrize("switch", ["silent", "refuses"])
def test_a_resolver_that_is_silent_or_refuses_proves_nothing(
    world: NameServer, switch: str
) -> None:
    setattr(world.at(RESOLVER), switch, True)
    assert behind("www.example.com") == Doubt(Fault.UNKNOWN)


def test_one_resolver_that_validates_says_more_than_one_that_does_not(
    world: NameServer, settings: Any
) -> None:
    settings.DNS_RESOLVERS = [OTHER, RESOLVER]
    world.at(RESOLVER).bogus = frozenset(["example.com"])
    assert behind("example.com") == Doubt(Fault.BOGUS, "example.com")


def test_one_answer_outweighs_a_servfail_of_another_resolver(
    world: NameServer, settings: Any
) -> None:
    settings.DNS_RESOLVERS = [OTHER, RESOLVER]
    world.at(RESOLVER).dead = frozenset(["example.com"])
    assert behind("example.com") == Doubt(None)


def test_a_servfail_of_one_resolver_counts_if_the_other_is_silent(
    world: NameServer, settings: Any
) -> None:
    settings.DNS_RESOLVERS = [OTHER, RESOLVER]
    world.at(RESOLVER).dead = frozenset(["example.com"])
    world.at(OTHER).silent = True
    assert behind("example.com") == Doubt(Fault.DEAD)


def test_without_resolvers_nothing_is_known(world: NameServer, settings: Any) -> None:
    settings.DNS_RESOLVERS = ["dns.example.com"]
    assert behind("example.com") == Doubt(Fault.UNKNOWN)
    assert "set DNS_RESOLVERS" in survey.survey(["example.com"], 5).silence


def test_a_question_goes_out_with_checking_disabled_over_tcp_too(world: NameServer) -> None:
    world.at(RESOLVER).bogus = frozenset(["example.com"])
    world.at(RESOLVER).truncates = True
    at = RESOLVER, world.port
    unchecked = Query(at, "example.com", SOA, recurse=True, unchecked=True)
    assert queries.ask([unchecked], 5).got[unchecked].answer


# --- Zones ---


def test_a_zone_that_nobody_serves_is_known_by_its_delegation_glue_and_all(
    world: NameServer,
) -> None:
    world.at(RESOLVER).dead = frozenset(["dead.com"])
    world.at(NS3).refuses = True
    world.at(NS2).silent = True
    name = "_acme-challenge.www.dead.com"
    found = zones_of([name], soon())[name]
    assert isinstance(found, Zone)
    assert (found.name, found.above, found.fault, dict(found.serials)) == (
        "dead.com",
        "com",
        Fault.DEAD,
        {},
    )
    assert found.lame == (f"ns1.dead.com ({NS3}, answers REFUSED)",)
    assert found.silent == (f"ns.elsewhere.net ({NS2})",)


def test_a_zone_that_cannot_be_found_and_is_nobodys_fault(world: NameServer) -> None:
    found = zones_of(["www.example.org"], soon())["www.example.org"]  # the resolver refuses it
    assert isinstance(found, Unanswered)
    assert found.doubt == Doubt(Fault.UNKNOWN)


def test_no_time_left_is_no_finding_about_servers(world: NameServer) -> None:
    found = survey.survey(["example.com"], 0)
    assert found.silence == "the time was too short to ask"


def test_servers_that_there_was_no_time_for_are_not_called_silent(world: NameServer) -> None:
    assert isinstance(zones_of([CHALLENGE], soon())[CHALLENGE], Zone)  # who they are is known now
    world.at(NS1).silent = world.at(NS2).silent = True
    found = zones_of([CHALLENGE], clock.monotonic() + 0.3)[CHALLENGE]
    assert isinstance(found, Unanswered)
    assert "he time was too short" in found.what


def test_a_server_over_two_families_is_heard_over_one(
    world: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("ns1.example.com", "AAAA", "::1")
    world.at("::1").silent = True
    found = zones_of([CHALLENGE], soon())[CHALLENGE]
    assert isinstance(found, Zone)
    assert found.silent == ("ns1.example.com (::1)",)
    channel = queries._Batch._channel
    monkeypatch.setattr(
        queries._Batch,
        "_channel",
        lambda batch, family: channel(batch, family) if family.name == "AF_INET" else None,
    )
    found = zones_of([CHALLENGE], soon())[CHALLENGE]
    assert isinstance(found, Zone)
    assert (found.silent, len(found.serials)) == ((), 2)


def test_a_resolver_that_knows_no_top_level_domain_is_well(settings: Any) -> None:
    with internet(settings, {"example.com": zone(ns1=NS1)}, patience=0.8):
        found = survey.survey(["www.example.com"], 5)
    assert (found.policies, found.silence) == ({"www.example.com": survey.CaaPolicy()}, "")
