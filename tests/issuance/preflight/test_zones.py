"""The real preflight names each fault of a broken zone over real sockets, before any order."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from accounts.models import User
from certctrl import clock
from dnsclient import cnames, queries, survey
from dnsproviders.base import ProviderError
from issuance import preflight
from issuance.challenges import delegation
from issuance.models import Certificate, Issuance, IssuanceEvent
from issuance.preflight import Finding, checks
from issuance.services import validation
from lab.nameserver import NameServer
from tests.fakes.internet import NS1, NS2, NS3, RESOLVER, internet, zone
from tests.fakes.world import World

pytestmark = pytest.mark.django_db
State = Issuance.State

SURVEY = survey.survey
FOLLOW = cnames.follow
NAMES = ("example.com", "*.example.com")
CHALLENGE = "_acme-challenge.example.com"
DEAD = {"com": zone(ns1=NS1) + f"dead 60 NS ns1.dead\nns1.dead 60 A {NS3}\n"}
ZONES = {
    "example.com": zone(ns1=NS1, ns2=NS2),
    "net": zone(ns1=NS1),
    "auth.net": zone(ns1=NS1),
    **DEAD,
}


@pytest.fixture
def dns(world: World, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """The small internet instead of the fakes' healthy zones, in real time."""
    with internet(settings, ZONES, patience=0.8) as server:
        monkeypatch.setattr(clock, "monotonic", time.monotonic)
        monkeypatch.setattr(survey, "survey", SURVEY)
        monkeypatch.setattr(cnames, "follow", FOLLOW)
        yield server


class Asked:
    """A requested certificate and its attempt."""

    def __init__(self, world: World, certificate: Certificate, issuance: Issuance) -> None:
        self.world = world
        self.certificate = certificate
        self.issuance = issuance

    def is_blocked_by(self, code: str, record: str) -> Finding:
        """Attempt and preflight have one blocking finding, and nothing was charged."""
        assert self.issuance.state == State.FAILED, self.issuance.waits_for
        assert self.issuance.error_code == f"preflight_{code}"
        blocking = [each for each in self.found() if each.blocks]
        assert [(each.code, each.record) for each in blocking] == [(code, record)]
        assert self.issuance.error_what == blocking[0].what
        assert "ca.new_order" not in self.world.outside.calls
        self.certificate.refresh_from_db()
        assert self.certificate.renew_at, (
            "it is tried again: somebody may mend the record meanwhile"
        )
        return blocking[0]

    def goes_on_with(self, *codes: str) -> list[Finding]:
        """The attempt is issued, and an event has the findings."""
        assert self.issuance.state == State.ISSUED, (
            self.issuance.waits_for,
            self.issuance.error_what,
        )
        found = self.found()
        assert [(each.code, each.blocks) for each in found] == [(code, False) for code in codes]
        told = IssuanceEvent.objects.filter(step="preflight").values_list("what", flat=True)
        assert list(told) == [" ".join(each.what for each in found)] if codes else not told
        return found

    def found(self) -> list[Finding]:
        return preflight.run(self.certificate)


@pytest.fixture
def ask(world: World, account: Any, credential: Any, dns: NameServer) -> Any:
    def ask(*names: str) -> Asked:
        certificate, issuance = world.create(account, credential, *(names or NAMES))
        world.deliver()
        issuance.refresh_from_db()
        return Asked(world, certificate, issuance)

    return ask


# --- Nothing is wrong ---


def test_a_healthy_zone_has_no_finding_and_is_issued(ask):
    ask().goes_on_with()


def test_a_zone_whose_caa_records_name_the_ca_is_healthy(ask, dns):
    dns.add(
        "example.com",
        "CAA",
        '0 issue "CA.test; accounturi=https://ca.test/acct/1; validationmethods=dns-01,http-01"',
    )
    dns.add("example.com", "CAA", '0 issuewild "ca.test"', '0 iodef "mailto:ops@example.com"')
    ask().goes_on_with()


def test_a_delegated_challenge_is_healthy_before_its_record_exists(ask, dns, world):
    dns.add(CHALLENGE, "CNAME", "a1b2.auth.net.")
    world.zone.cnames[CHALLENGE] = "a1b2.auth.net"  # as the fake CA sees it
    ask().goes_on_with()


# --- CAA ---


def test_caa_records_that_name_another_ca(ask, dns):
    dns.add("example.com", "CAA", '0 issue "other.test"')
    found = ask().is_blocked_by("caa_forbids", "example.com CAA")
    assert "other.test" in found.what
    assert 'example.com. CAA 0 issue "ca.test"' in found.what
    assert "one more name" in found.what  # the wildcard


def test_caa_records_that_allow_no_ca(ask, dns):
    dns.add("example.com", "CAA", '0 issue ";"')
    assert "nobody" in ask().is_blocked_by("caa_forbids", "example.com CAA").what


def test_issuewild_forbids_the_wildcard_and_nothing_else(ask, dns):
    dns.add("example.com", "CAA", '0 issue "ca.test"', '0 issuewild "other.test"')
    found = ask().is_blocked_by("caa_forbids", "example.com CAA")
    assert found.name == "*.example.com"
    assert "CAA 0 issuewild" in found.what
    assert "more name" not in found.what


def test_issuewild_does_not_count_for_a_name_without_wildcard(ask, dns):
    dns.add("example.com", "CAA", '0 issue "ca.test"', '0 issuewild "other.test"')
    ask("example.com").goes_on_with()


def test_caa_records_for_another_account(ask, dns):
    dns.add("example.com", "CAA", '0 issue "ca.test; accounturi=https://ca.test/acct/99"')
    found = ask().is_blocked_by("caa_account", "example.com CAA")
    assert "https://ca.test/acct/99" in found.what
    assert "https://ca.test/acct/1" in found.what


def test_caa_records_for_another_method(ask, dns):
    dns.add("example.com", "CAA", '0 issue "ca.test; validationmethods=http-01"')
    assert "dns-01" in ask().is_blocked_by("caa_method", "example.com CAA").what


def test_an_unknown_critical_caa_tag(ask, dns):
    dns.add("example.com", "CAA", '0 issue "ca.test"', '128 tbs "unknown"')
    assert '128 tbs "unknown"' in ask().is_blocked_by("caa_critical", "example.com CAA").what


def test_caa_records_are_found_by_climbing_and_the_nearest_count(ask, dns):
    dns.add("example.com", "CAA", '0 issue "other.test"')
    dns.add("fine.example.com", "CAA", '0 issue "ca.test"')
    found = ask("a.b.example.com", "a.fine.example.com").is_blocked_by(
        "caa_forbids", "example.com CAA"
    )
    assert found.name == "a.b.example.com"
    assert "more name" not in found.what


def test_caa_records_behind_a_cname_count(ask, dns):
    dns.add("www.example.com", "CNAME", "cdn.auth.net.")
    dns.add("cdn.auth.net", "CAA", '0 issue "other.test"')
    ask("www.example.com").is_blocked_by("caa_forbids", "cdn.auth.net CAA")


# --- Where the challenge leads ---


def test_a_cname_to_a_name_that_does_not_exist(ask, dns):
    dns.add(CHALLENGE, "CNAME", "a1b2.gone.net.")
    found = ask().is_blocked_by("cname_nowhere", f"{CHALLENGE} CNAME")
    assert "a1b2.gone.net" in found.what


def test_cnames_in_a_circle(ask, dns):
    dns.add(CHALLENGE, "CNAME", "one.auth.net.")
    dns.add("one.auth.net", "CNAME", f"{CHALLENGE}.")
    assert "circle" in ask().is_blocked_by("cname_loop", "one.auth.net CNAME").what


def test_a_challenge_label_that_is_delegated_to_a_lame_server(ask, dns):
    dns.add("lame.example.com", "A", NS3)
    dns.add(CHALLENGE, "NS", "lame.example.com.")
    dns.at(RESOLVER).dead = frozenset([CHALLENGE])
    dns.at(NS3).refuses = True
    found = ask().is_blocked_by("delegation_lame", f"{CHALLENGE} NS")
    assert f"lame.example.com ({NS3}, answers REFUSED)" in found.what


def test_a_wildcard_cname_is_reported_without_blocking(ask, dns):
    dns.add("*.example.com", "CNAME", "www.auth.net.")
    (found,) = ask("example.com").goes_on_with("wildcard_cname")
    assert found.record == "*.example.com CNAME"


# --- Servers ---


def test_a_zone_whose_servers_are_all_lame(ask, dns):
    dns.at(RESOLVER).dead = frozenset(["dead.com"])
    dns.at(NS3).refuses = True
    found = ask("www.dead.com").is_blocked_by("no_server", "dead.com NS")
    assert f"ns1.dead.com ({NS3}, answers REFUSED)" in found.what


def test_a_zone_whose_servers_have_no_address(ask, dns):
    dns.add("dead.com", "NS", "gone.net.")
    dns.remove("dead.com", "NS", "ns1.dead.com.")
    dns.at(RESOLVER).dead = frozenset(["dead.com"])
    assert (
        "gone.net (no address)"
        in ask("www.dead.com").is_blocked_by("no_server", "dead.com NS").what
    )


def test_resolvers_that_reach_no_server_are_no_fault_of_the_zone(ask, dns):
    dns.at(RESOLVER).dead = frozenset(["com"])
    dns.at(RESOLVER).cached = frozenset(["com"])
    dns.at(NS3).silent = True
    asked = ask("www.dead.com")
    assert asked.issuance.is_open, asked.issuance.error_what
    assert [each.code for each in asked.found() if each.blocks] == []


def test_one_lame_server_among_others_is_reported_without_blocking(ask, dns):
    dns.at(NS2).refuses = True
    (found,) = ask().goes_on_with("lame_server")
    assert found.record == "example.com NS"
    assert f"ns2.example.com ({NS2}, answers REFUSED)" in found.what
    assert NS1 not in found.what


@pytest.mark.parametrize(
    ("switch", "says"), [("fails", "answers SERVFAIL"), ("without_aa", "not authoritative")]
)
def test_a_server_is_lame_in_several_ways(ask, dns, switch, says):
    setattr(dns.at(NS2), switch, True)
    (found,) = ask().goes_on_with("lame_server")
    assert says in found.what


def test_servers_that_disagree_are_reported_without_blocking(ask, dns):
    dns.at(NS2).lags = 3
    (found,) = ask().goes_on_with("servers_disagree")
    assert found.record == "example.com SOA"
    assert all(server in found.what for server in (NS1, NS2))


def test_a_server_without_address_and_a_silent_one_are_reported(ask, dns):
    dns.add("example.com", "NS", "gone.example.com.")
    dns.at(NS2).silent = True
    asked = ask()
    silent, homeless = asked.goes_on_with("silent_server", "server_not_asked")
    assert asked.issuance.deaf == [f"ns2.example.com ({NS2})"], (
        "nobody waits for it to show the record"
    )
    assert NS2 in silent.what
    assert "gone.example.com (no address)" in homeless.what


def test_a_resolver_that_shows_no_soa_record_is_in_nobodys_way(ask, dns):
    dns.at(RESOLVER).without_soa = True
    (found,) = ask().goes_on_with("unanswered")
    assert "no name above it has a SOA record" in found.what


# --- DNSSEC ---


def test_signatures_that_do_not_validate(ask, dns):
    dns.at(RESOLVER).bogus = frozenset(["example.com"])
    found = ask().is_blocked_by("dnssec", "example.com DS")
    assert "do not validate" in found.what


def test_a_servfail_that_stays_without_checking_is_no_fault_of_dnssec(ask, dns):
    dns.at(RESOLVER).dead = dns.at(RESOLVER).bogus = frozenset(["example.com"])
    asked = ask()
    asked.is_blocked_by("no_server", f"{CHALLENGE} NS")
    assert "dnssec" not in {each.code for each in asked.found()}


# --- The service zone ---


@pytest.fixture
def delegated(world, account, dns, settings):
    """A certificate that uses the service zone auth.net, before its attempt's first turn."""
    operator = User.objects.create_user("operator@example.net", is_staff=True)
    settings.SERVICE_ZONE = "auth.net"
    settings.SERVICE_DNS_CREDENTIAL = world.credential(operator).pk
    return Asked(world, *world.create(account, None, "example.com", "*.example.com"))


def run(asked: Asked) -> Asked:
    asked.world.deliver()
    asked.issuance.refresh_from_db()
    return asked


def test_a_certificate_in_the_service_zone_without_its_cname(delegated):
    found = run(delegated).is_blocked_by("delegation_missing", f"{CHALLENGE} CNAME")
    assert f"CNAME {delegated.certificate.public_id}.auth.net." in found.what
    assert found.fix == f"{CHALLENGE}. CNAME {delegated.certificate.public_id}.auth.net."


def test_a_wildcard_cname_into_the_service_zone_blocks(delegated, dns):
    dns.add("*.example.com", "CNAME", f"{delegated.certificate.public_id}.auth.net.")
    assert (
        "wildcard" in run(delegated).is_blocked_by("delegation_missing", f"{CHALLENGE} CNAME").what
    )


def test_the_cname_may_lead_there_over_others(delegated, dns):
    target = f"{delegated.certificate.public_id}.auth.net"
    dns.add(CHALLENGE, "CNAME", "alias.example.com.")
    dns.add("alias.example.com", "CNAME", f"{target}.")
    delegated.world.zone.cnames[CHALLENGE] = target  # as the fake CA sees it
    run(delegated).goes_on_with()
    delegation.verify(delegated.certificate)
    assert delegated.certificate.verified


# --- The credential, and the CA's limits ---


def test_a_credential_that_does_not_see_the_zone(ask, world):
    world.zone.blinds = ProviderError(
        "dns_zone_not_found", "It sees other.test and no more.", permanent=True
    )
    found = ask().is_blocked_by("zone_not_found", f"{CHALLENGE} TXT")
    assert found.what == "It sees other.test and no more."


def test_more_names_than_the_ca_takes(ask, settings, monkeypatch):
    monkeypatch.setattr(
        validation, "judge", lambda *args: None
    )  # it took more when the certificate was created
    settings.ACME_CAS = {"custom": {"max_names": 1, "label": "Small"}}
    assert "Small takes at most 1" in ask().is_blocked_by("too_many_names", "").what


# --- Outages: nothing is known, so nothing is in the way ---


@pytest.mark.slow
def test_resolvers_that_are_silent_block_nothing(ask, world, dns):
    dns.at(RESOLVER).silent = True
    asked = ask()
    assert "ca.new_order" in world.outside.calls
    (found,) = asked.found()
    assert (found.code, found.blocks) == ("unanswered", False)


def test_resolvers_that_fail_for_everything_block_nothing(ask, world, dns):
    dns.at(RESOLVER).fails = True
    asked = ask()
    assert "ca.new_order" in world.outside.calls
    assert [(each.code, each.blocks) for each in asked.found()] == [("unanswered", False)]


@pytest.mark.slow
def test_unreachable_servers_do_not_block_while_the_resolvers_answer(ask, dns):
    dns.at(NS1).silent = dns.at(NS2).silent = True
    (found,) = ask().goes_on_with("servers_unreachable")
    assert "Port 53" in found.what


@pytest.mark.parametrize(
    "silent",
    [
        pytest.param({RESOLVER}, marks=pytest.mark.slow),
        pytest.param({NS1, NS2}, marks=pytest.mark.slow),
        {RESOLVER, NS1, NS2},
    ],
)
def test_a_preflight_ends_in_time_whatever_servers_do(ask, dns, monkeypatch, silent):
    asked = ask()
    for address in silent:
        dns.at(address).silent = True
    monkeypatch.setattr(queries, "PATIENCE", 30)
    monkeypatch.setattr(checks, "ALONE", 3)
    began = time.monotonic()
    asked.found()
    assert time.monotonic() - began < queries.PATIENCE


# --- The price ---


def test_a_hundred_names_cost_as_many_batches_as_one(ask, dns, world, monkeypatch):
    batches = []
    asks = queries.ask
    monkeypatch.setattr(
        queries,
        "ask",
        lambda several, seconds: asks(batches.append(list(several)) or batches[-1], seconds),
    )
    monkeypatch.setattr(queries, "PATIENCE", 5.0)  # a slow machine asks no question twice
    survey.survey(["example.com"], 20)
    alone = [each for each in batches if each]
    batches.clear()
    names = [f"host{number}.example.com" for number in range(100)]
    seen = survey.survey(names, 20)
    assert len(seen.paths) == len(seen.policies) == 100
    together = [each for each in batches if each]
    assert len(together) <= len(alone) == 5
    assert sum(map(len, together)) <= 4 * 100 + 10
