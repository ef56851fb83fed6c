"""Rows are deleted in batches, and only while they are old."""

from datetime import timedelta

import pytest
from django.db.models import QuerySet

from certctrl import clock, retention
from issuance.models import RequestKey

pytestmark = pytest.mark.django_db


@pytest.fixture
def keys(alice):
    def make(count: int) -> list[RequestKey]:
        return [RequestKey.objects.create(owner=alice, key=f"k{n}") for n in range(count)]

    return make


def test_more_rows_than_a_batch_are_deleted(keys, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    keys(5)
    retention.delete(RequestKey.objects.all())
    assert not RequestKey.objects.exists()


def test_a_run_ends_after_its_last_batch(keys, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "MOST_BATCHES", 2)
    keys(5)
    retention.delete(RequestKey.objects.all())
    assert RequestKey.objects.count() == 1


def test_a_row_that_is_not_old_any_more_under_its_lock_stays(keys, monkeypatch):
    old, renewed = keys(2)
    before = clock.now() - timedelta(days=7)
    RequestKey.objects.filter(pk=old.pk).update(created_at=before - timedelta(days=1))

    def with_rows_of_a_moment_ago(self: QuerySet, **kwargs: object) -> QuerySet:
        return RequestKey.objects.filter(pk__in=[old.pk, renewed.pk])

    monkeypatch.setattr(QuerySet, "select_for_update", with_rows_of_a_moment_ago)
    retention.delete(RequestKey.objects.filter(created_at__lt=before))
    assert list(RequestKey.objects.all()) == [renewed]
