"""How requests are parsed, and how responses and lists are written, for every view.

This is not in certctrl.api, because rest_framework.views imports these classes. An import from
there would be circular.
"""

from typing import Any

from django.conf import settings
from django.utils.http import parse_header_parameters
from rest_framework import exceptions
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.pagination import BasePagination
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

from certctrl import errors, jsonbody
from certctrl.sentences import sentence as _


class JSONParser(BaseParser):
    """Parses a JSON object strictly: see certctrl.jsonbody."""

    media_type = "application/json"
    allows_list = False
    allows_lines = False

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        refuse_other_encodings(
            parser_context["request"] if parser_context else None, media_type or ""
        )
        body = stream.read(settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
        return jsonbody.read(body, allows_list=self.allows_list, allows_lines=self.allows_lines)


def refuse_other_encodings(request: Request | None, media_type: str) -> None:
    """Raise NotJSON (415) for a compressed body, or for a charset that is not UTF-8."""
    coding = request.headers.get("Content-Encoding", "").strip().lower() if request else ""
    if coding not in ("", "identity"):
        raise errors.NotJSON(
            _(
                "The body is compressed (Content-Encoding). Send it uncompressed, without "
                "that header."
            )
        )
    _type, parameters = parse_header_parameters(media_type)
    charset = parameters.get("charset", "utf-8").strip().lower()
    if charset not in ("utf-8", "utf8"):
        shown = jsonbody.printable(charset)
        raise errors.NotJSON(
            _(
                "JSON is sent in UTF-8, but Content-Type says charset=%(shown)s. Leave the "
                "charset out.",
                shown=shown,
            )
        )


class DataRenderer(JSONRenderer):
    """Puts `{"data": ...}` around the result of a view. A 204 has no body."""

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None
    ) -> bytes:
        response = (renderer_context or {}).get("response")
        if response is not None and response.status_code == 204:
            return b""
        return super().render({"data": data}, accepted_media_type, renderer_context)


class LenientNegotiation(DefaultContentNegotiation):
    """Accept is only a preference: another format gets the view's own format, not a 406."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        try:
            chosen: tuple[BaseRenderer, str] = super().select_renderer(
                request, renderers, format_suffix
            )
        except exceptions.NotAcceptable:
            return renderers[0], renderers[0].media_type
        return chosen


class ListPagination(BasePagination):
    """`?after=ID&limit=100` over a plain array, or `?offset=0&limit=100`.

    `after` is the id of the last row that the caller has. A page by `after` costs the same at any
    depth. The query must be sorted by `pk` or by `-pk`. `Link: <...>; rel="next"` (RFC 8288) names
    the next page, and is absent on the last one. `X-Total-Count` is sent only for `?total=1`. It
    counts up to `most_counted` rows; then `X-Total-Count-More: true` says that there are more.
    """

    default_limit = 100
    max_limit = 1000
    max_number = 2**31 - 1
    max_offset = 10_000
    most_counted = 10_000
    max_id = 10**18 - 1

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        self.request = request
        after = self.number(request, "after", 0, 0, self.max_id)
        offset = self.number(request, "offset", 0, 0, self.max_number)
        wanted = self.number(request, "limit", self.default_limit, 1, self.max_number)
        self.limit = min(wanted, self.max_limit)
        if offset > self.max_offset:
            raise errors.Invalid(
                _(
                    "offset is %(max_offset)s at most. For later rows, use after=ID with the "
                    "last id that you have.",
                    max_offset=self.max_offset,
                ),
                field="offset",
            )
        counts = self.number(request, "total", 0, 0, 1)
        self.total = queryset.order_by()[: self.most_counted + 1].count() if counts else None
        if after:
            is_descending = queryset.query.order_by[0].startswith("-")
            queryset = queryset.filter(**{"pk__lt" if is_descending else "pk__gt": after})
        # PostgreSQL finds the ids in the index of the list alone. For whole rows it may prefer the
        # primary key, and read the newer rows of all other owners.
        ids = queryset.values("pk")[offset : offset + self.limit + 1]
        rows = list(queryset.filter(pk__in=ids))
        page = rows[: self.limit]
        self.last_id = page[-1].pk if len(rows) > self.limit else None
        return page

    def get_paginated_response(self, data: Any) -> Response:
        headers = {}
        if self.last_id is not None:
            headers["Link"] = f'<{self.next_page(self.last_id)}>; rel="next"'
        if self.total is not None:
            headers["X-Total-Count"] = str(min(self.total, self.most_counted))
            if self.total > self.most_counted:
                headers["X-Total-Count-More"] = "true"
        return Response(data, headers=headers)

    def next_page(self, last_id: int) -> str:
        """Return the URL of the page after the row `last_id`, with the other parameters kept."""
        url = remove_query_param(self.request.build_absolute_uri(), "offset")
        return replace_query_param(url, "after", last_id)

    def number(self, request: Request, name: str, default: int, least: int, most: int) -> int:
        given = request.query_params.get(name)
        if not given:
            return default
        if given.isascii() and given.isdigit() and len(given) <= 18 and least <= int(given) <= most:
            return int(given)
        raise errors.Invalid(
            _(
                "%(name)s must be a whole number from %(least)s to %(most)s.",
                name=name,
                least=least,
                most=most,
            ),
            field=name,
        )

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return schema

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        ranges = {
            "after": (0, self.max_id, "the id of the last row that you have"),
            "offset": (0, self.max_offset, "number of rows to skip; `after` is better"),
            "limit": (
                1,
                self.max_number,
                f"number of rows; {self.default_limit} when left out, at most {self.max_limit}",
            ),
            "total": (0, 1, f"1 asks for X-Total-Count, up to {self.most_counted}"),
        }
        return [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": description,
                "schema": {"type": "integer", "minimum": least, "maximum": most},
            }
            for name, (least, most, description) in ranges.items()
        ]
