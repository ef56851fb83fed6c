"""The statements that run every second, and those of each list page, read only what they need.

The database explains each statement that a test ran. A scan of a whole table fails the test, and so
does the scan of a whole index that is not partial.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.db.models import CheckConstraint

from accounts.models import User
from authorities.models import AcmeAccount, Exchange
from devices import installplans
from devices.models import InstallPlan
from dnsproviders.models import TxtRecord
from issuance import rollout, services
from issuance.beat import admission, clockstep, pruning, renewals, rollouts, sweep
from issuance.beat.due import due_tables
from issuance.models import (
    Authorization,
    Certificate,
    CertificateVersion,
    Deployment,
    Issuance,
    IssuanceEvent,
    LimitBucket,
    Probe,
    RenewalInfo,
    RequestKey,
    Reservation,
    ReservedToken,
)
from issuance.rollout import Report
from notices import raising
from notices.models import Delivery, Notice
from tests import factories
from tests.fakes import waiting
from tests.issuance.failing import issued, read

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]

# The tables that grow.
GROWING = (
    AcmeAccount,
    Authorization,
    Certificate,
    CertificateVersion,
    Delivery,
    Deployment,
    Exchange,
    Issuance,
    IssuanceEvent,
    LimitBucket,
    InstallPlan,
    Notice,
    Probe,
    RenewalInfo,
    RequestKey,
    Reservation,
    ReservedToken,
    TxtRecord,
)
TABLES = {each._meta.db_table for each in GROWING}
PARTIAL = {
    index.name: model._meta.db_table
    for model in apps.get_models()
    for index in (*model._meta.indexes, *model._meta.constraints)
    if not isinstance(index, CheckConstraint) and index.condition is not None
}

ALIAS = re.compile(r'"(\w+)" (\w+)\b')

Statement = tuple[str, Any]


@contextmanager
def statements() -> Iterator[list[Statement]]:
    """Collect the statements of the body, with their parameters."""
    ran: list[Statement] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not many and re.match("SELECT|UPDATE|DELETE|WITH", sql):
            ran.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield ran


def scans(ran: list[Statement]) -> set[str]:
    """Return the scans of whole tables and whole indexes, each with its statement."""
    explain = {"sqlite": _sqlite_scans, "postgresql": _postgres_scans}[connection.vendor]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Autovacuum may have counted the few rows of an earlier test. Without statistics, the
            # planner always takes the same plan.
            of_tables = "relnamespace = current_schema()::regnamespace AND relkind = 'r'"
            cursor.execute(
                f"DELETE FROM pg_statistic USING pg_class WHERE starelid = oid AND {of_tables}"
            )
            cursor.execute(f"UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE {of_tables}")
            # In tables of a few rows, the planner would read all of them.
            for way in ("seqscan", "hashjoin", "mergejoin", "material"):
                cursor.execute(f"SET LOCAL enable_{way} = off")
        return {f"{scan}: {sql}" for sql, params in ran for scan in explain(cursor, sql, params)}


def _sqlite_scans(cursor: Any, sql: str, params: Any) -> Iterator[str]:
    cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
    named = TABLES | {alias for table, alias in ALIAS.findall(sql) if table in TABLES}
    for *_, detail in cursor.fetchall():
        found = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", detail)
        if found and found[1] in named and found[2] not in PARTIAL:
            yield detail


def _postgres_scans(cursor: Any, sql: str, params: Any) -> Iterator[str]:
    cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
    found = cursor.fetchone()[0]
    todo = [(json.loads(found) if isinstance(found, str) else found)[0]["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in TABLES:
            yield f"Seq Scan of {node['Relation Name']}"
        index = node.get("Index Name")
        if index and "Index Cond" not in node and index not in PARTIAL:
            yield f"{node['Node Type']} of {index}"


@pytest.fixture
def rows(world, account, credential, owner) -> Certificate:
    """A certificate, and a row of each kind that the sweep serves, each due now."""
    world.ca.offers_renewal_info = True
    certificate = issued(world, account, credential)
    world.create(account, credential, "due.example.com")
    world.create(account, credential, "fresh.example.com")
    services.revoke(certificate)
    raising.raise_once(owner, Notice.Kind.RENEWED, "renewed:1", "It was renewed", "All is well.")
    notice = Notice.objects.get()
    Delivery.objects.create(owner=owner, notice=notice, channel="email", wake_at=world.time)
    device = factories.device(owner, "edge", name="edge 1")
    services.assign(certificate, device)
    installplans.replace(device, {"installs": []}, "somebody")
    certificate.probes.create(address="www.example.com", port=443, wake_at=world.time)
    world.messages.clear()
    now = world.time
    Deployment.objects.update(wake_at=now)
    AcmeAccount.objects.update(wake_at=now)
    RenewalInfo.objects.update(wake_at=now, stumbles=1)
    CertificateVersion.objects.update(wake_at=now)
    Issuance.objects.open().update(wake_at=now, queued_at=None)
    TxtRecord.objects.update(cleaned_at=None, wake_at=now)
    return certificate


def test_a_detected_scan_fails(rows):
    with statements() as ran:
        list(Certificate.objects.filter(failures=7))
    assert scans(ran)


def test_the_sweep_reads_only_what_is_due(rows, world):
    with statements() as ran:
        sweep.sweep.run()
    assert len(ran) > 20
    assert not scans(ran)


@pytest.mark.slow
@pytest.mark.postgres_only
def test_a_crowd_that_waits_is_not_searched_for_due_rows(world, account, credential):
    names = [f"host{number}.example.com" for number in range(3000)]
    later = world.time + timedelta(hours=1)
    waiting.attempts(account, credential, names, world.time, wake_at=later)
    with statements() as ran:
        assert not due_tables(world.time)
        assert not Issuance.objects.sendable(world.time).has_due()
        assert not TxtRecord.objects.sendable(world.time).has_due()
    assert len(ran) == 3
    with connection.cursor() as cursor:
        found = [scan for sql, params in ran for scan in _postgres_scans(cursor, sql, params)]
    crowds = ("issuance_issuance", "dnsproviders_txtrecord")
    assert not [scan for scan in found if scan.endswith(crowds)]


@pytest.mark.slow
@pytest.mark.postgres_only
def test_a_kept_plan_finds_due_steps_beside_a_crowd_that_waits(
    world, account, credential, monkeypatch
):
    monkeypatch.setattr(admission, "SHORT_QUEUE", -1)
    names = [f"host{number}.example.com" for number in range(3000)]
    later = world.time + timedelta(hours=1)
    waiting.attempts(account, credential, names, world.time, wake_at=later)
    with statements() as ran:
        admission.choose(world.time)
    assert len(ran) > 4
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE issuance_issuance")
        plans = [_kept_plan(cursor, sql) for sql, _ in ran if "queued_at" in sql]
    assert [sql for sql, _ in ran if "state_since" in sql.partition("WHERE")[2]]
    assert plans
    assert not [plan for plan in plans if "issuance_wake_at" in plan]


def _kept_plan(cursor: Any, sql: str) -> str:
    """Return the plan that PostgreSQL keeps for a prepared statement, for any parameters."""
    numbers = count(1)
    prepared = re.sub("%s", lambda _: f"${next(numbers)}", sql)
    cursor.execute(f"EXPLAIN (GENERIC_PLAN) {prepared}")
    return "\n".join(line for (line,) in cursor.fetchall())


@pytest.mark.slow
@pytest.mark.postgres_only
def test_a_batch_of_looks_reads_its_own_rows_whatever_was_counted(world, account, credential):
    names = [f"host{number}.example.com" for number in range(3000)]
    waiting.attempts(
        account, credential, names, world.time, wake_at=world.time + timedelta(hours=1)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE issuance_issuance")  # while none is due
        Issuance.objects.update(wake_at=world.time)
        with statements() as ran:
            rows = Issuance.objects.claim_batch(20, lease=30, turn=20, state="presented")
        [(sql, params)] = [each for each in ran if each[0].startswith("UPDATE")]
        cursor.execute(f"EXPLAIN {sql}", params)
        plan = str(cursor.fetchall())
    assert len(rows) == 20
    assert "issuance_wake_at" not in plan


def test_a_second_sweep_reads_only_what_is_on_its_way(rows, world, account, credential):
    sweep.sweep.run()
    world.create(account, credential, "late.example.com")
    with statements() as ran:
        sweep.sweep.run()
    assert not scans(ran)


def test_the_steps_of_an_attempt_read_no_table(world, account, credential):
    issued(world, account, credential)
    world.create(account, credential, "next.example.com")
    with statements() as ran:
        world.deliver()
        world.sweep()
    assert len(ran) > 25
    assert not scans(ran)


def test_orders_under_limits_read_only_their_buckets(rows, world, account, credential, settings):
    """Orders take tokens or wait for them, and one that waits is canceled."""
    settings.ACME_CAS = {"custom": {"limits": {"account": [2, 60], "domain": [2, 60]}}}
    other = User.objects.create_user("other@example.com")
    at_other = world.account(other), world.credential(other)
    certificates = [world.create(account, credential, f"host{n}.example.com")[0] for n in range(4)]
    certificates += [world.create(*at_other, f"other{n}.example.com")[0] for n in range(2)]
    with statements() as ran:
        world.deliver()
        assert Reservation.objects.filter(state="waiting").count() == 4
        services.cancel(certificates[3])
    assert sum("issuance_reservedtoken" in sql for sql, _ in ran) > 10
    assert not scans(ran)


def test_the_hourly_correction_of_times_reads_only_what_is_open(rows, world):
    Certificate.objects.update(failures=1, failing_since=world.time)
    with statements() as ran:
        clockstep.correct(world.time)
    assert len(ran) > 30
    assert not scans(ran)


def test_the_scan_for_replaced_versions_reads_only_those_that_wish_it(rows):
    Certificate.objects.update(revoke_superseded=True)
    with statements() as ran:
        rollouts.revoke_superseded.run()
    assert ran
    assert not scans(ran)


def test_a_report_reads_only_its_certificate(rows):
    device, version = rows.deployments.get().device, read(rows).current
    with statements() as ran:
        for state in ("installed", "failed", "served"):
            rollout.note_reports(device, [Report(rows.pk, version.serial, state, "")])
    assert len(ran) > 10
    assert not scans(ran)


def test_the_scan_for_renewals_reads_only_what_is_due(rows, world):
    Certificate.objects.update(renew_at=world.time - timedelta(days=1))
    with statements() as ran:
        renewals.scan_renewals.run()
    assert not scans(ran)


def test_the_scan_finds_the_next_held_back_by_index(rows, world, account, credential, settings):
    settings.ACME_CAS = {"custom": {"limits": {"account": [2, 7200]}}}
    for number in range(4):
        spec = world.spec(account, credential, f"host{number}.example.com")
        services.create_certificate(account.owner, spec, issue=False)
    Certificate.objects.filter(domain__startswith="host").update(renew_at=world.time)
    renewals.scan_renewals.run()
    Issuance.objects.open().filter(certificate__domain__startswith="host").delete()
    assert Certificate.objects.filter(lacks__isnull=False).count() == 2
    world.advance(8000)
    with statements() as ran:
        renewals.scan_renewals.run()
    assert not Certificate.objects.filter(lacks__isnull=False).exists()
    assert not scans(ran)


def test_a_new_certificate_reads_no_table(rows, world, account, credential):
    with statements() as ran:
        world.create(account, credential, "new.example.com")
    assert not scans(ran)


@pytest.mark.parametrize(
    "part",
    [
        pruning.prune_keys,
        pruning.prune_version_keys,
        pruning.prune_versions,
        pruning.prune_attempts,
        pruning.prune_events,
        pruning.prune_retired_certificates,
        pruning.prune_renewal_infos,
        pruning.prune_request_keys,
        pruning.records.prune,
        pruning.notices.pruning.prune,
        pruning.exchanges.prune,
    ],
    ids=lambda part: f"{part.__module__}.{part.__name__}",
)
def test_pruning_reads_only_what_may_be_old(rows, world, part):
    Issuance.objects.open().update(wake_at=None, state="failed", ended_at=world.time)
    world.advance(400 * 86400.0)
    with statements() as ran:
        part()
    assert ran
    assert not scans(ran)


@pytest.mark.parametrize(
    "path",
    [
        "certificates",
        "certificates?after=999999",
        "acme-accounts/{account}/certificates?after=999999",
        "certificates/{certificate}",
        "certificates/{held_back}",
        "certificates/{certificate}/issues",
        "certificates/{certificate}/issues?after=999999",
        "certificates/{certificate}/issue-result",
        "certificates/{certificate}/issues/{attempt}/events",
        "certificates/{certificate}/issues/{attempt}/events?after=1",
        "certificates/{certificate}/issues/{attempt}/exchanges?after=1",
        "certificates/{certificate}/devices",
        "certificates/{certificate}/probes",
        "devices/{device}/install-config",
        "devices/{device}/install-config-histories",
        "notices",
        "notices?after=999999",
    ],
)
def test_a_list_page_reads_only_its_rows(rows, world, client_of, owner, account, path):
    certificate = read(rows)
    ids = {
        "account": account.pk,
        "certificate": certificate.pk,
        "attempt": certificate.current.issuance_id,
        "device": certificate.deployments.get().device_id,
        "held_back": Certificate.objects.get(domain="fresh.example.com").pk,
    }
    bucket = LimitBucket.objects.create(ca="", kind="account", level=0, at=world.time)
    Certificate.objects.filter(pk=ids["held_back"]).update(lacks=bucket)
    client = client_of(owner)
    with statements() as ran:
        response = client.get(f"/apiv1/me/{path.format(**ids)}")
    assert response.status_code == 200
    assert not scans(ran)
