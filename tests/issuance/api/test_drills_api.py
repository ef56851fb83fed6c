"""Drills over HTTP are only for staff with a session."""

import pytest

from accounts.models import AuditEvent, User
from issuance import services
from issuance.beat import renewals
from issuance.models import Certificate, Drill
from tests import factories
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db

CALLS = (
    ("post", "drills"),
    ("get", "drills"),
    ("get", "drills/1"),
    ("post", "drills/1/stop"),
    ("post", "drills/1/resume"),
)


@pytest.fixture
def root(db) -> User:
    return factories.UserFactory(email="root@example.org", is_staff=True)


@pytest.fixture
def staff(client_of, root) -> Caller:
    return Caller(client_of(root), "/apiv1")


def call(caller: Caller, method: str, path: str):
    return caller.post(path, {"issuer": "fake CA"}) if method == "post" else caller.get(path)


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_user_who_is_not_staff_is_refused(
    client_of, key_client, alice, root, issued, method, path
):
    refused(call(Caller(client_of(alice), "/apiv1"), method, path), 403)
    refused(call(Caller(client_of(), "/apiv1"), method, path), 401)
    key = Caller(key_client(root, "certificates:*[read,write,issue]"), "/apiv1")
    assert "An API key cannot do this" in refused(call(key, method, path), 403)
    assert not Drill.objects.exists()


def test_a_broken_body_neither_stops_nor_resumes_a_drill(world, staff, issued):
    where = f"drills/{staff.post('drills', {'issuer': 'fake CA'}).data_member['id']}"
    for verb in ("stop", "resume"):
        refused(staff.post(f"{where}/{verb}", b"{", content_type="application/json"), 400)
        assert staff.get(where).data_member["status"] == "running"


def test_a_drill_is_started_watched_stopped_and_resumed(world, staff, issued):
    world.advance(60)  # what the CA's resolver keeps of the last challenge is over
    made = staff.post("drills", {"issuer": "fake CA", "why": "an exercise"})
    assert made.status_code == 201, made.content
    shown = made.data_member
    assert (shown["issuer"], shown["acme_account_id"], shown["why"]) == (
        "fake CA",
        None,
        "an exercise",
    )
    assert (shown["by"], shown["status"], shown["total"], shown["ended_at"]) == (
        "root@example.org",
        "running",
        1,
        None,
    )
    assert shown["count"] == {"total": 1, "left": 1, "skipped": 0, "failing": 0}
    where = f"drills/{shown['id']}"
    assert staff.get("drills").data_member == [
        {name: value for name, value in shown.items() if name not in ("count", "skipped")}
    ]
    assert staff.post(f"{where}/stop").data_member["status"] == "stopped"
    assert staff.post(f"{where}/resume").data_member["status"] == "running"
    renewals.advance_drills.run()
    renewals.scan_renewals.run()
    world.sweep()
    renewals.advance_drills.run()
    shown = staff.get(where).data_member
    assert (shown["status"], shown["count"]["left"]) == ("ended", 0)
    assert 1_000_000_000 < shown["ended_at"] < 10_000_000_000, "epoch seconds"
    refused(staff.post(f"{where}/stop"), 409)
    event = AuditEvent.objects.filter(action__startswith="drill.").first()
    assert (event.actor, event.ip) == ("root@example.org", "127.0.0.1")


def test_it_names_those_that_it_leaves_alone(staff, issued):
    services.update_certificate(issued, {"auto_renew": False})
    shown = staff.post("drills", {"acme_account_id": issued.account_id}).data_member
    assert shown["count"] == {"total": 1, "left": 0, "skipped": 1, "failing": 0}
    assert shown["skipped"] == [
        {"id": issued.pk, "domain": "example.com", "owner": "alice@example.org"}
    ]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "issuer"),
        ({"issuer": "fake CA", "acme_account_id": 1}, 400, None),
        ({"issuer": "R11"}, 404, "issuer"),
        ({"acme_account_id": 987654}, 404, "acme_account_id"),
        ({"acme_account_id": "one"}, 400, "acme_account_id"),
        ({"issuer": "fake CA", "why": "w" * 256}, 400, "why"),
        ({"issuer": ["fake CA"]}, 400, "issuer"),
    ],
)
def test_an_invalid_drill_is_refused_with_a_sentence(staff, issued, body, status, field):
    if "issuer" in body and "acme_account_id" in body:
        body = body | {"acme_account_id": issued.account_id}
    refused(staff.post("drills", body), status, field)
    assert not Drill.objects.exists()


def test_an_unknown_issuer_is_answered_with_those_there_are(staff, issued):
    assert "there are fake CA" in refused(staff.post("drills", {"issuer": "R11"}), 404)


def test_a_second_one_for_the_same_is_409(staff, issued):
    staff.post("drills", {"issuer": "fake CA"})
    assert "is already running" in refused(staff.post("drills", {"issuer": "fake CA"}), 409)


def test_a_drill_that_there_is_not_is_404(staff):
    for method, path in CALLS[2:]:
        refused(call(staff, method, path), 404)


def test_the_newest_comes_first_in_pages(staff, issued, root):
    for issuer in ("A", "B", "C"):
        Drill.objects.create(by=root, issuer=issuer)
    assert [each["issuer"] for each in staff.get("drills").data_member] == ["C", "B", "A"]
    assert [each["issuer"] for each in staff.get("drills?offset=1&limit=1").data_member] == ["B"]
    assert Certificate.objects.count() == 1
