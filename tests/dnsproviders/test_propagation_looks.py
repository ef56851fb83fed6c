"""One look at many records asks every authoritative server, and no server delays another."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from certctrl import clock
from dnsclient import queries
from dnsclient.resolver import Server
from dnsproviders import propagation
from dnsproviders.propagation import Asked, Servers
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
    zones = {"example.com": zone(ns1=NS1, ns2=[NS2, NS6]), "broken.test": zone(ns1=NOBODY)}
    with internet(settings, zones) as server:
        yield server


def look(*records: Any, seconds: float = 5) -> Any:
    return propagation.look(records or [record()], seconds)[1]


def test_every_address_of_every_server_is_asked_over_both_families(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    seen = look()
    assert (seen.shown, seen.missing, seen.silent, seen.zone) == (3, (), (), "example.com")
    assert {address for address, name, kind in world.seen if kind == "TXT"} == {NS1, NS2, NS6}


def test_a_server_that_lags_is_named(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    world.at(NS1).hides_txt = -1
    seen = look()
    assert (seen.shown, seen.missing) == (2, (f"ns1.example.com ({NS1})",))


def test_another_value_at_the_name_is_not_the_record(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", "another")
    assert look().shown == 0
    world.add(CHALLENGE, "TXT", VALUE)
    assert look().shown == 3


def test_two_values_of_one_name_are_two_records_and_one_question(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE, "second")
    looks = propagation.look(
        [record(), record(value="second", pk=2), record(value="third", pk=3)], 5
    )
    assert [looks[pk].shown for pk in (1, 2, 3)] == [3, 3, 0]
    assert len([kind for _, _, kind in world.seen if kind == "TXT"]) == 3


def test_a_value_in_several_strings_is_read_as_one(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", f'"{VALUE[:10]}" "{VALUE[10:]}"')
    assert look().shown == 3


def test_a_silent_server_does_not_hide_what_the_others_say(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    world.at(NS1).silent = True
    seen = look()
    assert (seen.shown, seen.missing, seen.silent) == (2, (), (f"ns1.example.com ({NS1})",))


@pytest.mark.skipif(
    not queries.HAS_ERROR_QUEUE, reason="only Linux tells of closed ports on sockets of this kind"
)
def test_a_closed_port_is_known_at_once(settings: Any) -> None:
    with internet(settings, {"example.com": zone(ns1=NS1, ns2=NOBODY)}, patience=30) as world:
        world.add(CHALLENGE, "TXT", VALUE)
        start = clock.monotonic()
        seen = look(seconds=60)
        assert (seen.shown, seen.silent) == (1, (f"ns2.example.com ({NOBODY})",))
        assert clock.monotonic() - start < queries.PATIENCE


def test_an_answer_that_does_not_fit_is_read_over_tcp(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE, *(f"{number:0200}" for number in range(40)))
    assert look().shown == 3


def test_a_server_that_truncates_and_has_no_tcp_is_no_witness(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    world.at(NS1).truncates = world.at(NS1).without_tcp = True
    seen = look()
    assert (seen.shown, seen.missing) == (2, ())
    assert seen.silent == (f"ns1.example.com ({NS1}, no answer over TCP)",)


def test_a_server_that_knows_no_edns_is_asked_without(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    world.at(NS1).without_edns = True
    assert look().shown == 3


@pytest.mark.parametrize(
    ("switch", "why"),
    [
        ("refuses", "answers REFUSED"),
        ("fails", "answers SERVFAIL"),
        ("without_aa", "not authoritative"),
    ],
)
def test_an_answer_that_is_no_authoritative_one_counts_as_silence(
    world: NameServer, switch: str, why: str
) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    setattr(world.at(NS1), switch, True)
    seen = look()
    assert (seen.shown, seen.missing, seen.silent) == (2, (), (f"ns1.example.com ({NS1}, {why})",))


def test_an_answer_with_a_wrong_id_is_not_taken(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    for address in (NS1, NS2, NS6):
        world.at(address).wrong_id_first = True
    assert look().shown == 3


def test_a_question_that_got_lost_is_asked_again(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    for address in (NS1, NS2, NS6):
        world.at(address).drops_every = 2
    looks = propagation.look(
        [record(), record(f"{CHALLENGE}.www", pk=2), record(value="x", pk=3)], 5
    )
    assert looks[1].shown == 3


def test_a_slow_answer_to_the_first_question_counts(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    world.at(NS1).delay = 0.45  # after the question was asked again
    assert look().shown == 3


def test_a_late_answer_to_an_earlier_look_is_not_taken_for_this_one(world: NameServer) -> None:
    world.at(NS1).delay = 0.9
    assert look().silent == (f"ns1.example.com ({NS1})",)
    world.add(CHALLENGE, "TXT", VALUE)
    world.at(NS1).delay = 0.2  # the late "no such name" comes first
    assert look().shown == 3


def test_a_server_counts_when_one_address_family_has_no_route(
    world: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ipv6(monkeypatch)
    world.add(CHALLENGE, "TXT", VALUE)
    seen = look()
    assert (seen.shown, seen.silent) == (2, ())


def test_a_server_of_an_address_family_without_a_route_is_reported(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with internet(settings, {"example.com": zone(ns1=NS1, ns2=NS6)}) as world:
        without_ipv6(monkeypatch)
        world.add(CHALLENGE, "TXT", VALUE)
        seen = look()
        assert (seen.shown, seen.silent) == (1, (f"ns2.example.com ({NS6}, no route from here)",))


def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = queries._Batch._channel
    monkeypatch.setattr(
        queries._Batch,
        "_channel",
        lambda batch, family: channel(batch, family) if family == queries.socket.AF_INET else None,
    )


def test_a_private_address_that_is_not_allowed_is_not_asked(
    world: NameServer, settings: Any
) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    settings.ALLOW_PRIVATE = [NS1]
    seen = look()
    assert seen.shown == 1
    assert "ns2.example.com (not public, and not named in ALLOW_PRIVATE)" in seen.skipped
    assert NS2 not in seen.skipped
    assert not [address for address, _, _ in world.seen if address in (NS2, NS6)]


def test_one_zone_that_cannot_be_found_does_not_fail_the_others(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    looks = propagation.look([record(), record("_acme-challenge.elsewhere.org", pk=2)], 5)
    assert looks[1].shown == 3
    assert looks[2].note.startswith("The zone of _acme-challenge.elsewhere.org could not be found")
    assert "answered REFUSED" in looks[2].note


def test_a_hundred_names_of_one_zone_cost_one_search_for_its_servers(world: NameServer) -> None:
    records = [
        record(f"_acme-challenge.host{number}.example.com", pk=number) for number in range(100)
    ]
    propagation.look(records, 10)
    assert len([kind for _, name, kind in world.seen if kind == "NS"]) == 1
    world.seen.clear()
    propagation.look(records, 10)
    assert {kind for _, _, kind in world.seen} == {"TXT"}


HIDDEN = "_acme-challenge.hidden.example.com"


def test_names_beside_a_known_one_cost_no_search_for_their_zone(world: NameServer) -> None:
    look()
    world.seen.clear()
    seen = look(record(HIDDEN))
    assert (seen.shown, len(seen.missing), seen.zone) == (0, 3, "example.com")
    assert {kind for _, _, kind in world.seen} == {"TXT"}


def test_a_record_beside_a_known_name_shows_once_its_zone_is_found(world: NameServer) -> None:
    look()
    world.add(HIDDEN, "TXT", VALUE)
    world.seen.clear()
    assert look(record(HIDDEN)).shown == 3
    assert (HIDDEN, "SOA") in {(name, kind) for _, name, kind in world.seen}


def test_a_zone_below_a_known_one_is_found(settings: Any) -> None:
    zones = {"example.com": zone(ns1=NS1), "deep.example.com": zone(ns3=NS3)}
    with internet(settings, zones):
        look()
        seen = look(record("_acme-challenge.deep.example.com"))
    assert (seen.zone, seen.missing) == ("deep.example.com", (f"ns3.deep.example.com ({NS3})",))


@pytest.mark.parametrize("switch", ["without_soa", "without_aa", "refuses"])
def test_a_zone_that_no_server_confirms_is_looked_for(world: NameServer, switch: str) -> None:
    look()
    for address in (NS1, NS2, NS6):
        setattr(world.at(address), switch, True)
    world.seen.clear()
    look(record(HIDDEN))
    assert (HIDDEN, "SOA") in {(name, kind) for _, name, kind in world.seen}


@pytest.mark.parametrize("switch", ["without_soa", "without_aa"])
def test_a_zone_is_looked_for_when_one_server_does_not_confirm_it(
    world: NameServer, switch: str
) -> None:
    look()
    setattr(world.at(NS1), switch, True)
    world.seen.clear()
    look(record(HIDDEN))
    assert (HIDDEN, "SOA") in {(name, kind) for _, name, kind in world.seen}


def test_without_a_check_nobody_is_asked(world: NameServer) -> None:
    seen = look(record(check="off"))
    assert (seen.shown, seen.asked, list(world.seen)) == (1, Asked.NOBODY, [])


def test_a_recursive_check_asks_the_resolvers_only(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    world.at(RESOLVER).without_aa = True
    seen = look(record(check="recursive"))
    assert (seen.shown, seen.asked) == (1, Asked.RESOLVERS)
    assert [(address, kind) for address, _, kind in world.seen] == [(RESOLVER, "TXT")]


def test_a_resolver_shows_for_how_long_it_will_deny_the_record(world: NameServer) -> None:
    seen = look(record(check="recursive"))
    assert (seen.shown, seen.denied, seen.denial) == (0, 5, 5)
    assert look(record()).denied == 0, "servers do not repeat themselves"
    world.add(CHALLENGE, "TXT", VALUE)
    assert look(record(check="recursive")).denied == 0


def test_when_no_server_answers_for_a_minute_the_resolvers_decide(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    for address in (NS1, NS2, NS6):
        world.at(address).silent = True
    assert look(record(age=30)).asked is Asked.SERVERS
    seen = look(record(age=61))
    assert (seen.shown, seen.asked, len(seen.silent)) == (1, Asked.INSTEAD, 3)


def test_without_a_soa_record_the_resolver_is_asked_for_the_record(
    settings: Any,
) -> None:
    with internet(settings, {"example.com": zone(ns1=NS1), "com": zone(ns1=NS1)}) as world:
        world.at(RESOLVER).without_soa = True
        assert "no name above it has a SOA record" in look(record(age=5)).note, (
            "it may deny what it is asked too early"
        )
        assert look(record(age=11)).shown == 0
        world.add(CHALLENGE, "TXT", VALUE)
        seen = look(record(age=11))
    assert (seen.shown, seen.asked, seen.note) == (1, Asked.INSTEAD, "")
    what = propagation.verdict(record(), seen, timedelta(seconds=11)).what
    assert what.startswith(
        "shown by the resolver; the authoritative servers could not be asked (The zone of "
    )
    assert "no name above it has a SOA record" in what


@pytest.mark.parametrize(("fails", "least"), [(False, 11), (True, 61)], ids=["refuses", "fails"])
def test_a_resolver_that_refuses_is_final_and_one_that_fails_has_a_minute(
    world: NameServer, fails: bool, least: float
) -> None:
    name = "_acme-challenge.elsewhere.org"
    world.at(RESOLVER).dead = frozenset(["org"] if fails else [])
    assert look(record(name, age=least - 2)).asked is Asked.SERVERS
    assert look(record(name, age=least)).asked is Asked.INSTEAD


def test_a_server_without_an_address_is_reported_and_not_waited_for(settings: Any) -> None:
    zones = {"example.com": zone(ns1=NS1) + "@ 60 NS nowhere\n"}
    with internet(settings, zones) as world:
        world.add(CHALLENGE, "TXT", VALUE)
        seen = look(record())
        assert (seen.shown, seen.silent, seen.skipped) == (
            1,
            (),
            ("nowhere.example.com (no address)",),
        )
        verdict = propagation.verdict(record(), seen, timedelta(0))
        assert verdict.visible
        assert verdict.what.endswith("that answers; not counted: nowhere.example.com (no address)")


def test_where_no_server_has_an_address_the_resolvers_decide_at_once(settings: Any) -> None:
    zones = {
        "example.com": "@ 60 SOA ns1 hostmaster 1 3600 600 86400 5\n@ 60 NS ns1\n@ 60 NS ns2\n"
    }
    with internet(settings, zones) as world:
        world.add(CHALLENGE, "TXT", VALUE)
        seen = look(record())
        assert (seen.shown, seen.asked) == (1, Asked.INSTEAD)
        verdict = propagation.verdict(record(), seen, timedelta(0))
        assert verdict.visible
        assert "ns1.example.com (no address), ns2.example.com (no address)" in verdict.what


def test_the_ttl_of_the_record_set_is_seen(world: NameServer) -> None:
    world.add(CHALLENGE, "TXT", "another", ttl=600)
    assert look().ttl == 600
    assert look(record("_acme-challenge.www.example.com")).ttl == 0


def test_silent_servers_of_one_owner_do_not_delay_another_owners_names(
    world: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add(CHALLENGE, "TXT", VALUE)
    monkeypatch.setattr(queries, "WINDOW", 16)  # time for a quarter of the crowd
    names = [f"_acme-challenge.n{at}.evil.test" for at in range(80)]
    honest = propagation.servers_of_all([CHALLENGE], 5)
    with silence() as nobody:
        port = nobody.port
        silent = {
            name: Servers(
                "evil.test", tuple(Server("ns", (f"127.1.{at}.{each}", port)) for each in range(13))
            )
            for at, name in enumerate(names)
        }
        monkeypatch.setattr(propagation, "servers_of_all", lambda *_: silent | honest)
        crowd = [record(name, pk=pk, owner=7) for pk, name in enumerate(names, 2)]
        looks = propagation.look([*crowd, record(owner=8)], 4)
    assert looks[1].shown == 3
    assert "the time was too short" in looks[81].note


def test_resolvers_still_have_time_when_outbound_port_53_is_closed(
    settings: Any,
) -> None:
    with internet(settings, {"example.com": zone(ns1=NS1, ns2=NS2)}, patience=2) as world:
        world.add(CHALLENGE, "TXT", VALUE)
        world.at(NS1).silent = world.at(NS2).silent = True
        seen = look(record(age=61), seconds=3.6)
        assert (seen.shown, seen.asked, seen.note) == (1, Asked.INSTEAD, "")


def test_a_look_ends_in_time_whatever_servers_do(settings: Any) -> None:
    with internet(settings, {"example.com": zone(ns1=NS1, ns2=NS2)}, patience=30) as world:
        propagation.servers_of(CHALLENGE)
        world.at(NS1).silent = world.at(NS2).silent = True
        start = clock.monotonic()
        seen = look(seconds=0.5)
        assert clock.monotonic() - start < queries.PATIENCE
        assert (
            seen.note
            == f"the time was too short to ask every server for {CHALLENGE}; they are asked again"
        )


def test_a_limit_around_the_look_is_kept(world: NameServer) -> None:
    for seconds in (None, 10):
        with clock.limit(0):
            seen = propagation.look([record()], seconds)[1]
        assert (seen.answered, bool(seen.note), list(world.seen)) == (0, True, [])


def test_a_dead_server_with_many_records_is_not_asked_for_each(settings: Any) -> None:
    with internet(settings, {"example.com": zone(ns1=NS1, ns3=NS3)}, patience=1) as world:
        world.at(NS3).silent = True
        records = [
            record(f"_acme-challenge.host{number}.example.com", pk=number) for number in range(300)
        ]
        looks = propagation.look(records, 60)
        assert all(each.missing and each.silent and not each.note for each in looks.values())
        assert world.at(NS3).asked < 2 * queries.WINDOW_PER_SERVER + queries.DEAF
