"""Names that may be requested, and names that are refused before an order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certctrl.errors import Invalid
from dnsclient.names import registered_domain, shown
from issuance.identifiers import MAX_NAMES, normalize_names
from lab import limiting


def refusal(*names: str) -> Invalid:
    with pytest.raises(Invalid) as caught:
        normalize_names(names)
    return caught.value


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("  example.com ", "example.com"),
        ("*.example.com", "*.example.com"),
        ("*.Example.com.", "*.example.com"),
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("faß.de", "xn--fa-hia.de"),
        ("日本語。jp", "xn--wgv71a119e.jp"),
        ("*.пример.рф", "*.xn--e1afmkfd.xn--p1ai"),
        ("XN--MNCHEN-3YA.de", "xn--mnchen-3ya.de"),
        ("xn--i-7iq.ws", "xn--i-7iq.ws"),
        ("*.XN--I-7IQ.ws", "*.xn--i-7iq.ws"),
        ("www.xn--ls8h.la", "www.xn--ls8h.la"),
        ("bücher.xn--i-7iq.ws", "xn--bcher-kva.xn--i-7iq.ws"),
        ("demo.lab.test", "demo.lab.test"),
        ("lab.test", "lab.test"),
        ("printer.corp.internal", "printer.corp.internal"),
        ("example.co.uk", "example.co.uk"),
        ("a" * 63 + ".example.com", "a" * 63 + ".example.com"),
        ("123.example.com", "123.example.com"),
    ],
)
def test_a_host_name_becomes_a_lower_case_a_label(name, normal):
    assert normalize_names([name]) == [normal]


def test_duplicates_are_folded_and_the_order_stays():
    names = ["B.example.com", "a.example.com", "b.example.com.", "*.c.example.com", "A.EXAMPLE.COM"]
    assert normalize_names(names) == ["b.example.com", "a.example.com", "*.c.example.com"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (".", "empty"),
        ("localhost", "has no dot. Ask for a name in a domain"),
        ("com", "public suffix"),
        ("co.uk", "public suffix"),
        ("CO.UK.", "public suffix"),
        ("*.com", "public suffix"),
        ("*.co.uk", "public suffix"),
        ("*.test", "test has no dot"),
        ("рф", "public suffix"),
        ("192.0.2.7", "DNS-01 cannot validate"),
        ("*.192.0.2.7", "DNS-01 cannot validate"),
        ("2001:db8::1", "DNS-01 cannot validate"),
        ("[2001:db8::1]", "DNS-01 cannot validate"),
        ("\uff11\uff19\uff12.0.2.7", "not a host name"),
        ("10.0.0.256", "not a host name"),
        ("example.123", "not a host name"),
        ("*", "wildcard"),
        ("*.*.example.com", "wildcard"),
        ("www.*.example.com", "wildcard"),
        ("w*.example.com", "wildcard"),
        ("_dmarc.example.com", "underscore"),
        ("a_b.example.com", "underscore"),
        ("https://example.com", "not a host name"),
        ("example.com:443", "not a host name"),
        ("example.com/path", "not a host name"),
        ("me@example.com", "not a host name"),
        ("exam ple.com", "not a host name"),
        ("-a.example.com", "not a host name"),
        ("a-.example.com", "not a host name"),
        ("a..example.com", "not a host name"),
        (".example.com", "not a host name"),
        ("ab--cd.example.com", "not a host name"),
        ("xn--zzzzzz99999.com", "not a host name"),
        ("xn--.example.com", "not a host name"),
        ("xn--abc-.example.com", "not a host name"),
        ("\N{PILE OF POO}.example.com", "not a host name"),
        ("a" * 64 + ".example.com", "63 characters"),
        ("ü" * 63 + ".example.com", "63 characters"),
        ("a.example.com\n", "control characters"),
        ("a\x00.example.com", "control characters"),
        ("a\x1b[31m.example.com", "control characters"),
        (".".join(["abcdefg"] * 40) + ".com", "253 characters"),
        (".".join(["abcdefg"] * 30) + ".com", None),
        ("a" * 10_000, "63 characters|253 characters"),
    ],
)
def test_a_name_that_no_ca_certifies_by_dns01_is_refused_with_its_reason(name, words):
    if words is None:
        return assert_fits(name)
    refused = refusal(name)
    assert refused.params["field"] == "domain"
    assert any(each in refused.what for each in words.split("|")), refused.what
    assert refused.what.isprintable()
    assert len(refused.what) < 400
    return None


def assert_fits(name: str) -> None:
    assert len(name) <= 253
    if len(name) > 237:
        assert "_acme-challenge." in refusal(name).what
    else:
        assert normalize_names([name]) == [name]


def test_the_name_of_the_challenge_record_must_fit_too():
    labels = ["a" * 59] * 3 + ["b" * 53]
    fits = ".".join([*labels, "com"])
    assert len(fits) == 237
    assert normalize_names([fits]) == [fits]
    assert "237 characters are left" in refusal("c" + fits).what


def test_a_name_covered_by_a_wildcard_is_refused_in_either_order():
    first = refusal("*.example.com", "www.example.com")
    assert "www.example.com is already covered by *.example.com" in first.what
    assert (first.params["field"], first.params["name"]) == ("sans", "www.example.com")
    assert refusal("www.example.com", "*.example.com").params["field"] == "domain"


def test_apex_wildcard_and_deeper_names_go_together():
    names = ["example.com", "*.example.com", "a.b.example.com", "*.b.example.org"]
    assert normalize_names(names) == names


def test_a_hundred_names_are_accepted_and_one_more_is_not():
    names = [f"n{i}.example.com" for i in range(MAX_NAMES)]
    assert normalize_names(names) == names
    assert normalize_names([*names, names[0].upper()]) == names
    refused = refusal(*names, "onemore.example.com")
    assert "at most 100" in refused.what
    assert refused.params["field"] == "sans"


def test_no_name_at_all_is_refused():
    assert refusal().params["field"] == "domain"


def test_a_value_that_is_not_a_string_is_refused():
    assert "string" in refusal("example.com", 7).what


def test_only_the_first_bad_name_is_called_the_domain():
    assert refusal("example.com", "1.2.3.4").params["field"] == "sans"


def test_a_shown_name_is_short_and_printable():
    assert shown("a\x1b]0;x\x07b") == "a\N{REPLACEMENT CHARACTER}]0;x\N{REPLACEMENT CHARACTER}b"
    assert len(shown("x" * 5000)) == 100


# --- for a private CA ---


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("192.168.1.10", "192.168.1.10"),
        (" 127.0.0.1 ", "127.0.0.1"),
        ("2001:DB8:0:0:0:0:0:7", "2001:db8::7"),
        ("[fd00::1]", "fd00::1"),
        ("::1", "::1"),
        ("fe80::1", "fe80::1"),
        ("NAS", "nas"),
        ("localhost", "localhost"),
        ("dev", "dev"),
        ("*.lan", "*.lan"),
        ("*.local", "*.local"),
        ("nas.local", "nas.local"),
        ("Printer.Internal.", "printer.internal"),
        ("*.corp.internal", "*.corp.internal"),
        ("my_host", "my_host"),
        ("_Service._tcp.example.com", "_service._tcp.example.com"),
        ("*.a_b.local", "*.a_b.local"),
        ("a_b.münchen.local", "a_b.xn--mnchen-3ya.local"),
        ("bücher", "xn--bcher-kva"),
        (".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_a_private_ca_takes_addresses_and_names_of_a_local_network(name, normal):
    assert normalize_names([name], private=True) == [normal]
    assert normalize_names([normal], private=True) == [normal]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("0.0.0.0", "not the address of one host"),
        ("::", "not the address of one host"),
        ("224.0.0.1", "not the address of one host"),
        ("255.255.255.255", "not the address of one host"),
        ("ff02::1", "not the address of one host"),
        ("192.168.001.010", "without leading zeros"),
        ("10.0.0.256", "four numbers from 0 to 255"),
        ("fe80::1%eth0", "zone id, which no certificate holds. Write fe80::1."),
        ("10.0.0.0/8", "is a network"),
        ("fd00::/64", "is a network"),
        ("::ffff:10.0.0.7", "Write 10.0.0.7"),
        ("*.10.0.0.7", "wildcard of an IP address"),
        ("*.[::1]", "wildcard of an IP address"),
        ("[::1]:443", "has a port"),
        ("2001:db8::7::1", "not an IPv6 address"),
        ("10.1", "not a host name"),
        ("12345", "not a host name"),
        ("0x7f000001", "not a host name"),
        ("nas:8080", "not a host name"),
        ("https://nas:8443", "not a host name"),
        ("_-", "not a host name"),
        ("a_" + "b" * 63, "63 characters"),
        ("bü_ro.local", "not a host name"),
        ("a_b..local", "not a host name"),
        ("a b.local", "not a host name"),
        ("*", "wildcard"),
        ("w*.local", "wildcard"),
        ("", "empty"),
        (".".join(["a_" * 30] * 5), "253 characters"),
        ("*." + ".".join(["a" * 63] * 3 + ["b" * 60]), "253 characters"),
    ],
)
def test_a_name_that_no_certificate_can_hold_is_refused_by_a_private_ca(name, words):
    with pytest.raises(Invalid) as caught:
        normalize_names([name], private=True)
    assert words in caught.value.what
    assert caught.value.what.isprintable()
    assert caught.value.params["field"] == "domain"


def test_at_a_private_ca_a_wildcard_and_a_name_under_it_go_together():
    names = ["*.lan", "nas.lan", "10.0.0.7", "fd00::7"]
    assert normalize_names(names, private=True) == names


def test_two_spellings_of_an_address_are_one_name():
    names = ["2001:db8::7", "2001:0db8::0007", "[2001:DB8::7]"]
    assert normalize_names(names, private=True) == ["2001:db8::7"]


@given(st.text(max_size=80) | st.from_regex(r"(\*\.)?[a-zA-Z0-9._*:\[\]/%-]{1,80}", fullmatch=True))
def test_any_text_is_either_normal_afterwards_or_refused_at_a_private_ca(text):
    try:
        (name,) = normalize_names([text], private=True)
    except Invalid as refused:
        name = None
        what = refused.what
    if name is None:
        assert what.isprintable()
        return
    assert normalize_names([name], private=True) == [name]
    assert name == name.lower()
    assert name.isascii()
    assert len(name) <= 253
    assert "*" not in name.removeprefix("*.")


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("*.www.example.co.uk", "example.co.uk"),
        ("example.com", "example.com"),
        ("a.b.lab.test", "lab.test"),
        ("mine.github.io", "mine.github.io"),
        ("www.mine.github.io", "mine.github.io"),
        ("github.io", "github.io"),
        ("*.github.io", "*.github.io"),
        ("*.mine.github.io", "mine.github.io"),
        ("co.uk", "co.uk"),
    ],
)
def test_the_registered_domain_is_what_cas_count_by(name, domain):
    assert registered_domain(name) == domain


def test_each_suffix_of_the_list_is_counted_as_boulder_counts_it():
    """Both read the list by an algorithm of their own. The root of a wildcard rule is no suffix,
    and nobody's name.
    """
    for rule in limiting.listed_rules():
        base = rule.removeprefix("!").removeprefix("*.")
        own = [] if rule.startswith("*.") else [base]
        for name in (
            *own,
            f"*.{base}",
            f"x.{base}",
            f"*.x.{base}",
            f"www.x.{base}",
            f"a.b.x.{base}",
        ):
            assert registered_domain(name) == limiting.registered_domain(name)


@pytest.mark.parametrize("name", ["github.io", "*.github.io", "dedyn.io"])
def test_a_private_suffix_may_be_asked_for_since_it_is_somebodys_own(name):
    assert normalize_names([name]) == [name]


@given(st.text(max_size=80) | st.from_regex(r"(\*\.)?[a-zA-Z0-9._*:-]{1,80}", fullmatch=True))
def test_any_text_is_normalized_or_refused_in_a_printable_sentence(text):
    try:
        (name,) = normalize_names([text])
    except Invalid as refused:
        name = None
        what = refused.what
    if name is None:
        assert what.isprintable()
        return
    assert normalize_names([name]) == [name]
    assert name == name.lower()
    assert name.isascii()
    assert len(name) <= 253
    assert all(0 < len(label) <= 63 for label in name.split("."))
    assert "*" not in name.removeprefix("*.")


label = st.from_regex(r"[a-z0-9]([a-z0-9]{0,20})", fullmatch=True)


@given(st.lists(label, min_size=1, max_size=6, unique=True), st.randoms())
def test_names_under_one_domain_come_back_each_once_in_their_order(labels, random):
    names = [f"{each}.example.com" for each in labels]
    spelled = [random.choice([name, name.upper(), name + "."]) for name in names]
    assert normalize_names([*spelled, *names]) == names
