"""A whole order at a strict Pebble that refuses a tenth of all nonces, with a real name server."""

import threading

import pytest

from authorities import acme, pki
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import Trouble, Wait
from issuance.challenges.dns01 import txt_value
from tests.e2e import pebble

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        bool(pebble.missing()), reason=f"needs Debian's {pebble.missing()} (apt-get install)"
    ),
]
EAB = {"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with pebble.running(tmp_path_factory.mktemp("pebble")) as running:
        yield running


@pytest.fixture
def ca(lab, settings):
    settings.ACME_CA_BUNDLE = lab.ca_bundle
    client = acme.AcmeCA(lab.directory_url, acme.new_account_key(), email="owner@example.com")
    client.register()
    return client


def until(read, *statuses):
    """Read again until the status is one of `statuses`, as the steps do over many turns."""
    pause = threading.Event()
    end = clock.monotonic() + 30
    while clock.monotonic() < end:
        found = read()
        if found.status in statuses:
            return found
        pause.wait(0.1)
    raise AssertionError(f"still {found.status}")


def challenge_of(authorization):
    return authorization.choosing("dns-01").challenge


def records_of(ca, order):
    found = [ca.read_authorization(url) for url in order.authorizations]
    return found, [
        (f"_acme-challenge.{each.identifier}.", txt_value(challenge_of(each).key_authorization))
        for each in found
        if each.status == "pending"
    ]


def issue(ca, lab, names):
    key = pki.new_key("ecdsa", 256)
    csr_pem = pki.csr(key, names)
    order = ca.new_order(names)
    authorizations, records = records_of(ca, order)
    for name, value in records:
        lab.publish(name, value)
    for each in authorizations:
        ca.answer(challenge_of(each).url)
    ready = until(lambda: ca.read_order(order.url), "ready", "invalid")
    assert ready.status == "ready", ready.problem
    ca.finalize(ready, csr_pem)
    valid = until(lambda: ca.read_order(order.url), "valid", "invalid")
    for name, value in records:
        lab.withdraw(name, value)
    return ca.download(valid.certificate_url), csr_pem, authorizations, order


def test_apex_and_wildcard_are_issued_and_the_zone_is_clean_afterwards(ca, lab, tmp_path):
    names = [f"a.{lab.zone}", f"*.a.{lab.zone}"]
    chain, csr_pem, authorizations, order = issue(ca, lab, names)
    facts = pki.check_chain(chain, csr_pem, names).facts
    assert facts.not_after > clock.now()
    assert order.expires_at > clock.now()
    assert order.expires_at.utcoffset().total_seconds() == 0
    assert {(each.identifier, each.wildcard) for each in authorizations} == {
        (f"a.{lab.zone}", False),
        (f"a.{lab.zone}", True),
    }
    assert len({txt_value(challenge_of(each).key_authorization) for each in authorizations}) == 2
    assert lab.left_over() == {}
    root = pki.load_chain(lab.root_pem())[0]
    pki.load_chain(chain)[-1].verify_directly_issued_by(root)


def test_the_same_key_registers_once(ca, lab):
    key = acme.new_account_key()
    first, second = (acme.AcmeCA(lab.directory_url, key).register() for _ in range(2))
    assert first.url == second.url != ca.url
    assert second.status == "valid"


def test_a_record_that_is_not_there_ends_the_attempt_in_the_cas_words(ca, lab):
    order = ca.new_order([f"missing.{lab.zone}"])
    (authorization,), _ = records_of(ca, order)
    ca.answer(challenge_of(authorization).url)
    read = until(lambda: ca.read_authorization(authorization.url), "invalid")
    assert read.problem.type == "unauthorized"
    assert read.problem.code == "ca_unauthorized"
    assert not read.problem.permanent
    assert "TXT" in read.problem.detail
    assert until(lambda: ca.read_order(order.url), "invalid").status == "invalid"


def test_answering_twice_changes_nothing(ca, lab):
    order = ca.new_order([f"twice.{lab.zone}"])
    (authorization,), ((name, value),) = records_of(ca, order)
    lab.publish(name, value)
    ca.answer(challenge_of(authorization).url)
    until(lambda: ca.read_order(order.url), "ready")
    ca.answer(challenge_of(authorization).url)
    assert ca.read_order(order.url).status == "ready"
    lab.withdraw(name, value)


def test_a_csr_that_comes_too_early_is_to_wait(ca, lab):
    names = [f"early.{lab.zone}"]
    order = ca.new_order(names)
    with pytest.raises(Wait) as caught:
        ca.finalize(order, pki.csr(pki.new_key("ecdsa", 256), names))
    assert caught.value.seconds >= 1


def test_a_csr_for_other_names_is_refused_for_good(ca, lab):
    order = ca.new_order([f"csr.{lab.zone}"])
    (authorization,), ((name, value),) = records_of(ca, order)
    lab.publish(name, value)
    ca.answer(challenge_of(authorization).url)
    ready = until(lambda: ca.read_order(order.url), "ready")
    lab.withdraw(name, value)
    with pytest.raises(Refused) as caught:
        ca.finalize(ready, pki.csr(pki.new_key("ecdsa", 256), [f"other.{lab.zone}"]))
    assert caught.value.code in ("ca_unauthorized", "ca_bad_csr")


def test_a_name_that_the_ca_will_not_certify_is_refused_for_good(ca, lab):
    with pytest.raises(Refused) as caught:
        ca.new_order([f"blocked.{lab.zone}"])
    assert caught.value.code == "ca_rejected_identifier"
    assert caught.value.permanent
    assert f"blocked.{lab.zone}" in caught.value.what


def test_a_certificate_is_revoked_and_revoking_it_again_is_success(ca, lab):
    chain, *_ = issue(ca, lab, [f"revoked.{lab.zone}"])
    ca.revoke(chain, 1)
    ca.revoke(chain, 1)


def test_an_account_unknown_to_the_ca_has_an_error_of_its_own(ca, lab):
    ca.url = ca.url + "0"
    with pytest.raises(Trouble) as caught:
        ca.new_order([f"a.{lab.zone}"])
    assert caught.value.code == "ca_account_unknown"
    assert not isinstance(caught.value, Refused)


def test_a_ca_whose_certificate_is_not_trusted_is_said_to_be_so(lab, settings):
    settings.ACME_CA_BUNDLE = ""
    stranger = acme.AcmeCA(
        lab.directory_url.replace("localhost", "127.0.0.1"), acme.new_account_key()
    )
    with pytest.raises(Trouble) as caught:
        stranger.register()
    assert caught.value.code == "ca_unreachable"
    assert "certificate" in caught.value.what


@pytest.fixture(scope="module")
def bound_lab(tmp_path_factory):
    with pebble.running(tmp_path_factory.mktemp("bound"), eab=EAB) as running:
        yield running


@pytest.mark.parametrize(
    ("external", "code"),
    [
        (None, "ca_external_account_required"),
        (acme.ExternalAccount("kid-2", EAB["kid-1"]), "ca_bad_eab"),
        (acme.ExternalAccount("kid-1", EAB["kid-1"][::-1]), "ca_bad_eab"),
        (acme.ExternalAccount("kid-1", "not base64url!"), "ca_bad_eab"),
        (acme.ExternalAccount("kid-1", EAB["kid-1"]), ""),
    ],
)
def test_an_external_account_is_bound_or_refused_for_good(bound_lab, settings, external, code):
    settings.ACME_CA_BUNDLE = bound_lab.ca_bundle
    client = acme.AcmeCA(bound_lab.directory_url, acme.new_account_key(), external=external)
    if not code:
        assert client.register().status == "valid"
        return
    with pytest.raises(Refused) as caught:
        client.register()
    assert (caught.value.code, caught.value.permanent) == (code, True)
    assert EAB["kid-1"] not in str(caught.value)
