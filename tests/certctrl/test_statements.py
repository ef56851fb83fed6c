"""Statements that are compiled once give what their query sets give."""

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import Exists, F, OuterRef, Value
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEvent
from authorities.models import AcmeAccount
from certctrl import clock
from certctrl.statements import Parameter, Select, Update, insert, insert_all, select, update
from dnsproviders import records
from dnsproviders.models import TxtRecord
from keystore.models import Envelope
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


@pytest.fixture
def row(account: AcmeAccount) -> AcmeAccount:
    return account


def test_a_row_is_read_with_its_relations(row):
    rows = AcmeAccount.objects.select_related("owner", "eab").filter(pk=Parameter("pk"))
    with CaptureQueriesContext(connection) as queries:
        [found] = Select(rows)(pk=row.pk)
        assert (found, found.owner, found.eab) == (row, row.owner, None)
        assert not found._state.adding
    assert len(queries) == 1


def test_a_row_has_its_annotations(row):
    has_key = Exists(Envelope.objects.filter(pk=OuterRef("key")))
    has_eab = Exists(Envelope.objects.filter(pk=OuterRef("eab")))
    rows = AcmeAccount.objects.annotate(has_key=has_key, has_eab=has_eab)
    [found] = Select(rows.filter(pk=Parameter("pk")))(pk=row.pk)
    assert (found, found.has_key, found.has_eab) == (row, True, False)


def test_the_same_statement_takes_other_values(row):
    read = Select(AcmeAccount.objects.filter(created_at__lte=Parameter("at")))
    now = row.created_at
    assert read(at=now) == [row]
    assert read(at=now - timedelta(days=1)) == []


def test_columns_that_are_not_read_are_read_later(row):
    [found] = Select(AcmeAccount.objects.only("name").filter(pk=Parameter("pk")))(pk=row.pk)
    assert "email" in found.get_deferred_fields()
    assert found.email == row.email


def test_tuples_are_converted_as_fields_are(row):
    read = Select(AcmeAccount.objects.values_list("name", "created_at"))
    assert read() == [(row.name, row.created_at)]


def test_an_update_returns_how_many_rows_it_changed(row):
    field = AcmeAccount._meta.get_field("wake_at")
    rows = AcmeAccount.objects.filter(pk=Parameter("pk"))
    wake = Update(rows, {"wake_at": Parameter("at", field), "deaths": F("deaths") + 1})
    at = clock.now()
    assert wake(pk=row.pk, at=at) == 1
    assert wake(pk=row.pk + 1, at=at) == 0
    row.refresh_from_db()
    assert (row.wake_at, row.deaths) == (at, 1)
    wake(pk=row.pk, at=None)
    row.refresh_from_db()
    assert row.wake_at is None


def test_a_foreign_key_is_set_to_a_row(row):
    other = factories.UserFactory()
    field = AcmeAccount._meta.get_field("owner")
    Update(AcmeAccount.objects.all(), {"owner": Parameter("to", field)})(to=other)
    row.refresh_from_db()
    assert row.owner == other


def test_a_function_compiles_its_query_set_once(row):
    built = []

    @select
    def named(name: str):
        built.append(name)
        return AcmeAccount.objects.filter(name=name)

    assert [named(name=row.name), named(name="another")] == [[row], []]
    assert len(built) == 1


def test_a_row_is_inserted_as_save_does(row):
    made = insert(AuditEvent(owner=row.owner, actor="a", action="b", object="c", detail={"d": [1]}))
    read = AuditEvent.objects.get(pk=made.pk)
    assert (read.owner, read.detail, read.at) == (row.owner, {"d": [1]}, made.at)
    made.refresh_from_db()
    assert not made._state.adding


def test_a_row_that_exists_keeps_its_columns_when_it_is_inserted(credential):
    kept = insert(TxtRecord(credential=credential, name="a", value="b", zone="test"))
    again = insert(TxtRecord(credential=credential, name="a", value="b"), records.KEPT)
    assert again.pk == kept.pk
    assert TxtRecord.objects.get().zone == "test"


def test_rows_that_are_inserted_together_get_keys_in_their_order(credential):
    kept = insert(TxtRecord(credential=credential, name="b", value="v", zone="test"))
    rows = [TxtRecord(credential=credential, name=name, value="v") for name in "abc"]
    insert_all(rows, records.KEPT)
    names = dict(TxtRecord.objects.values_list("pk", "name"))
    assert [names[each.pk] for each in rows] == ["a", "b", "c"]
    assert rows[1].pk == kept.pk
    insert_all([])


def test_an_update_of_a_function_takes_other_values(row):
    @update
    def rename(pk: Parameter, name: Parameter):
        return AcmeAccount.objects.filter(pk=pk), {"name": name}

    assert [rename(pk=row.pk, name="b"), rename(pk=row.pk + 1, name="c")] == [1, 0]
    row.refresh_from_db()
    assert row.name == "b"


def test_rows_are_found_among_numbers_with_one_parameter(row):
    others = range(row.pk + 1, row.pk + 9)
    for numbers in ([row.pk], [*others, row.pk]):
        assert list(AcmeAccount.objects.filter(pk__among=numbers)) == [row]
        assert AcmeAccount.objects.filter(owner__pk__among=[row.owner_id]).exists()
        sql, parameters = AcmeAccount.objects.filter(pk__among=numbers).query.sql_with_params()
        assert sql.count("%s") == len(parameters) == 1
    assert not AcmeAccount.objects.filter(pk__among=others).exists()
    with CaptureQueriesContext(connection) as queries:
        assert not AcmeAccount.objects.filter(pk__among=[]).exists()
    assert len(queries) == 0


def test_words_are_a_part_of_the_sql(row):
    AcmeAccount.objects.update(name="some_word")
    rows = AcmeAccount.objects.filter(name="some_word", pk__gt=0, pk=Parameter("pk"))
    read = Select(rows.exclude(name="").annotate(is_one=Value(True)))
    assert len(read.parameters) == 1
    assert [each.is_one for each in read(pk=row.pk)] == [True]
    assert read(pk=row.pk + 1) == []


@pytest.mark.parametrize("odd", ["it's", "5 %", "%s", "back\\slash", "a\nline", "A", "a\n"])
def test_other_constants_stay_parameters(row, odd):
    AcmeAccount.objects.update(name=odd)
    read = Select(AcmeAccount.objects.filter(name=odd, pk__lt=row.pk + 1))
    assert read.parameters == (odd, row.pk + 1)
    assert read() == [row]


@pytest.mark.postgres_only
def test_postgresql_keeps_the_plan_of_a_statement(row):
    read = Select(AcmeAccount.objects.filter(pk=Parameter("pk")))
    for _ in range(4):
        read(pk=row.pk)
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        kept = [statement for (statement,) in cursor.fetchall()]
    assert any('FROM "authorities_acmeaccount"' in each and "$1" in each for each in kept)
