"""The API of audit events."""

import pytest

from accounts import audit, chain

pytestmark = pytest.mark.django_db
PATH = "/apiv1/me/audit-events"


@pytest.fixture
def noted(alice):
    return audit.record(alice, "ci", "certificate.created", "certificate:2", names=["a.test"])


def test_the_owner_reads_the_events_of_own_objects(client_of, alice, bob, noted):
    shown = client_of(alice).get(f"{PATH}?actor=ci").data_member
    assert [(each["action"], each["is_intact"]) for each in shown] == [
        ("certificate.created", None)
    ]
    chain.seal()
    shown = client_of(alice).get(f"{PATH}?action=certificate.").data_member
    assert shown[0]["is_intact"] is True
    assert shown[0]["detail"] == {"names": ["a.test"]}
    assert client_of(bob).get(f"{PATH}?actor=ci").data_member == []


def test_a_key_needs_read_on_audit(key_client, alice, noted):
    assert len(key_client(alice, "audit:*[read]").get(f"{PATH}?actor=ci").data_member) == 1
    assert key_client(alice, "certificates:*[read]").get(PATH).status_code == 403


@pytest.mark.parametrize("query", ["since=soon", "action=" + "x" * 65])
def test_a_bad_filter_is_400(client_of, alice, query):
    assert client_of(alice).get(f"{PATH}?{query}").status_code == 400
