"""How many SQL statements and transactions one certificate may cost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from dnsproviders.models import TxtRecord
from issuance import tasks, workflow
from issuance.models import Issuance
from tests.fakes.world import World

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]

# On SQLite a claim takes two statements, and the second is not counted here.
CREATE = 11
STEPS = {"order": 12, "present": 7, "propagate": 5, "validate": 6, "finalize": 4, "download": 8}
TRANSACTIONS = 6  # of more than one statement
MESSAGES = 2  # the chain of the steps, and a cleanup if the sweep comes first
COMMITS = 12  # these, and the single statements that write
STATEMENTS = 40  # the steps of one walk hand down what they know, and short ones end together


@dataclass
class Cost:
    """The statements of a block, and the commits of it that wrote."""

    statements: list[str] = field(default_factory=list)
    transactions: int = 0
    commits: int = 0

    @property
    def of_turns(self) -> int:
        """Return the number of statements without those that only SQLite needs for a claim."""
        reads = sum("RETURNING" not in each and " AS (UPDATE" not in each for each in self.claims)
        return len(self.statements) - reads

    @property
    def claims(self) -> list[str]:
        return [each for each in self.statements if '"deaths" + CASE' in each]


@pytest.fixture
def count(monkeypatch) -> Callable[[], Any]:
    @contextmanager
    def counting() -> Iterator[Cost]:
        cost = Cost()
        real = BaseDatabaseWrapper.commit

        def commit(wrapper: BaseDatabaseWrapper) -> None:
            cost.transactions += 1
            cost.commits += 1
            real(wrapper)

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            # SQLite sends BEGIN as a statement; the drivers of PostgreSQL send it by themselves.
            if not sql.startswith("BEGIN"):
                cost.statements.append(sql)
            is_read = sql.startswith(("SELECT", "BEGIN"))
            cost.commits += not is_read and not connection.in_atomic_block
            return execute(sql, params, many, context)

        with monkeypatch.context() as patch, connection.execute_wrapper(note):
            patch.setattr(BaseDatabaseWrapper, "commit", commit)
            yield cost

    return counting


@pytest.fixture
def api(key_client, owner) -> Any:
    """A client whose API key was used in this minute, so that its use is not noted again."""
    client = key_client(owner, "certificates:*[read,write,issue]")
    client.get("/apiv1/me/certificates")
    return client


def create(api, account, credential, name: str) -> Issuance:
    body = {"domain": name, "acme_account_id": account.pk, "dns_provider_id": credential.pk}
    answer = api.post("/apiv1/me/certificates", body)
    assert answer.status_code == 201
    return Issuance.objects.get(pk=answer.data_member["issue_history_id"])


def test_a_create_keeps_its_budget(api, world, account, credential, count):
    body = {"domain": "a.test", "acme_account_id": account.pk, "dns_provider_id": credential.pk}
    with count() as cost:
        assert api.post("/apiv1/me/certificates", body).status_code == 201
    assert len(cost.statements) <= CREATE, "\n".join(cost.statements)


def test_each_step_keeps_its_budget(api, world: World, account, credential, count):
    issuance = create(api, account, credential, "www.example.com")
    for step in workflow.STEPS:
        with count() as cost:
            assert workflow.take(step, issuance.pk)
        assert cost.of_turns <= STEPS[step.name], "\n".join([step.name, *cost.statements])


def test_one_name_from_post_to_cleaned_keeps_its_budget(api, world, account, credential, count):
    with count() as cost:
        issuance = create(api, account, credential, "www.example.com")
        assert tasks.serve(workflow.STEPS[0], issuance.pk) is None
    assert TxtRecord.objects.get().cleaned_at
    # One statement of `create` above reads the attempt for this test.
    assert cost.of_turns - 1 <= STATEMENTS, "\n".join(cost.statements)
    assert cost.transactions <= TRANSACTIONS
    assert cost.commits <= COMMITS


def test_one_name_from_post_to_cleaned_takes_two_messages(api, world, account, credential):
    create(api, account, credential, "www.example.com")
    while not world.is_quiet():
        world.sweep()
        world.advance(1)
    assert Issuance.objects.get().state == Issuance.State.ISSUED
    assert len(world.sent) <= MESSAGES, world.sent
