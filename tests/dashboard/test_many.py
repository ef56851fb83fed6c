"""With many certificates of one owner, each page reads few rows and no more statements."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from certctrl import clock
from issuance.models import Certificate, Deployment, Issuance, LimitBucket, Reservation
from tests import factories
from tests.fakes import crowd
from tests.issuance.beat.test_plans import statements
from tests.issuance.failing import issued

pytestmark = [pytest.mark.django_db, pytest.mark.postgres, pytest.mark.postgres_only]
pytestmark.append(pytest.mark.slow)
MANY, FAILING = 6000, 600
HOUR = timedelta(hours=1)
# A count stops at 1,000, and a search by ids at twice as many.
MOST_ROWS = 2100
QUERIES = {
    "": 19,
    "certificates": 11,
    "certificates?sort=new": 12,
    "certificates?chip=you": 11,
    "certificates?chip=again": 11,
    "certificates?chip=open": 8,
    "certificates?chip=soon": 8,
    "certificates?chip=new": 8,
    "certificates?chip=off": 8,
    "certificates?chip=revoked": 8,
    "certificates?q=n777": 13,
    "certificates?q=example": 11,
    "certificates?q=nothing": 8,
    "certificates/{pk}": 17,
}


@pytest.fixture
def many(world, settings, account, credential) -> Certificate:
    """A tenth of the certificates waits for a person, and a tenth is tried again.

    Each is on a device. The others wait for a rate limit. As many attempts wait for their CA.
    """
    settings.ACME_CAS = {"custom": {"limits": {"account": [10, 60]}}}
    certificate = issued(world, account, credential, "www.example.com", "example.com")
    crowd.certificates(certificate, MANY - FAILING * 2, clock.now() + timedelta(days=1))
    like = Certificate.objects.filter(pk=certificate.pk)
    for failure in ("transient", "permanent"):
        like.update(failures=1, last_failure=failure)
        crowd.certificates(certificate, FAILING, clock.now() + timedelta(days=2))
    deployed(certificate)
    held_back(certificate)
    delayed(certificate)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return certificate


def deployed(like: Certificate) -> None:
    """Assign every certificate to a device. One of them is not served."""
    device = factories.device(like.owner, "edge")
    now, current = clock.now(), like.current
    serial = {"wanted": current, "wanted_serial": current.serial, "wanted_at": now - HOUR}
    Deployment.objects.bulk_create(
        Deployment(certificate=each, device=device, served_serial=current.serial, **serial)
        for each in Certificate.objects.all()
    )
    Deployment.objects.filter(certificate=like).update(served_serial="")


def held_back(like: Certificate) -> None:
    """Let most certificates wait for the rate limit of the account."""
    bucket = LimitBucket.objects.get(kind="account")
    Certificate.objects.filter(failures=0).exclude(pk=like.pk).update(lacks=bucket)


def delayed(like: Certificate) -> None:
    """Let an attempt of each keep its place in the queue while the CA has a trouble."""
    ended = Issuance.objects.get(certificate=like)
    copied = {field.attname: getattr(ended, field.attname) for field in Issuance._meta.fields}
    made = Issuance.objects.bulk_create(
        Issuance(**copied | {"id": None, "certificate_id": pk})
        for pk in Certificate.objects.exclude(pk=like.pk).values_list("pk", flat=True)
    )
    place = {"owner": like.owner, "asked_at": clock.now()}
    Reservation.objects.bulk_create(Reservation(issuance=each, **place) for each in made)


def rows_read(sql: str, params: Any) -> Iterator[tuple[int, str]]:
    """Run a statement. Yield the rows that each scan of its plan has read, with its name."""
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
        found = cursor.fetchone()[0]
    todo = [(json.loads(found) if isinstance(found, str) else found)[0]["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        if "Relation Name" in node:
            each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            yield round(each * node["Actual Loops"]), f"{node['Node Type']}: {sql}"


def test_a_scan_of_all_certificates_is_seen(many):
    sql = "SELECT count(*) FROM issuance_certificate WHERE domain LIKE %s"
    assert max(rows_read(sql, ["n%"]))[0] > MANY


def test_the_pages_read_few_of_many_certificates(many, visitor):
    visitor.get("/")
    with connection.cursor() as cursor:
        # 6,000 rows are few for the planner. It may read all of them, also to join a hundred.
        for way in ("seqscan", "hashjoin", "mergejoin"):
            cursor.execute(f"SET LOCAL enable_{way} = off")
    counts, wide = {}, []
    for path in QUERIES:
        with statements() as ran:
            page = visitor.get(f"/{path.format(pk=many.pk)}")
        assert page.status_code == 200, path
        counts[path] = len(ran)
        read = [each for sql, params in ran for each in rows_read(sql, params)]
        wide += [(path, *each) for each in read if each[0] > MOST_ROWS]
    assert wide == []
    assert counts == QUERIES
