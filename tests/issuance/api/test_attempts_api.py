"""Attempts for their owner: start, poll, history, events, cancel, revoke."""

import pytest

from accounts.models import AuditEvent
from authorities.errors import Refused
from issuance.models import Issuance
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db
State = Issuance.State

STATUSES = {
    State.QUEUED: "PENDING",
    State.ORDERED: "PROCESSING",
    State.PRESENTED: "PROCESSING",
    State.PROPAGATED: "PROCESSING",
    State.VALIDATED: "PROCESSING",
    State.FINALIZED: "PROCESSING",
    State.ISSUED: "SUCCESS",
    State.FAILED: "FAILED",
    State.CANCELED: "CANCELLED",
}


def test_every_state_has_its_status():
    assert set(STATUSES) == set(State)


@pytest.mark.parametrize(("state", "status"), STATUSES.items())
def test_a_state_reads_as_the_contracts_status_everywhere(api, issued, state, status):
    attempt = issued.issuances.get()
    open_until = attempt.ended_at if state in Issuance.OPEN else None
    Issuance.objects.update(state=state, wake_at=open_until)
    assert api.get(f"certificates/{issued.pk}/issue-result").data_member["status"] == status
    assert api.get(f"certificates/{issued.pk}/issues").data_member[0]["status"] == status
    progress = api.get(f"certificates/{issued.pk}").data_member["issuance"]
    assert (progress["status"] if progress else None) == (status if open_until else None)


def test_issues_and_renew_answer_with_the_attempt_that_is_open(api, guide):
    made = api.post("certificates", guide()).data_member
    expected = {"issue_history_id": made["issue_history_id"], "status": "PENDING"}
    for verb in ("issues", "renew", "issues"):
        answer = api.post(f"certificates/{made['id']}/{verb}")
        assert (answer.status_code, answer.data_member) == (200, expected)
    assert Issuance.objects.count() == 1


def test_renew_starts_another_attempt_once_the_last_one_ended(world, api, issued):
    first = api.get(f"certificates/{issued.pk}").data_member
    world.advance(60)  # what the CA's resolver keeps of the last challenge is over
    renewed = api.post(f"certificates/{issued.pk}/renew").data_member
    assert renewed["status"] == "PENDING"
    world.deliver()
    second = api.get(f"certificates/{issued.pk}").data_member
    assert second["serial_number"] != first["serial_number"]
    assert [
        row["issue_attempt_number"]
        for row in api.get(f"certificates/{issued.pk}/issues").data_member
    ] == [2, 1]


def test_an_open_attempt_shows_its_wait_and_the_time_of_its_next_look(world, api, guide):
    world.zone.hides = True
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    shown = api.get(f"certificates/{pk}").data_member["issuance"]
    assert (shown["state"], shown["status"]) == ("presented", "PROCESSING")
    assert "_acme-challenge.example.com" in shown["waits_for"]
    assert shown["looks_again_at"] > int(world.time.timestamp())
    result = api.get(f"certificates/{pk}/issue-result").data_member
    assert (result["waits_for"], result["looks_again_at"]) == (
        shown["waits_for"],
        shown["looks_again_at"],
    )


def test_while_a_worker_holds_the_attempt_no_next_time_is_shown(world, api, guide):
    pk = api.post("certificates", guide()).data_member["id"]
    Issuance.objects.update(holder="somebody")
    assert api.get(f"certificates/{pk}").data_member["issuance"]["looks_again_at"] is None


def test_issue_result_is_the_newest_attempts_or_the_one_that_was_named(world, api, issued):
    second = api.post(f"certificates/{issued.pk}/renew").data_member["issue_history_id"]
    first = issued.issuances.order_by("pk").first().pk
    path = f"certificates/{issued.pk}/issue-result"
    newest = api.get(path).data_member
    assert (newest["issue_history_id"], newest["certificate_id"]) == (second, issued.pk)
    assert (newest["status"], newest["error_message"]) == ("PENDING", "")
    assert api.get(f"{path}?issue_history_id={first}").data_member["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("wanted", "status"),
    [("987654", 404), ("x", 400), ("-1", 400), ("%C2%B2", 400), ("9" * 30, 400)],
)
def test_a_result_that_is_not_there_is_refused(api, issued, wanted, status):
    refused(api.get(f"certificates/{issued.pk}/issue-result?issue_history_id={wanted}"), status)


def test_a_certificate_without_attempts_says_how_to_start_one(api, reference):
    pk = api.post("certificates", reference()).data_member["id"]
    what = refused(api.get(f"certificates/{pk}/issue-result"), 404)
    assert "has no attempt yet" in what
    assert f"Start one with POST .../certificates/{pk}/issues." in what
    assert api.get(f"certificates/{pk}/issues").data_member == []


def test_the_cas_own_words_reach_the_person(world, api, guide):
    world.ca.problems["new_order"] = [
        Refused(
            "ca_rejected_identifier",
            "The CA refuses example.com: it is on the list of those we never sign.",
        )
    ]
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    result = api.get(f"certificates/{pk}/issue-result").data_member
    assert (result["status"], result["error_code"]) == ("FAILED", "ca_rejected_identifier")
    assert "on the list of those we never sign" in result["error_message"]
    row = api.get(f"certificates/{pk}/issues").data_member[0]
    assert (row["error_code"], row["error_message"]) == (
        result["error_code"],
        result["error_message"],
    )


def test_a_history_row_is_in_milliseconds_and_open_ones_are_completed_at_0(world, api, guide):
    pk = api.post("certificates", guide()).data_member["id"]
    row = api.get(f"certificates/{pk}/issues").data_member[0]
    attempt = Issuance.objects.get()
    assert row == {
        "id": attempt.pk,
        "cert_record_id": pk,
        "issue_attempt_number": 1,
        "status": "PENDING",
        "state": "queued",
        "reason": "new",
        "acme_order_id": "",
        "error_code": "",
        "error_message": "",
        "failure": "",
        "proves": False,
        "started_at": int(attempt.created_at.timestamp() * 1000),
        "completed_at": 0,
    }
    world.deliver()
    row = api.get(f"certificates/{pk}/issues").data_member[0]
    assert row["acme_order_id"].startswith("https://ca.test/order/")
    assert row["completed_at"] > 1_000_000_000_000


def test_the_older_paths_of_the_history_answer_alike(api, issued):
    rows_of = [
        api.get(f"certificates/{issued.pk}/{path}").data_member
        for path in ("issues", "issues/history", "histories")
    ]
    assert rows_of[0] == rows_of[1] == rows_of[2] != []


def test_events_come_oldest_first_and_after_the_one_that_is_known(api, issued):
    path = f"certificates/{issued.pk}/issues/{issued.issuances.get().pk}/events"
    events = api.get(path).data_member
    assert [event["step"] for event in events] == [
        "order",
        "present",
        "propagate",
        "validate",
        "finalize",
        "download",
    ]
    assert all(event["outcome"] == "done" and event["what"] for event in events)
    assert events[0]["at"] > 1_000_000_000_000, "milliseconds"
    assert api.get(f"{path}?after={events[3]['id']}").data_member == events[4:]
    assert api.get(f"{path}?after={events[-1]['id']}").data_member == []
    assert api.get(f"{path}?limit=2&offset=1").data_member == events[1:3]


@pytest.mark.parametrize("after", ["x", "-1", "%C2%B2", "9" * 30])
def test_events_after_no_number_are_refused(api, issued, after):
    path = f"certificates/{issued.pk}/issues/{issued.issuances.get().pk}/events"
    refused(api.get(f"{path}?after={after}"), 400, "after")


def test_events_of_another_certificates_attempt_are_404(world, api, issued, guide):
    other = api.post("certificates", guide(domain="example.org")).data_member
    refused(api.get(f"certificates/{issued.pk}/issues/{other['issue_history_id']}/events"), 404)


# --- cancel ---


def test_cancel_ends_the_open_attempt(world, api, guide):
    world.zone.hides = True
    made = api.post("certificates", guide()).data_member
    world.deliver()
    answer = api.post(f"certificates/{made['id']}/cancel")
    assert answer.status_code == 200
    assert answer.data_member == {
        "issue_history_id": made["issue_history_id"],
        "status": "CANCELLED",
    }
    world.settle()
    assert world.zone.txt() == []


def test_cancel_is_409_when_nothing_is_open(api, issued):
    answer = api.post(f"certificates/{issued.pk}/cancel")
    assert "example.com has no attempt in progress" in refused(answer, 409)


def test_cancel_is_409_once_the_ca_signs(world, api, guide):
    world.ca.processing_reads = 5
    pk = api.post("certificates", guide()).data_member["id"]
    world.deliver()
    answer = api.post(f"certificates/{pk}/cancel")
    assert "too late" in refused(answer, 409)
    assert answer.error["key"] == "CERTS::TOO_LATE"


# --- revoke ---


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ({}, 0),
        ({"reason": "unspecified"}, 0),
        ({"reason": "keyCompromise"}, 1),
        ({"reason": 1}, 1),
        ({"reason": "affiliationChanged"}, 3),
        ({"reason": 4}, 4),
        ({"reason": "cessationOfOperation"}, 5),
    ],
)
def test_revoke_is_accepted_with_names_and_numbers_and_done_by_a_worker(
    world, api, issued, body, number
):
    answer = api.post(f"certificates/{issued.pk}/revoke", body)
    asked_for = answer.data_member
    assert (answer.status_code, asked_for["status"]) == (202, "active")
    assert (asked_for["revoke_asked_at"], asked_for["revoked_at"]) == (
        int(world.time.timestamp()),
        None,
    )
    assert "The CA has not revoked it yet." in asked_for["note"]
    world.advance(60)
    world.deliver()
    issued.current.refresh_from_db()
    assert issued.current.revoke_reason == number
    assert world.ca.revoked == [issued.current.chain_pem]
    done = api.get(f"certificates/{issued.pk}").data_member
    assert (done["status"], done["revoked_at"]) == ("revoked", int(world.time.timestamp()))
    assert done["revoke_asked_at"] == asked_for["revoke_asked_at"]
    assert "revoked" not in done["note"]


@pytest.mark.parametrize(
    "reason", ["", "badMood", "certificateHold", 2, 6, 99, -1, 1.5, True, [1], {"a": 1}, "x" * 5000]
)
def test_a_reason_that_a_subscriber_may_not_give_is_refused(api, issued, reason):
    before = rows()
    assert "keyCompromise" in refused(
        api.post(f"certificates/{issued.pk}/revoke", {"reason": reason}), 400, "reason"
    )
    assert rows() == before


def test_revoking_twice_is_revoking_once_and_audited(world, api, issued):
    for _ in range(2):
        assert (
            api.post(f"certificates/{issued.pk}/revoke", {"reason": "superseded"}).status_code
            == 202
        )
        world.deliver()
    assert len(world.ca.revoked) == 1
    event = AuditEvent.objects.get(action="certificate.revoked")
    assert (event.actor, event.ip, event.detail["reason"]) == ("alice@example.org", "127.0.0.1", 4)


def test_an_attempt_that_was_never_issued_cannot_be_revoked(api, reference):
    pk = api.post("certificates", reference()).data_member["id"]
    assert "never issued" in refused(api.post(f"certificates/{pk}/revoke", {"reason": 1}), 409)
