"""Debugging over HTTP: the owner of an account turns it on and reads the exchanges."""

from datetime import timedelta

import pytest

from authorities.models import AcmeAccount, Exchange
from issuance.beat import pruning
from issuance.models import Certificate, Issuance
from tests.issuance.api.calling import refused

pytestmark = pytest.mark.django_db

ACCOUNT = {"ca_provider": "letsencrypt", "email": "a@example.com", "terms_accepted": True}


@pytest.fixture
def attempt(issued: Certificate) -> Issuance:
    return issued.issuances.get()


def keep(world, account: AcmeAccount, issuance: Issuance | None, *steps: str) -> None:
    for step in steps:
        Exchange.objects.create(
            account=account,
            attempt_id=issuance.pk if issuance else None,
            at=world.time,
            step=step,
            method="POST",
            url=f"https://ca.test/{step}",
            request={"identifiers": []},
            status=400,
            headers={"Retry-After": "7"},
            body='{"type": "x"}',
            problem={"type": "x"},
            took_ms=12,
        )


def path(attempt: Issuance) -> str:
    return f"certificates/{attempt.certificate_id}/issues/{attempt.pk}/exchanges"


def test_the_owner_reads_an_attempts_exchanges_oldest_first_in_pages(world, api, attempt):
    keep(world, attempt.account, attempt, "order", "validate", "finalize")
    keep(world, attempt.account, None, "register")
    rows = api.get(path(attempt)).data_member
    assert [row["step"] for row in rows] == ["order", "validate", "finalize"]
    assert rows[0] | {"id": 0} == {
        "id": 0,
        "at": int(world.time.timestamp() * 1000),
        "step": "order",
        "party": "",
        "method": "POST",
        "url": "https://ca.test/order",
        "request": {"identifiers": []},
        "status": 400,
        "headers": {"Retry-After": "7"},
        "body": '{"type": "x"}',
        "problem": {"type": "x"},
        "error": "",
        "took_ms": 12,
    }
    assert [row["step"] for row in api.get(f"{path(attempt)}?offset=1&limit=1").data_member] == [
        "validate"
    ]


def test_one_answer_holds_a_hundred_at_most(world, api, attempt):
    keep(world, attempt.account, attempt, *["order"] * 101)
    assert len(api.get(f"{path(attempt)}?limit=1000").data_member) == 100
    assert len(api.get(f"{path(attempt)}?limit=1000&offset=100").data_member) == 1


def test_an_accounts_own_exchanges_are_those_of_registering(world, api, attempt):
    keep(world, attempt.account, attempt, "order")
    keep(world, attempt.account, None, "register", "register")
    rows = api.get(f"acme-accounts/{attempt.account_id}/exchanges").data_member
    assert [row["step"] for row in rows] == ["register", "register"]
    assert rows[0]["id"] < rows[1]["id"]


def test_a_stranger_finds_neither(world, bobs, attempt):
    keep(world, attempt.account, attempt, "order")
    keep(world, attempt.account, None, "register")
    refused(bobs.get(path(attempt)), 404)
    refused(bobs.get(f"acme-accounts/{attempt.account_id}/exchanges"), 404)


def test_an_attempt_of_another_certificate_is_not_found_under_this_one(
    world, api, account, credential, attempt
):
    other, _ = world.create(account, credential, "other.example.com")
    refused(api.get(f"certificates/{other.pk}/issues/{attempt.pk}/exchanges"), 404)


def test_a_key_that_reads_the_certificate_reads_its_exchanges(keyed, attempt):
    assert (
        keyed(f"certificates:{attempt.certificate_id}[read]").get(path(attempt)).status_code == 200
    )
    refused(keyed("certificates:*[write,issue]").get(path(attempt)), 403)
    accounts = f"acme-accounts/{attempt.account_id}/exchanges"
    assert keyed("acme_accounts:*[read]").get(accounts).status_code == 200
    refused(keyed("certificates:*[read]").get(accounts), 403)


def test_debugging_is_turned_on_and_off_per_account(api):
    made = api.post("acme-accounts", ACCOUNT).data_member
    assert (made["log_level"], made["save_requests"]) == ("", False)
    where = f"acme-accounts/{made['id']}"
    changed = api.put(where, {"log_level": "debug", "save_requests": True}).data_member
    assert (changed["log_level"], changed["save_requests"]) == ("debug", True)
    assert api.put(where, api.get(where).data_member).data_member["log_level"] == "debug", (
        "a GET is sent back whole"
    )
    assert api.put(where, {"name": "another"}).data_member["log_level"] == "debug"
    assert api.put(where, {"log_level": ""}).data_member["log_level"] == ""


def test_an_account_is_made_with_debugging_on(api):
    made = api.post(
        "acme-accounts", ACCOUNT | {"log_level": "debug", "save_requests": True}
    ).data_member
    assert AcmeAccount.objects.filter(pk=made["id"], log_level="debug", save_requests=True).exists()


@pytest.mark.parametrize(
    "given", [{"log_level": "loud"}, {"log_level": 7}, {"save_requests": "often"}]
)
def test_another_level_is_refused(api, given):
    refused(api.post("acme-accounts", ACCOUNT | given), 400, next(iter(given)))


def test_pruned_exchanges_are_not_shown(world, api, attempt):
    keep(world, attempt.account, attempt, "order")
    Exchange.objects.update(at=world.time - timedelta(days=15))
    pruning.prune.run()
    assert api.get(path(attempt)).data_member == []
