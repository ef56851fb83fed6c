"""A validation method that the steps do not know, from the order to its removal."""

from typing import ClassVar

import pytest

from issuance import services
from issuance.challenges import registry
from issuance.challenges.base import Challenge, Judgement
from issuance.models import Authorization, Issuance

pytestmark = pytest.mark.django_db
State = Issuance.State


class Toy(Challenge):
    """It needs nothing. It presents key authorizations into the dict where the fake CA looks."""

    type: ClassVar[str] = "toy-01"

    def __init__(self, proofs: dict[str, str]) -> None:
        self.proofs = proofs
        self.noted: dict[str, str] = {}
        self.presented: list[str] = []

    def prepare(self, issuance, seen, offered, found):
        def note():
            self.noted[seen.identifier] = offered.key_authorization
            return {}

        return note

    def present(self, issuance, pending):
        names = [each.identifier for each in pending]
        self.proofs.update({name: self.noted[name] for name in names})
        self.presented += names
        return f"{len(names)} toys are presented"

    def look(self, pending):
        return {
            pk: [each.identifier in self.proofs for each in rows] for pk, rows in pending.items()
        }

    def judge(self, issuance, seen):
        assert all(seen)
        return Judgement("the toys are there")

    def present_again(self, absent):
        raise AssertionError("nothing is absent")

    def release(self, issuance, at=None):
        for name in issuance.certificate.names:
            self.proofs.pop(name, None)


@pytest.fixture
def toy(world, monkeypatch) -> Toy:
    toy = Toy(world.ca.proofs)
    monkeypatch.setattr(registry, "CHALLENGES", [toy, *registry.CHALLENGES])
    return toy


def test_a_new_method_issues_and_is_removed(world, account, credential, toy):
    world.ca.offers = toy.type
    world.create(account, credential, "example.com")
    world.deliver()
    assert Issuance.objects.get().state == State.ISSUED
    assert Authorization.objects.get().challenge == "toy-01"
    assert (toy.presented, toy.proofs) == (["example.com"], {})
    assert world.zone.txt() == []


def test_a_ca_that_does_not_offer_it_is_refused(world, account, credential, toy):
    world.create(account, credential, "example.com")
    world.deliver()
    found = Issuance.objects.get()
    assert (found.state, found.error_code) == (State.FAILED, "ca_no_challenge")
    assert found.error_what == (
        "The CA offers no toy-01 challenge for example.com. Choose another CA."
    )
    assert toy.presented == []


def test_a_wildcard_is_refused_unless_the_method_serves_it(world, account, credential, toy):
    world.ca.offers = toy.type
    world.create(account, credential, "*.example.com")
    world.deliver()
    assert Issuance.objects.get().error_code == "ca_no_challenge"


def test_it_is_removed_when_the_attempt_fails(world, account, credential, toy, monkeypatch):
    world.ca.offers = toy.type
    monkeypatch.setattr(world.ca, "proofs", {"example.com": "another proof"})
    world.create(account, credential, "example.com")
    world.deliver()
    assert Issuance.objects.get().state == State.FAILED
    assert (toy.presented, toy.proofs) == (["example.com"], {})


def test_it_is_removed_when_the_attempt_is_canceled(world, account, credential, toy):
    world.ca.offers, world.ca.validation_reads = toy.type, 10**6
    certificate, _ = world.create(account, credential, "example.com")
    world.deliver()
    assert "example.com" in toy.proofs
    services.cancel(certificate)
    assert Issuance.objects.get().state == State.CANCELED
    assert toy.proofs == {}
