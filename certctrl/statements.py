"""Query sets that are compiled to SQL once, and executed often.

Django compiles a query set each time it is executed. For most statements this costs more than the
execution. The SQL stays the same here, so PostgreSQL also finds it among its prepared statements.
"""

import inspect
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.core.exceptions import EmptyResultSet
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Expression, Field, IntegerField, Lookup, Model, QuerySet
from django.db.models.query import get_related_populators
from django.db.models.sql import UpdateQuery

if TYPE_CHECKING:
    AnyLookup = Lookup[Any]
else:
    AnyLookup = Lookup
M = TypeVar("M", bound=Model)


@IntegerField.register_lookup
class Among(AnyLookup):
    """The column has one of the numbers of a list: `pk__among=ids`.

    The list is one parameter, so the SQL is the same for each length. Django's `in` has a parameter
    for each number. For 500 numbers this costs more than the execution.
    """

    lookup_name = "among"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        column, parameters = self.process_lhs(compiler, connection)
        numbers = json.dumps(self._numbers())
        return f"{column} IN (SELECT value FROM json_each(%s))", (*parameters, numbers)  # noqa: S608

    def as_postgresql(
        self, compiler: Any, connection: Any, **context: Any
    ) -> tuple[str, tuple[Any, ...]]:
        column, parameters = self.process_lhs(compiler, connection)
        return f"{column} = ANY(%s::bigint[])", (*parameters, self._numbers())

    def _numbers(self) -> list[int]:
        numbers = list(self.rhs)
        if not numbers:  # then no statement is executed
            raise EmptyResultSet
        return numbers


class Parameter(Expression):
    """A value that is given by its name at each execution.

    With a field, the value is converted as the field stores it. Without one it must be a number, a
    text or a datetime.
    """

    def __init__(self, name: str, field: "Field[Any, Any] | None" = None) -> None:
        super().__init__(output_field=field)
        self.name = name
        self.stored_as = field

    def as_sql(self, compiler: Any, connection: BaseDatabaseWrapper) -> tuple[str, tuple[Any, ...]]:
        return "%s", (self,)

    def of(self, values: dict[str, Any], connection: BaseDatabaseWrapper) -> Any:
        value = values[self.name]
        if self.stored_as:
            if hasattr(value, "prepare_database_save"):  # a row, for a foreign key
                value = value.prepare_database_save(self.stored_as)
            return self.stored_as.get_db_prep_save(value, connection)
        if isinstance(value, datetime):
            return connection.ops.adapt_datetimefield_value(value)
        return value


def _cursor(connection: Any) -> Any:
    """Return the cursor of all statements on this connection. Read its rows before the next one.

    A new one for each statement would cost as much as a third of it. Django replaces
    `connection.connection` when it connects again. It logs queries with cursors of its own.
    """
    if connection.queries_logged:
        return connection.cursor()
    connection.close_if_health_check_failed()
    of, kept = getattr(connection, "cursor_of_statements", (None, None))
    if of is None or of is not connection.connection:
        kept = connection.cursor()
        connection.cursor_of_statements = connection.connection, kept
    return kept


WORD = re.compile("[a-z_]*")  # fullmatch, so that it needs no quoting


def _literal(value: Any) -> str | None:
    """Return a word, a truth value, 0 or 1 as SQL, and None for any other value.

    Conditions of indexes have no others. Others may come from people, and are parameters.
    """
    if isinstance(value, int) and value in (0, 1):
        return str(value).upper()
    if isinstance(value, str) and WORD.fullmatch(value):
        return f"'{value}'"
    return None


class Statement:
    """SQL with its parameters: values, and objects of Parameter.

    Words and truth values become a part of the SQL. PostgreSQL keeps the plan of a prepared
    statement for all values of its parameters. Such a plan reads a partial index only if the
    condition of the index is in the SQL.
    """

    def __init__(self, sql: str, parameters: Sequence[Any]) -> None:
        left: list[Any] = []
        given = iter(parameters)

        def put(found: re.Match[str]) -> str:
            if found[0] == "%%":
                return "%%"
            value = next(given)
            if (literal := _literal(value)) is not None:
                return literal
            left.append(value)
            return "%s"

        self.sql = re.sub("%%|%s", put, sql)
        self.parameters = tuple(left)

    def bound(self, values: dict[str, Any], connection: BaseDatabaseWrapper) -> list[Any]:
        return [
            each.of(values, connection) if isinstance(each, Parameter) else each
            for each in self.parameters
        ]


class Update(Statement):
    """The UPDATE of `rows` that sets `columns`. Calling it returns the number of rows."""

    def __init__(self, rows: QuerySet[Any], columns: dict[str, Any]) -> None:
        query: Any = rows.query.chain(UpdateQuery)
        query.add_update_values(columns)
        super().__init__(*query.get_compiler(rows.db).as_sql())
        self.db = rows.db

    def __call__(self, **values: Any) -> int:
        connection = connections[self.db]
        cursor = _cursor(connection)
        cursor.execute(self.sql, self.bound(values, connection))
        return int(cursor.rowcount)


class Select(Statement, Generic[M]):
    """The SELECT of `rows`. Calling it returns the objects, or the tuples of `values_list()`.

    With `changed`, the SELECT reads the rows that this UPDATE changes, with their new values. The
    UPDATE is a common table expression with the name of the table. PostgreSQL has this, SQLite does
    not. `most` is the greatest number of rows.
    """

    def __init__(
        self,
        rows: QuerySet[M, Any],
        changed: Update | None = None,
        most: Parameter | None = None,
    ) -> None:
        compiler = rows.query.get_compiler(rows.db)
        sql, parameters = compiler.as_sql()
        if most:
            sql, parameters = f"{sql} LIMIT %s", (*parameters, most)
        if changed:
            table = compiler.quote_name_unless_alias(rows.model._meta.db_table)
            sql = f"WITH {table} AS ({changed.sql} RETURNING {table}.*) {sql}"
            parameters = (*changed.parameters, *parameters)
        super().__init__(sql, parameters)
        self.db = rows.db
        self.is_update = changed is not None
        select: Any = compiler.select
        self._converters = [
            (at, convert, expression)
            for at, (converters, expression) in compiler.get_converters(
                [each[0] for each in select]
            ).items()
            for convert in converters
        ]
        klass: Any = None if rows.query.values_select else compiler.klass_info
        self._model: type[M] | None = klass and klass["model"]
        if klass:
            fields = klass["select_fields"]
            self._own = slice(fields[0], fields[-1] + 1)
            self._names = [each[0].target.attname for each in select[self._own]]
            # The stubs are of a later Django, where a fourth argument is needed.
            self._annotations = dict(compiler.annotation_col_map)
            self._populators = get_related_populators(klass, select, self.db)  # type: ignore[call-arg]

    def __call__(self, **values: Any) -> list[Any]:
        connection = connections[self.db]
        cursor = _cursor(connection)
        cursor.execute(self.sql, self.bound(values, connection))
        return [self._made(row, connection) for row in cursor.fetchall()]

    def _made(self, row: Sequence[Any], connection: BaseDatabaseWrapper) -> Any:
        if self._converters:
            row = list(row)
            for at, convert, expression in self._converters:
                row[at] = convert(row[at], expression, connection)
        if not self._model:
            return tuple(row)
        made = self._model.from_db(self.db, self._names, row[self._own])
        for name, at in self._annotations.items():
            setattr(made, name, row[at])
        for each in self._populators:
            each.populate(row, made)
        return made


def select(build: Callable[..., QuerySet[M, Any]]) -> Callable[..., list[Any]]:
    """Return a function that executes the query set of `build`. It is compiled at the first call.

    `build` gets a Parameter for each of its names. The function gets the values by these names. All
    other values are those of the first call, so `build` must not read the clock or a setting.
    """
    names = list(inspect.signature(build).parameters)
    kept: dict[str, Select[M]] = {}

    def execute(**values: Any) -> list[Any]:
        vendor = connections[DEFAULT_DB_ALIAS].vendor
        if vendor not in kept:
            kept[vendor] = Select(build(**{name: Parameter(name) for name in names}))
        return kept[vendor](**values)

    return execute


def update(build: Callable[..., tuple[QuerySet[Any, Any], dict[str, Any]]]) -> Callable[..., int]:
    """Return a function that executes an UPDATE. It is compiled at the first call.

    `build` returns the rows and their new columns. Its parameters are as in `select`.
    """
    names = list(inspect.signature(build).parameters)
    kept: dict[str, Update] = {}

    def execute(**values: Any) -> int:
        vendor = connections[DEFAULT_DB_ALIAS].vendor
        if vendor not in kept:
            kept[vendor] = Update(*build(**{name: Parameter(name) for name in names}))
        return kept[vendor](**values)

    return execute


_inserts: dict[Any, str] = {}


def insert(row: M, conflict: str = "") -> M:
    """Store a new row as `save(force_insert=True)` does, without signals, and return it.

    `conflict` is the clause ON CONFLICT, which both databases have.
    """
    insert_all([row], conflict)
    return row


def insert_all(rows: Sequence[Model], conflict: str = "") -> None:
    """Store new rows of one model in one statement, as `insert` does."""
    if not rows:
        return
    connection = connections[DEFAULT_DB_ALIAS]
    model = type(rows[0])
    written = [each for each in model._meta.concrete_fields if not each.generated]
    fields = [each for each in written if not each.primary_key]
    key = (model, connection.vendor, conflict, len(rows))
    if key not in _inserts:
        quote: Any = connection.ops.quote_name
        columns = ", ".join(quote(each.column) for each in fields)
        slots = ", ".join(["(" + ", ".join("%s" for _ in fields) + ")"] * len(rows))
        into = f"{quote(model._meta.db_table)} ({columns}) VALUES {slots}"
        _inserts[key] = f"INSERT INTO {into} {conflict} RETURNING {quote(model._meta.pk.column)}"
    cursor = _cursor(connection)
    cursor.execute(
        _inserts[key],
        [
            each.get_db_prep_save(each.pre_save(row, True), connection)
            for row in rows
            for each in fields
        ],
    )
    for row, (pk,) in zip(rows, cursor.fetchall(), strict=True):
        row.pk = pk
        row._state.adding = False
        row._state.db = DEFAULT_DB_ALIAS
