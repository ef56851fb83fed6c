"""The findings from a survey, for faults that the small internet cannot have."""

import re

import pytest
from django.conf import settings

from certctrl.turns import Trouble
from dnsclient.survey import CaaPolicy, CAARecord, CnamePath, Doubt, Fault, Survey, Unanswered, Zone
from issuance import preflight
from issuance.preflight import Finding

NAME = "www.example.com"
CHALLENGE = "_acme-challenge.www.example.com"
DEAD = Doubt(Fault.DEAD)
BOGUS = Doubt(Fault.BOGUS, "example.com")
UNKNOWN = Doubt(Fault.UNKNOWN)
SERIALS = {"ns1.example.com (192.0.2.1)": 7}


def survey_of(zone: Zone | Unanswered, *more: str) -> Survey:
    return Survey(
        paths={NAME: CnamePath((CHALLENGE, *more))}, zones={more[-1] if more else CHALLENGE: zone}
    )


def codes(found) -> list[tuple[str, bool]]:
    return [(each.code, each.blocks) for each in found]


# --- Zones ---


@pytest.mark.parametrize(
    ("zone", "code", "blocks"),
    [
        (Zone("example.com", lame=("ns1",), fault=Fault.DEAD), "no_server", True),
        (Zone("example.com", lame=("ns1",), fault=None), "servers_unreachable", False),
        (Zone("example.com", silent=("ns1",), fault=Fault.UNKNOWN), "servers_unreachable", False),
        (Zone("example.com", silent=("ns1",), fault=Fault.BOGUS), "dnssec", True),
        (Zone("example.com", SERIALS, fault=Fault.DEAD, above="com"), "unanswered", False),
        (Zone(CHALLENGE, fault=Fault.DEAD, above="example.com"), "delegation_lame", True),
        (Unanswered(CHALLENGE, "SOA", "it answered SERVFAIL", DEAD), "no_server", True),
        (Unanswered(CHALLENGE, "SOA", "it answered SERVFAIL", BOGUS), "dnssec", True),
        (Unanswered(CHALLENGE, "SOA", "it did not answer", UNKNOWN), "unanswered", False),
        (Unanswered(CHALLENGE, "SOA", "it answers now", Doubt(None)), "unanswered", False),
    ],
)
def test_only_what_is_certain_blocks(zone, code, blocks):
    assert codes(preflight.of_zones(survey_of(zone))) == [(code, blocks)]


def test_servers_that_are_well_are_no_finding():
    assert not list(preflight.of_zones(survey_of(Zone("example.com", SERIALS))))


def test_a_zone_of_many_names_is_reported_once():
    paths = {
        f"{label}.example.com": CnamePath((f"_acme-challenge.{label}.example.com",))
        for label in "abc"
    }
    zone = Zone("example.com", SERIALS, lame=("ns2",))
    survey = Survey(paths=paths, zones={path.final: zone for path in paths.values()})
    assert codes(preflight.of_zones(survey)) == [("lame_server", False)]


# --- CNAMEs ---


def test_an_unregistered_domain_is_a_warning_because_it_may_be_private():
    zone = Zone("com", SERIALS)
    assert codes(preflight.of_cnames(survey_of(zone), "")) == [("no_zone", False)]


def test_a_suffix_of_ones_own_network_is_a_zone_like_any_other():
    zone = Zone("lan", SERIALS)
    survey = Survey(
        paths={"host.lan": CnamePath(("_acme-challenge.host.lan",))},
        zones={"_acme-challenge.host.lan": zone},
    )
    assert not list(preflight.of_cnames(survey, ""))


@pytest.mark.parametrize(
    ("trouble", "found"),
    [
        ("dns_cname_loop", [("cname_loop", True)]),
        ("dns_cname_target", [("cname_unwritable", True)]),
        ("dns_lookup_failed", []),
    ],
)
def test_cname_chains_without_an_end_block_unless_the_end_is_unknown(trouble, found):
    survey = Survey(paths={NAME: CnamePath((CHALLENGE,), trouble=Trouble(trouble, "A sentence."))})
    assert codes(preflight.of_cnames(survey, "")) == found
    assert codes(preflight.of_cnames(survey, "id.acme.test")) == found


def test_a_cname_chain_that_ends_at_the_wrong_place_blocks():
    survey = survey_of(Zone("acme.test", SERIALS), "id.acme.test")
    assert not list(preflight.of_cnames(survey, "id.acme.test"))
    (found,) = preflight.of_cnames(survey, "mine.acme.test")
    assert (found.code, found.record, found.blocks) == (
        "delegation_missing",
        f"{CHALLENGE} CNAME",
        True,
    )
    assert "It leads to id.acme.test" in found.what
    assert f"Set the record {CHALLENGE}. CNAME mine.acme.test." in found.what


# --- CAA ---


@pytest.mark.parametrize(
    ("doubt", "code", "blocks"),
    [(DEAD, "caa_unanswered", False), (BOGUS, "dnssec", True), (UNKNOWN, "unanswered", False)],
)
def test_caa_records_that_cannot_be_had_block_only_for_their_signatures(doubt, code, blocks):
    survey = Survey(
        policies={NAME: Unanswered("example.com", "CAA", "it answered SERVFAIL", doubt)}
    )
    assert codes(preflight.of_caa(survey, [NAME], ["ca.test"], "", "dns-01")) == [(code, blocks)]


def test_a_ca_without_caa_identities_is_not_blocked_by_caa():
    policy = CaaPolicy("example.com", (CAARecord(0, "issue", ";"), CAARecord(128, "tbs", "x")))
    survey = Survey(policies={NAME: policy})
    assert codes(preflight.of_caa(survey, [NAME], [], "", "dns-01")) == [("caa_critical", False)]


# --- All of them ---


def test_one_bad_record_is_one_finding_and_blocking_ones_are_first():
    several = [
        Finding("wildcard_cname", "a.test", "*.test CNAME", "First.", blocks=False),
        *(
            Finding("caa_forbids", f"{label}.test", "test CAA", f"{label} is forbidden.")
            for label in "abc"
        ),
        Finding("dnssec", "a.test", "test DS", "Bogus."),
        Finding("dnssec", "b.test", "test DS", "Bogus."),
    ]
    forbidden, bogus, wildcard = preflight.together(several)
    assert forbidden.what == "a is forbidden. The same holds for 2 more names of the certificate."
    assert (bogus.what, wildcard.what) == ("Bogus.", "First.")


def test_a_text_has_the_first_three_sentences():
    several = [Finding("code", "a.test", str(number), f"Sentence {number}.") for number in range(5)]
    assert preflight.text_of(several[:3]) == "Sentence 0. Sentence 1. Sentence 2."
    assert (
        preflight.text_of(several)
        == "Sentence 0. Sentence 1. Sentence 2. There are 2 more findings."
    )


def test_the_guide_lists_every_code():
    guide = (settings.BASE_DIR / "docs/guides/preflight.md").read_text()
    listed = set(
        re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.+?`) \| (?:yes|no) ", guide, re.M)))
    )
    sources = [path.read_text() for path in (settings.BASE_DIR / "issuance/preflight").glob("*.py")]
    made = {
        code for each in sources for code in re.findall(r'(?:Finding|Denial)\(\s*"([a-z_]+)"', each)
    }
    made |= {*preflight.CNAME_CODES.values(), "cname_unwritable", "credential_unchecked"}
    assert listed - {"zone_not_found", "zone_not_served", "credential_refused"} == made
