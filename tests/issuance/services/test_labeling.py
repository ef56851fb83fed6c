"""Labels: a person's words on certificates, counted and cleaned up."""

import pytest

from accounts.models import AuditEvent
from certctrl.errors import Invalid, QuotaExceeded
from issuance import services
from issuance.models import Certificate, Label
from issuance.services import labeling

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def certificate(world, account, credential) -> Certificate:
    return world.create(account, credential, "www.example.com")[0]


def names_of(certificate) -> list[str]:
    return sorted(certificate.labels.values_list("name", flat=True))


def test_labels_replace_those_before(certificate):
    services.set_labels(certificate, ["prod", "  team   a ", "prod", "生产"])
    assert names_of(certificate) == ["prod", "team a", "生产"]
    services.set_labels(certificate, ["prod"])
    assert names_of(certificate) == ["prod"]


def test_a_label_that_nothing_has_is_gone(certificate):
    services.set_labels(certificate, ["prod", "old"])
    services.set_labels(certificate, ["prod"])
    assert services.labels_of(certificate.owner) == ["prod"]
    services.retire(certificate)
    assert not Label.objects.exists()


@pytest.mark.parametrize("text", ["", "  ", "a,b", "x" * 33, "a\u202eb", "a\0b"])
def test_text_that_is_no_label_is_refused(certificate, text):
    with pytest.raises(Invalid):
        services.set_labels(certificate, ["prod", text])
    assert names_of(certificate) == []


def test_a_certificate_has_a_limited_number_of_labels(certificate):
    most = [f"l{number}" for number in range(labeling.MOST_LABELS)]
    services.set_labels(certificate, most)
    with pytest.raises(Invalid):
        services.set_labels(certificate, [*most, "one more"])
    assert len(names_of(certificate)) == labeling.MOST_LABELS


def test_an_owner_has_a_limited_number_of_labels(certificate, monkeypatch):
    monkeypatch.setattr(labeling, "MOST_OF_OWNER", 2)
    services.set_labels(certificate, ["a", "b"])
    with pytest.raises(QuotaExceeded):
        services.set_labels(certificate, ["a", "b", "c"])
    assert names_of(certificate) == ["a", "b"]
    services.set_labels(certificate, ["b", "c"])
    assert names_of(certificate) == ["b", "c"]


def test_a_list_has_no_more_labels_than_an_owner_may_have(certificate, monkeypatch):
    monkeypatch.setattr(labeling, "MOST_OF_OWNER", 2)
    Label.objects.bulk_create(Label(owner=certificate.owner, name=name) for name in "cab")
    assert services.labels_of(certificate.owner) == ["a", "b"]


def test_a_change_of_labels_is_audited_once(certificate):
    services.set_labels(certificate, ["prod"])
    services.set_labels(certificate, ["prod"])
    found = AuditEvent.objects.filter(action="certificate.labels_changed")
    assert [each.detail["labels"] for each in found] == [[[], ["prod"]]]
