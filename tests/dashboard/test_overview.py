"""The overview says what moves and what waits."""

import pytest
from django.db import connection

from issuance import services

pytestmark = pytest.mark.django_db


@pytest.fixture
def moving(world, account, credential):
    """A certificate whose attempt waits for its record."""
    world.zone.hides = True
    certificate, _ = world.create(account, credential)
    world.deliver()
    return certificate


def in_progress(visitor) -> list[str]:
    rows = visitor.get("/").context["in_progress"]
    return [row.certificate.domain for row in rows]


def test_an_open_attempt_is_in_progress(visitor, moving):
    assert in_progress(visitor) == [moving.domain]


def test_an_attempt_that_ends_between_two_reads_is_not_in_progress(visitor, moving):
    """The certificates are read first, and then their open attempts."""
    certificates = [moving]

    def end_it_before(execute, sql, *more):
        if certificates and '."certificate_id" IN ' in sql:
            services.cancel(certificates.pop())
        return execute(sql, *more)

    with connection.execute_wrapper(end_it_before):
        assert in_progress(visitor) == []
    assert not certificates
