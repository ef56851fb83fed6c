"""A walk over every page of the admin."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from django.contrib import admin
from django.urls import reverse

# The links of a page to the rows that belong to it.
NEIGHBOUR = r'href="([^"]+__exact=[^"]+)" class="text-primary-600"'
Visit = Callable[[str], Any]  # gets an address, and returns the response


def walk(visit: Visit) -> None:
    visit(reverse("admin:index"))
    for model, page in admin.site._registry.items():
        visit(reverse("admin:app_list", args=[model._meta.app_label]))
        _table(visit, model, page)


def _table(visit: Visit, model: Any, page: Any) -> None:
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    listed = reverse(f"{name}_changelist")
    found = visit(listed).context_data["cl"]
    for query in dict.fromkeys(_queries(model, page, found)):
        visit(f"{listed}?{query}")
    visit(reverse(f"{name}_add"))
    if page.list_display_links is None:  # a row has no page
        return
    rows = model._default_manager.order_by("pk").values_list("pk", flat=True)
    for pk in {rows.first(), rows.last()}:
        opened = visit(reverse(f"{name}_change", args=[pk]))
        for link in re.findall(NEIGHBOUR, opened.content.decode()):
            visit(link)
        visit(reverse(f"{name}_history", args=[pk]))


def _queries(model: Any, page: Any, found: Any) -> Iterator[str]:
    """Yield the queries of a list: pages, searches, filters and sorted columns."""
    if found.paginator.num_pages > 1:
        yield "p=2"
        yield f"p={found.paginator.num_pages}"
    lookups = (*page.search_fields, *page.indexed_search)
    for lookup in dict.fromkeys(each.removesuffix("__startswith") for each in lookups):
        value = model._default_manager.order_by("-pk").values_list(lookup, flat=True)[0]
        yield f"q={quote(str(value))}"
    yield "q=n777.example.com"
    yield "q=n"
    yield "q=nothing+at+all"
    for each in found.filter_specs:
        for choice in each.choices(found):
            yield choice["query_string"].removeprefix("?")
    for number, column in enumerate(found.list_display):
        if found.sortable_by and column in found.sortable_by:
            yield f"o={number}"
            yield f"o=-{number}"
