"""A profile is ordered if the CA lists it, and the preferred chain is stored if it is offered."""

from datetime import timedelta

import pytest

from authorities import chains, pki
from certctrl.turns import Trouble
from issuance import services
from issuance.models import Issuance
from tests.fakes.ca import sign, under
from tests.issuance.failing import issued, last, read

pytestmark = pytest.mark.django_db
State = Issuance.State
LIFE = timedelta(days=90)


def told(step: str) -> str:
    return " ".join(last().events.filter(step=step).values_list("what", flat=True))


# --- profiles ---


def test_a_profile_that_the_ca_lists_is_ordered_and_stored(world, account, credential):
    world.ca.profiles = {"classic": "", "shortlived": "six days"}
    issued(world, account, credential, profile="shortlived")
    assert world.ca.profiles_ordered == ["shortlived"]
    assert last().profile == "shortlived"
    assert "profile" not in told("order")


def test_a_profile_that_the_ca_does_not_list_is_omitted_with_an_event(world, account, credential):
    world.ca.profiles = {"classic": ""}
    certificate = issued(world, account, credential, profile="tlsserver")
    assert (certificate.status, last().profile, world.ca.profiles_ordered) == ("active", "", [""])
    assert "The CA does not list the profile tlsserver" in told("order")


def test_without_a_profile_the_directory_is_not_asked(world, account, credential):
    issued(world, account, credential)
    assert "ca.profiles" not in world.outside.calls
    assert world.ca.profiles_ordered == [""]


def test_an_order_that_makes_the_ca_fail_is_reported_once(world, account, credential):
    world.ca.problems["new_order"] = [Trouble("ca_unreachable", "No answer.")] * 2
    world.create(account, credential, profile="tlsserver")
    world.deliver()
    world.advance(60)
    world.sweep()
    world.advance(60)
    world.sweep()
    assert last().state == State.ISSUED
    assert told("order").count("tlsserver") == 1


def test_a_changed_profile_is_ordered_by_the_next_attempt(world, account, credential):
    world.ca.profiles = {"classic": "", "tlsserver": ""}
    certificate = issued(world, account, credential, profile="classic")
    services.update_certificate(certificate, {"profile": "tlsserver"})
    services.issue(read(certificate))
    world.deliver()
    assert world.ca.profiles_ordered == ["classic", "tlsserver"]


# --- chains ---


def test_the_alternate_with_the_preferred_issuer_is_taken(world, account, credential):
    world.ca.alternates = ("Root X2", "Root YE", "Root X9")
    certificate = issued(world, account, credential, preferred_chain="Root YE")
    assert pki.issuers_of(certificate.current.chain_pem) == ["fake CA", "Root YE"]
    assert told("download") == "the certificate is stored, with the chain of Root YE"
    assert world.outside.calls.count("ca.alternate") == 2, "the third is not asked for"


def test_a_default_that_has_it_is_taken_without_asking_for_more(world, account, credential):
    world.ca.alternates = ("Root X2",)
    issued(world, account, credential, preferred_chain="fake CA")
    assert "ca.alternate" not in world.outside.calls
    assert told("download") == "the certificate is stored, with the chain of fake CA"


def test_without_the_preferred_chain_the_default_is_stored_with_an_event(
    world, account, credential
):
    world.ca.alternates = ("Root X2",)
    certificate = issued(world, account, credential, preferred_chain="Root YE")
    assert pki.issuers_of(certificate.current.chain_pem) == ["fake CA", "fake CA"]
    assert told("download") == (
        "the certificate is stored, with the CA's default chain, "
        "because it offered no chain of Root YE"
    )


def test_without_a_preference_the_default_is_stored_and_nothing_said(world, account, credential):
    world.ca.alternates = ("Root X2",)
    issued(world, account, credential)
    assert told("download") == "the certificate is stored"
    assert "ca.alternate" not in world.outside.calls


# --- choosing ---


@pytest.fixture
def default() -> str:
    csr_pem = pki.csr(pki.new_key("ecdsa", 256), ["example.com"])
    return sign(csr_pem, LIFE)


def broken(default: str) -> str:
    """Return the leaf with an issuer that did not sign it."""
    other = sign(pki.csr(pki.new_key("ecdsa", 256), ["example.com"]), LIFE)
    return pki.split_chain(default).leaf + pki.split_chain(other).leaf


def test_an_alternate_that_is_broken_or_of_another_leaf_is_passed_over(default):
    other = under(sign(pki.csr(pki.new_key("ecdsa", 256), ["example.com"]), LIFE), "Root")
    good = under(default, "Root")
    assert chains.choose(default, ["", "nonsense", broken(default), other, good], "Root") == good
    assert chains.choose(default, ["", other], "Root") == default


def test_issuers_are_named_from_the_leaf_upwards(default):
    assert pki.issuers_of(under(default, "Root")) == ["fake CA", "Root"]
    with pytest.raises(pki.BadChain):
        pki.issuers_of("nonsense")


@pytest.mark.parametrize("kind", [("ecdsa", 256), ("ecdsa", 384), ("rsa", 2048)])
def test_a_key_kind_is_recognized_in_the_certificate(kind):
    csr_pem = pki.csr(pki.new_key(*kind), ["example.com"])
    chain_pem = sign(csr_pem, LIFE)
    assert pki.key_kind(chain_pem) == kind
    assert pki.same_key(chain_pem, csr_pem)
    assert not pki.same_key(chain_pem, pki.csr(pki.new_key(*kind), ["example.com"]))


@pytest.mark.parametrize(
    ("link", "urls"),
    [
        ("", []),
        ('<https://ca.test/1>;rel="alternate"', ["https://ca.test/1"]),
        (
            '<https://ca.test/dir>;rel="index", <https://ca.test/1>; rel="alternate"',
            ["https://ca.test/1"],
        ),
        (
            "<https://ca.test/1>;rel=alternate, <https://ca.test/1>;rel=alternate",
            ["https://ca.test/1"],
        ),
        ('<https://ca.test/1>;rel="up Alternate"', ["https://ca.test/1"]),
        ('</cert/1/2>;rel="alternate"', ["https://ca.test/cert/1/2"]),
        ('<file:///etc/passwd>;rel="alternate", <https://[::1>;rel="alternate"', []),
        ("<;;;=>;=,<", []),
        (
            ", ".join(f'<https://ca.test/{n}>;rel="alternate"' for n in range(9)),
            [f"https://ca.test/{n}" for n in range(5)],
        ),
    ],
)
def test_links_are_read_as_rfc_8288_has_them_and_five_are_followed(link, urls):
    assert chains.alternates(link, "https://ca.test/cert/1") == urls
