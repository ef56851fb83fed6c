"""A search finds certificates by the beginning of a label, or by a whole serial number."""

import pytest

from issuance import services
from issuance.models import Certificate, NamePart
from issuance.services import searching
from tests.issuance.failing import issued, read

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def certificate(world, account, credential) -> Certificate:
    return issued(world, account, credential, "www.shop.example.com", "*.example.org")


def found(owner, words: str) -> list[Certificate]:
    return list(services.search(services.of_owner(owner), owner, words))


@pytest.mark.parametrize("words", ["www", "shop.ex", "SHOP", "example.com", "*.exa", "example.org"])
def test_a_name_is_found_by_the_beginning_of_a_label(certificate, owner, words):
    assert found(owner, words) == [certificate]


@pytest.mark.parametrize("words", ["hop", "com", "org", "ww.", "%", "_", "é", "example.com.", '"'])
def test_other_words_find_nothing(certificate, owner, words):
    assert found(owner, words) == []


@pytest.mark.parametrize("mark", ["", ":"])
def test_a_version_is_found_by_its_serial_number(certificate, owner, mark):
    serial = read(certificate).current.serial.upper()
    pairs = [serial[at : at + 2] for at in range(0, len(serial), 2)]
    assert found(owner, mark.join(pairs)) == [certificate]
    assert found(owner, serial[:-1]) == []


def test_certificates_of_others_are_not_found(certificate, bob):
    assert found(bob, "www") == []
    assert found(bob, read(certificate).current.serial) == []


def test_many_certificates_with_the_same_beginning_are_found(
    world, account, credential, certificate, owner, monkeypatch
):
    monkeypatch.setattr(searching, "MOST", 1)
    issued(world, account, credential, "mail.shop.example.com")
    issued(world, account, credential, "workshop.example.com")
    assert {each.domain for each in found(owner, "shop")} == {
        "www.shop.example.com",
        "mail.shop.example.com",
    }


def test_parts_follow_the_names_and_the_life_of_a_certificate(certificate, owner):
    certificate.names = ["new.example.net"]
    certificate.save()
    assert found(owner, "shop") == []
    assert found(owner, "new") == [certificate]
    services.retire(certificate)
    assert not NamePart.objects.exists()
