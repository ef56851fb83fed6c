"""The result of a look depends on the age of the record."""

from datetime import timedelta

import pytest

from dnsclient.queries import address
from dnsclient.resolver import Server
from dnsproviders.propagation import Asked, Look, verdict
from tests.fakes.internet import record

NAME = "_acme-challenge.example.com"
A = "ns1.example.net (192.0.2.1)"
B = "ns2.example.net (192.0.2.2)"
C = "ns3.example.net (192.0.2.3)"


def judged(
    age: float,
    shown: int,
    missing: tuple[str, ...] = (),
    silent: tuple[str, ...] = (),
    **rest: object,
) -> object:
    look = Look(shown, missing, silent, zone="example.com", **rest)  # type: ignore[arg-type]
    return verdict(record(), look, timedelta(seconds=age))


@pytest.mark.parametrize(
    ("age", "shown", "missing", "silent", "is_visible"),
    [
        (0, 3, (), (), True),
        (0, 0, (), (), False),
        (0, 2, (B,), (), False),
        (0, 2, (), (C,), False),
        (59, 2, (), (C,), False),
        (60, 2, (), (C,), True),
        (60, 2, (B,), (), False),
        (299, 2, (B,), (), False),
        (300, 1, (B,), (), True),
        (300, 1, (A, B), (), False),
        (300, 1, (B,), (C,), True),
        (3600, 0, (A, B, C), (), False),
        (3600, 0, (), (A, B, C), False),
    ],
)
def test_all_servers_must_show_it_then_those_that_answer_then_half(
    age: float, shown: int, missing: tuple[str, ...], silent: tuple[str, ...], is_visible: bool
) -> None:
    assert judged(age, shown, missing, silent).visible is is_visible


def test_the_sentence_names_who_does_not_show_it() -> None:
    what = f"2 of 3 name servers of example.com do not show {NAME} yet: {A}, {B}"
    assert judged(5, 1, (A, B)).what == what
    assert judged(55, 1, (A, B)).what == what


def test_the_sentence_says_for_how_long_resolvers_repeat_what_they_said() -> None:
    asked = {"asked": Asked.RESOLVERS, "denied": 1700, "denial": 1800}
    assert judged(90, 0, ("192.0.2.53",), **asked).denied == 1700
    assert judged(90, 0, ("192.0.2.53",), **asked).what == (
        f"1 of 1 resolver does not show {NAME} yet: 192.0.2.53; "
        "resolvers that were asked too early may repeat that answer for 1800 s "
        "(SOA minimum of the zone)"
    )


def test_the_sentence_names_who_is_silent_while_that_counts() -> None:
    assert judged(5, 1, (A,), (B,)).what == (
        f"1 of 3 name servers of example.com does not show {NAME} yet: {A};"
        f" no usable answer for {NAME} from {B}"
    )
    assert B not in judged(65, 1, (A,), (B,)).what


def test_the_sentence_of_success_says_who_no_longer_counts() -> None:
    assert judged(0, 3).what == "shown by all 3 name servers of example.com"
    assert judged(0, 1).what == "shown by the name server of example.com"
    assert judged(60, 2, (), (C,)).what == (
        f"shown by all 2 name servers of example.com that answer; not counted: {C}"
    )
    assert judged(300, 1, (B,)).what == (
        "shown by 1 of the 2 name servers of example.com that answer,"
        f" which is enough after 5 minutes; not by {B}"
    )


def test_the_sentence_for_a_zone_whose_servers_are_all_silent_names_them() -> None:
    what = f"all 2 name servers of example.com have no usable answer for {NAME}: {A}, {B}"
    assert judged(5, 0, (), (A, B)).what == what
    assert (
        judged(5, 0, (), (A,)).what
        == f"the name server of example.com has no usable answer for {NAME}: {A}"
    )


def test_a_server_that_the_preflight_found_deaf_is_not_waited_for() -> None:
    def visible(silent: tuple[str, ...], *deaf: str) -> bool:
        return verdict(record(), Look(2, (), silent), timedelta(0), deaf).visible

    assert visible((C,), C)
    refuses = Server("ns3.example.net", address("192.0.2.3", 53)).saying("answers REFUSED")
    assert refuses == "ns3.example.net (192.0.2.3, answers REFUSED)"
    assert visible((refuses,), C)
    assert not visible((C,), "ns3.example.net (192.0.2.30)")
    assert not visible((B, C), C)
    assert not verdict(record(), Look(0, (), (B, C)), timedelta(0), (B, C)).visible


def test_servers_without_an_address_never_count() -> None:
    found = judged(0, 2, skipped=("ns9 (no address)",))
    assert (found.visible, found.what) == (
        True,
        "shown by all 2 name servers of example.com that answer; not counted: ns9 (no address)",
    )
    assert not judged(5, 1, (A,), skipped=("ns9 (no address)",)).visible


def test_a_long_list_of_servers_is_cut_short() -> None:
    servers = tuple(f"ns{number}" for number in range(7))
    assert judged(0, 0, servers).what.endswith("ns0, ns1, ns2, ns3 and 3 more")


def test_it_is_nowhere_when_those_that_answer_all_lack_it() -> None:
    assert judged(70, 0, (A, B), (C,)).nowhere
    assert not judged(70, 1, (A,)).nowhere
    assert not judged(70, 0, (), (A, B, C)).nowhere


def test_a_look_that_could_not_be_taken_says_why() -> None:
    found = judged(3600, 0, note="The zone could not be found")
    assert (found.visible, found.what, found.nowhere) == (
        False,
        "The zone could not be found",
        False,
    )


def test_the_resolvers_decide_where_no_server_answers() -> None:
    seen = judged(61, 1, (), (A, B), asked=Asked.INSTEAD)
    assert seen.visible
    assert (
        seen.what == f"shown by the resolver; no name server of example.com answers here ({A}, {B})"
    )
    hidden = judged(61, 0, ("192.0.2.53",), (A, B), asked=Asked.INSTEAD)
    assert (hidden.visible, hidden.nowhere) == (False, True)
    assert hidden.what.endswith(f"and the resolvers do not show {NAME} either")


def test_a_record_that_is_not_checked_is_visible() -> None:
    assert (
        judged(0, 1, asked=Asked.NOBODY).what
        == "propagation was not checked, as the DNS credential says"
    )
