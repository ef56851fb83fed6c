"""The base of every admin page. It creates nothing, deletes nothing and shows no secret.

Tables may have millions of rows. See docs/decisions/0057-pages-read-few-rows.md.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, reduce
from operator import or_
from typing import Any, ClassVar, cast

from django.contrib import admin, messages
from django.contrib.admin import ShowFacets, SimpleListFilter
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy, ngettext
from unfold.admin import ModelAdmin

from certctrl.errors import ApiError
from certctrl.sentences import sentence as _

MOST_COUNTED = 10_000
NEWEST = 10_000  # rows that a search or a filter reads
MOST_FOUND = 1000
MOST_CHOSEN = 500  # rows of one action
MOST_REASONS = 5
UNFILTERED = {"q", "p", "o", "e", "all"}  # parameters of a list that are no filters
Words = str | Promise


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator that counts at most MOST_COUNTED rows. Later pages do not exist."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_COUNTED].count())


class PartFilter(SimpleListFilter):
    """Parts of a table that an index has. At most MOST_FOUND rows of a part are shown.

    `parts` has the name and the condition of each part, by its value in the address.
    """

    title = cast("str", gettext_lazy("part"))
    parameter_name = "part"
    parts: ClassVar[Mapping[str, tuple[Words, Q]]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(value, str(name)) for value, (name, _condition) in self.parts.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        part = self.parts.get(self.value() or "")
        if not part:
            return queryset
        rows = queryset.model._default_manager.filter(part[1])
        # The ids are read first. So no plan reads the rows of the list until it has a page.
        return queryset.filter(pk__in=list(rows.values_list("pk", flat=True)[:MOST_FOUND]))


class OpenFilter(PartFilter):
    """The rows that a worker will act on."""

    parts: ClassVar = {
        "open": (gettext_lazy("a worker acts on it later"), Q(wake_at__isnull=False))
    }


class ManyRows(ModelAdmin):  # type: ignore[misc]
    """The page of a table that may have millions of rows.

    `search_fields` are searched in the newest rows. Filters read the newest rows too, except those
    of a PartFilter. `indexed_search` has lookups of indexed columns, such as
    "certificate__domain__startswith", which are searched in all rows. Such a column of another
    table is not searched otherwise, because a plan might read the whole table. The newest rows have
    the largest values of the column `age`, which has an index.

    The page of a row has a link to the rows of each other table that lead to it.
    """

    list_per_page = 50
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    paginator = BoundedPaginator
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)
    sortable_by: tuple[str, ...] = ()  # most columns have no index
    search_help_text: Words = gettext_lazy(
        "Searches and filters read the newest 10,000 rows. Columns with an index are searched in"
        " all rows, from their beginning."
    )
    indexed_search: tuple[str, ...] = ()
    age = "pk"

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Return whether the actions are permitted. Other staff only read."""
        return bool(getattr(request.user, "is_superuser", False))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        asked = {name for name in request.GET if not name.startswith("_")}
        for parameter in asked & set(leading(self.model)):
            rows = self._leading_to(rows, parameter, request.GET[parameter])
            asked.remove(parameter)
        return self._newest(rows) if asked - UNFILTERED - {PartFilter.parameter_name} else rows

    def _leading_to(self, rows: QuerySet[Any], parameter: str, key: str) -> QuerySet[Any]:
        """Return rows that lead to one row of another table: all, or the newest and some others.

        Their ids are read first. Otherwise a plan might read the whole table for them.
        """
        with suppress(ValueError, ValidationError):  # the library refuses a key that is none
            found = self.model._default_manager.filter(**{parameter: key})
            ids = list(found.order_by().values_list("pk", flat=True)[:MOST_FOUND])
            if len(ids) == MOST_FOUND:
                newest = self._newest(found).order_by("-pk").values_list("pk", flat=True)
                ids.extend(newest[:MOST_FOUND])
            return rows.filter(pk__in=ids)
        return rows

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        rows = self.model._default_manager.all()
        in_newest = self._with_words(self._newest(rows), term).order_by("-pk")
        found = set(in_newest.values_list("pk", flat=True)[:MOST_FOUND])
        for lookup in self.indexed_search:
            with suppress(ValidationError):  # the term is no UUID
                matching = rows.filter(**{lookup: term}).values_list("pk", flat=True)
                found.update(matching[:MOST_FOUND])
        return queryset.filter(pk__in=found), False

    def _with_words(self, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        """Return the rows that have each word of the term in one of their columns."""
        indexed = {lookup.removesuffix("__startswith") for lookup in self.indexed_search}
        fields = [name for name in self.search_fields if "__" not in name or name not in indexed]
        if not fields:
            return rows.none()
        for word in term.split():
            rows = rows.filter(reduce(or_, (Q(**{f"{name}__icontains": word}) for name in fields)))
        return rows

    def _newest(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        every = self.model._default_manager.order_by(f"-{self.age}")
        oldest = every.values_list(self.age, flat=True)[NEWEST - 1 : NEWEST]
        return rows.filter(**{f"{self.age}__gte": oldest[0]}) if oldest else rows

    @admin.display(description=gettext_lazy("rows that belong to it"))
    def neighbours(self, row: Model) -> SafeString:
        found = [
            (f"{reverse(f'admin:{label}_{name}_changelist')}?{parameter}={row.pk}", words)
            for label, name, parameter, words in self._neighbours()
        ]
        return format_html_join(" · ", '<a href="{}" class="text-primary-600">{}</a>', found)

    def _neighbours(self) -> Iterator[tuple[str, str, str, Words]]:
        """Yield the app, the table, the parameter and the words of each list."""
        for model in self.admin_site._registry:
            columns = {
                parameter: field
                for parameter, field in leading(model).items()
                if field.related_model is self.model and field.concrete
            }
            for parameter, field in columns.items():
                words = model._meta.verbose_name_plural
                if len(columns) > 1:
                    words = f"{words} ({field.verbose_name})"
                yield model._meta.app_label, str(model._meta.model_name), parameter, words

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        fields: Sequence[str] = super().get_readonly_fields(request, obj)
        return [*fields, "neighbours"] if obj and any(self._neighbours()) else fields

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        fields: Sequence[str] = super().get_fields(request, obj)
        if not obj or not any(self._neighbours()):
            return fields
        return ["neighbours", *(each for each in fields if each != "neighbours")]

    def confirmed(
        self, request: HttpRequest, chosen: QuerySet[Any], action: str, will: Words
    ) -> HttpResponse | None:
        """Return None if a person has confirmed the action, else the page that asks.

        `will` says what the action does.
        """
        rows = list(chosen[: MOST_CHOSEN + 1])
        if request.POST.get("confirmed") or len(rows) > MOST_CHOSEN:
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": _("Are you sure?"),
            "opts": self.opts,
            "will": will,
            "rows": rows,
            "action": action,
            "checkbox": ACTION_CHECKBOX_NAME,
            "back": request.get_full_path(),
        }
        return TemplateResponse(request, "certctrl/confirm_action.html", context)

    def act_on_each(
        self,
        request: HttpRequest,
        chosen: QuerySet[Any] | Sequence[Any],
        act: Callable[[Any], object],
        said: Callable[[int], str],
    ) -> None:
        """Act on each row. Say how many were done, and why others were left alone.

        `said` returns the sentence for a number of rows.
        """
        rows = list(chosen[: MOST_CHOSEN + 1])
        if len(rows) > MOST_CHOSEN:
            what = _(
                "More than %(most)d rows are chosen. Nothing was done. Choose fewer.",
                most=MOST_CHOSEN,
            )
            self.message_user(request, what, messages.ERROR)
            return
        reasons: Counter[str] = Counter()
        for row in rows:
            try:
                act(row)
            except ApiError as refusal:
                reasons[refusal.what] += 1
        if done := len(rows) - reasons.total():
            self.message_user(request, said(done), messages.SUCCESS)
        if reasons:
            self.message_user(request, _left_alone(reasons), messages.WARNING)


def _left_alone(reasons: Counter[str]) -> str:
    number = reasons.total()
    said = ngettext(
        "%(number)d was left alone: %(why)s", "%(number)d were left alone: %(why)s", number
    )
    return said % {"number": number, "why": " ".join(_shown(reasons))}


def _shown(reasons: Counter[str]) -> Iterator[str]:
    for what, number in reasons.most_common(MOST_REASONS):
        yield f"{what} ({number})" if number > 1 else f"{what}"
    if (more := len(reasons) - MOST_REASONS) > 0:
        yield ngettext("%(more)d more reason.", "%(more)d more reasons.", more) % {"more": more}


def leading(model: Any) -> dict[str, Any]:
    """Return the columns of a table that lead to others, by the parameter of a list.

    Only those with an index on the whole table are returned.
    """
    indexes = [*model._meta.indexes, *model._meta.constraints]
    first = {
        each.fields[0] for each in indexes if getattr(each, "fields", ()) and not each.condition
    }
    return {
        f"{field.name}__exact": field
        for field in model._meta.fields
        if field.remote_field and (field.db_index or field.unique or field.name in first)
    }


class ReadOnlyAdmin(ManyRows):
    """A table that staff read. Each permitted change has its own action. The API does the rest."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        user: Any = request.user
        return bool(user.is_active and user.is_staff)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
