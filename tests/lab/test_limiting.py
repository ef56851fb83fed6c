"""The limits of a CA: the cost of an order, its refusal, and the sentence."""

import pytest

from lab.limiting import Bucket, Limits, Order, Refusal, registered_domain, spelled

NOW = 1_795_600_000.0
DATA = {"account": [3, 10], "domain": [2, 100], "set": [1, 1000], "failures": [2, 50]}


def limits(**others):
    return Limits(DATA | others)


def order(*names, account="me"):
    return Order(account, tuple(sorted(names)))


def refused(found):
    assert isinstance(found, Refusal), found
    return found.bucket.kind


def test_an_order_takes_a_token_of_its_account_each_domain_and_its_set():
    charged = limits().take(order("a.one.co.uk", "b.one.co.uk", "*.two.co.uk"), NOW)
    assert [bucket.kind for bucket in charged] == ["account", "domain", "domain", "set"]
    assert [bucket.subject for bucket in charged[1:3]] == ["one.co.uk", "two.co.uk"]


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("*.example.co.uk", "example.co.uk"),
        ("a.example.com", "example.com"),
        ("example.com", "example.com"),
        ("co.uk", "co.uk"),
        ("www.me.github.io", "me.github.io"),
        ("github.io", "github.io"),
        ("*.github.io", "*.github.io"),
        ("*.me.github.io", "me.github.io"),
        ("home1.dedyn.io", "home1.dedyn.io"),
        ("a.b.kawasaki.jp", "a.b.kawasaki.jp"),
        ("www.city.kawasaki.jp", "city.kawasaki.jp"),
        ("www.example.xn--fiqs8s", "example.xn--fiqs8s"),
        ("a.b.lab.test", "lab.test"),
    ],
)
def test_a_registered_domain_is_one_label_below_its_suffix(name, domain):
    assert registered_domain(name) == domain


def test_a_lab_may_have_suffixes_of_its_own():
    assert registered_domain("a.b.lab.test", {"lab.test"}) == "b.lab.test"


def test_tokens_come_back_one_by_one_and_never_more_than_the_bucket_holds():
    found = limits(account=[3, 10], domain=[99, 1], set=[99, 1])
    took = [
        found.take(order("a.co.uk"), NOW + at)
        for at in (0, 0, 0, 0, 9.9, 10, 10, 10_000, 10_000, 10_000, 10_000)
    ]
    assert [isinstance(each, list) for each in took] == [1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0]


def test_in_the_long_run_the_rate_is_what_the_data_says():
    found = limits(account=[3, 10], domain=[999, 1], set=[999, 1])
    accepted = [
        at for at in range(1000) if isinstance(found.take(order("a.co.uk"), NOW + at), list)
    ]
    assert len(accepted) == 3 + 99


def test_a_refused_order_costs_nothing_in_any_bucket():
    found = limits(domain=[1, 100])
    found.take(order("a.one.co.uk"), NOW)
    before = found.level(Bucket("account", "me"), NOW)
    assert refused(found.take(order("b.one.co.uk"), NOW)) == "domain"
    assert found.level(Bucket("account", "me"), NOW) == before == 2


def test_of_several_limits_the_longest_is_reported():
    found = limits(domain=[1, 100])
    found.take(order("a.one.co.uk"), NOW)
    refusal = found.take(order("a.one.co.uk"), NOW)
    assert (refused(refusal), refusal.seconds) == ("set", 1000)


def test_returned_tokens_can_be_taken_again():
    found = limits()
    charged = found.take(order("a.one.co.uk"), NOW)
    found.give_back(charged)
    assert found.take(order("a.one.co.uk"), NOW) == charged


def test_a_renewal_of_the_same_names_takes_only_of_its_set():
    found = limits(set=[2, 1000])
    for _ in range(2):
        assert [each.kind for each in found.take(order("a.one.co.uk"), NOW, is_renewal=True)] == [
            "set"
        ]
    assert refused(found.take(order("a.one.co.uk"), NOW, is_renewal=True)) == "set"


def test_failed_validations_hold_up_only_the_name_and_account_that_failed():
    found = limits(domain=[99, 1])
    for _ in range(2):
        found.failed("me", "a.co.uk", NOW)
    assert refused(found.take(order("*.a.co.uk", "b.co.uk"), NOW)) == "failures"
    assert refused(found.take(order("a.co.uk"), NOW + 49)) == "failures"
    assert isinstance(found.take(order("b.co.uk"), NOW), list)
    assert isinstance(found.take(order("a.co.uk", account="you"), NOW), list)
    assert isinstance(found.take(order("*.a.co.uk"), NOW + 50), list)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (
            "account",
            "too many new orders (3) from this account in the last 30s,"
            " retry after 2026-11-25 09:46:50 UTC: see ",
        ),
        (
            "domain",
            'too many certificates (2) already issued for "a.co.uk" in the last 3m20s,'
            " retry after 2026-11-25 ",
        ),
        (
            "set",
            "too many certificates (1) already issued for this exact set of identifiers"
            " in the last 16m40s, retry ",
        ),
        (
            "failures",
            'too many failed authorizations (2) for "a.co.uk" in the last 1m40s,'
            " retry after 2026-11-25 09:4",
        ),
    ],
)
def test_a_refusal_speaks_the_words_of_lets_encrypt(kind, says):
    found = Limits({kind: DATA[kind]}, ["co.uk"])
    for _ in range(3):
        found.failed("me", "a.co.uk", NOW)
        refusal = found.take(order("a.co.uk"), NOW)
    refusal = refusal if isinstance(refusal, Refusal) else found.take(order("a.co.uk"), NOW)
    assert refusal.detail.startswith(says)


def test_kinds_that_are_not_limited_never_refuse():
    found = Limits({})
    assert [found.take(order("a.co.uk"), NOW) for _ in range(1000)] == [[]] * 1000


def test_a_kind_that_no_ca_has_is_an_error():
    with pytest.raises(ValueError, match="unknown limits"):
        Limits({"weather": [1, 1]})


@pytest.mark.parametrize(
    ("seconds", "said"), [(604800, "168h0m0s"), (90, "1m30s"), (20.0, "20s"), (0.5, "1s")]
)
def test_periods_are_spelled_as_the_ca_spells_them(seconds, said):
    assert spelled(seconds) == said
