"""The scan for renewals reads only its index, in few queries, and renews each certificate once."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from issuance import services
from issuance.beat import renewals
from issuance.models import Certificate, Issuance, names_key
from tests.fakes import crowd
from tests.fakes.world import World
from tests.issuance.racing import at_once

TABLE = Certificate._meta.db_table
# For a batch: what is due, the lock, the attempts before, the buckets (2), the UPDATE, the INSERT.
QUERIES = 7
# For a scan: what is held back, and that no more is due.
ONCE = 2
NOT_DUE = 100_000
DUE = 1_000


@pytest.fixture
def certificate(world, account, credential) -> Certificate:
    made, _ = world.create(account, credential, "example.com")
    world.deliver()
    world.settle()
    Certificate.objects.update(renew_at=None)
    return Certificate.objects.get(pk=made.pk)


@pytest.fixture
def issued(world, account, credential) -> Callable[..., list[Certificate]]:
    """Make `count` certificates that are due."""

    def make(count: int, **fields) -> list[Certificate]:
        made = [
            world.create(account, credential, f"host{number}.example.com")[0]
            for number in range(count)
        ]
        world.deliver()
        world.settle()
        Certificate.objects.update(renew_at=world.time, **fields)
        return list(Certificate.objects.filter(pk__in=[each.pk for each in made]))

    return make


def queries_of(act: Callable[[], object]) -> list[str]:
    """Return the queries of the call, without those that begin and end transactions."""
    with CaptureQueriesContext(connection) as captured:
        act()
    ends = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    return [each["sql"] for each in captured if not each["sql"].startswith(ends)]


def plan_of(sql: str) -> str:
    with connection.cursor() as cursor:
        explain = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
        cursor.execute(f"{explain} {sql}".replace("%", "%%"))
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def opened() -> list[int]:
    return list(Issuance.objects.open().order_by("pk").values_list("certificate", flat=True))


# --- what it reads ---


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_a_pass_over_a_hundred_thousand_reads_the_thousand_that_are_due(world: World, certificate):
    now = world.time
    crowd.certificates(certificate, NOT_DUE, now + timedelta(hours=1))
    crowd.certificates(certificate, DUE, now - timedelta(hours=1))
    crowd.settle()
    made = queries_of(renewals.scan_renewals.run)
    assert len(opened()) == DUE
    assert len(made) == DUE // renewals.SCAN_BATCH * QUERIES + ONCE
    assert "certificates_held_back" in plan_of(made[0])
    assert "certificates_to_renew" in plan_of(made[1])
    for sql in made:
        assert f"Seq Scan on {TABLE} " not in plan_of(sql), sql[:200]  # versions may be few


@pytest.mark.django_db
def test_due_renewals_are_found_by_the_index_on_sqlite_too(world, certificate):
    made = queries_of(renewals.scan_renewals.run)
    assert len(made) == ONCE
    for sql, index in zip(made, ("certificates_held_back", "certificates_to_renew"), strict=True):
        assert index in plan_of(sql)
        assert f"SCAN {TABLE}" not in plan_of(sql)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.django_db
@pytest.mark.parametrize("count", [2, 12])
def test_a_batch_costs_the_same_queries_whatever_its_size(world, issued, count):
    issued(count)
    assert len(queries_of(renewals.scan_renewals.run)) == QUERIES + ONCE
    assert len(opened()) == count


# --- what it opens ---


@pytest.mark.django_db
def test_the_soonest_expiry_goes_first_and_what_was_never_issued_last(world, issued, monkeypatch):
    monkeypatch.setattr(renewals, "SCAN_BATCH", 2)
    first, second, third, fourth, never = issued(5)
    for days, each in enumerate((third, first, fourth, second), 1):
        Certificate.objects.filter(pk=each.pk).update(expires_at=world.time + timedelta(days=days))
    Certificate.objects.filter(pk=never.pk).update(expires_at=None, current=None)
    renewals.scan_renewals.run()
    assert opened() == [third.pk, first.pk, fourth.pk, second.pk, never.pk]


@pytest.mark.django_db
def test_an_attempt_of_a_batch_is_the_same_as_one_that_is_opened_alone(world, issued):
    alone, together = issued(2)
    type(alone.account).objects.update(defaults={"validity_seconds": 86400})
    services.issue(Certificate.objects.get(pk=alone.pk))
    renewals.scan_renewals.run()
    one, other = Issuance.objects.open().order_by("pk")
    same = {field.name for field in Issuance._meta.concrete_fields}
    same -= {"id", "certificate", "names_key", "reason", "created_at", "queued_at"}
    assert {name: getattr(one, name) for name in same} == {
        name: getattr(other, name) for name in same
    }
    assert (other.certificate, other.names_key, other.reason) == (
        together,
        names_key(together.account, together.names),
        "renewal",
    )
    assert (other.number, other.validity_seconds) == (2, 86400)


@pytest.mark.django_db
def test_a_certificate_that_must_not_renew_is_cleared_and_not_opened(world, issued):
    wanted, unwanted, retired, keyless, busy = issued(5)
    Certificate.objects.filter(pk=unwanted.pk).update(auto_renew=False)
    Certificate.objects.filter(pk=retired.pk).update(retired_at=world.time)
    Certificate.objects.filter(pk=keyless.pk).update(key_policy="DEVICE_REQUIRED")
    services.open_issuance(busy, Issuance.Reason.MANUAL)
    renewals.scan_renewals.run()
    assert sorted(opened()) == [wanted.pk, busy.pk]
    assert not Certificate.objects.exclude(renew_at=None).exists()


@pytest.mark.django_db
def test_a_scan_that_runs_twice_opens_nothing_twice(world, issued):
    issued(3)
    renewals.scan_renewals.run()
    assert len(queries_of(renewals.scan_renewals.run)) == ONCE
    assert len(opened()) == 3


@pytest.mark.slow
@pytest.mark.django_db
def test_one_broken_renewal_does_not_stop_the_others(world, issued, monkeypatch):
    monkeypatch.setattr(renewals, "SCAN_BATCH", 2)
    bad, *good = issued(5)
    new_issuance = services.new_issuance

    def breaks(certificate, *args):
        issuance = new_issuance(certificate, *args)
        if certificate == bad:
            issuance.names_key = None  # which the table refuses
        return issuance

    monkeypatch.setattr(services, "new_issuance", breaks)
    renewals.scan_renewals.run()
    assert sorted(opened()) == [each.pk for each in good]
    bad.refresh_from_db()
    assert bad.renew_at == world.time, "the next scan tries it again"


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_scans_that_race_open_each_renewal_once(world, certificate, monkeypatch):
    monkeypatch.setattr(renewals, "SCAN_BATCH", 50)
    crowd.certificates(certificate, 400, world.time - timedelta(hours=1))
    results = at_once(*[renewals.scan_renewals.run] * 4)
    assert results == [None] * 4
    assert len(opened()) == len(set(opened())) == 400
    assert not Certificate.objects.exclude(renew_at=None).exists()


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_a_person_who_renews_while_the_scan_does_gets_one_attempt(world, certificate):
    crowd.certificates(certificate, 40, world.time - timedelta(hours=1))
    ours = list(Certificate.objects.exclude(renew_at=None).order_by("-pk"))

    def people() -> None:
        for each in ours:
            services.request_issuance(each)

    assert at_once(people, renewals.scan_renewals.run, renewals.scan_renewals.run) == [None] * 3
    assert sorted(opened()) == sorted(each.pk for each in ours)
    assert not Certificate.objects.exclude(renew_at=None).exists()
