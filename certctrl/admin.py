"""The base of every admin page. It creates nothing, deletes nothing and shows no secret.

Tables may have millions of rows. See docs/decisions/0057-pages-read-few-rows.md.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from certctrl.errors import ApiError

MOST_COUNTED = 10_000
NEWEST = 10_000  # rows that a search reads
MOST_FOUND = 1000


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator that counts at most MOST_COUNTED rows. Later pages do not exist."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_COUNTED].count())


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]
    """A read-only table. Each permitted change has its own admin action. The API does the rest.

    `search_fields` are searched in the newest rows. `indexed_search` has lookups of indexed
    columns, such as "certificate__domain__startswith", which are searched in all rows.
    """

    list_per_page = 50
    show_full_result_count = False
    paginator = BoundedPaginator
    ordering = ("-pk",)
    sortable_by: tuple[str, ...] = ()  # most columns have no index
    search_help_text = "Searches the newest 10,000 rows, and in all rows the columns with an index."
    indexed_search: tuple[str, ...] = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        rows = self.model._default_manager.all()
        oldest = rows.order_by("-pk").values_list("pk", flat=True)[NEWEST - 1 : NEWEST]
        newest = rows.filter(pk__gte=oldest[0]) if oldest else rows
        in_newest, _ = super().get_search_results(request, newest, term)
        found = set(in_newest.order_by("-pk").values_list("pk", flat=True)[:MOST_FOUND])
        for lookup in self.indexed_search:
            matching = rows.filter(**{lookup: term}).values_list("pk", flat=True)
            found.update(matching[:MOST_FOUND])
        return queryset.filter(pk__in=found), False

    def act_on_each(
        self, request: HttpRequest, rows: Iterable[Any], act: Callable[[Any], str | None]
    ) -> None:
        """Act on each row, and say what was done or refused. None says nothing."""
        for row in rows:
            try:
                done = act(row)
            except ApiError as refusal:
                self.message_user(request, refusal.what, messages.WARNING)
            else:
                if done:
                    self.message_user(request, done)
