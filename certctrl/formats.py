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

from certctrl import errors, jsonbody


class JSONParser(BaseParser):
    """Parses a JSON object strictly: see certctrl.jsonbody."""

    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Any = None
    ) -> dict[str, Any]:
        refuse_other_encodings(
            parser_context["request"] if parser_context else None, media_type or ""
        )
        return jsonbody.read(stream.read(settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1))


def refuse_other_encodings(request: Request | None, media_type: str) -> None:
    """Raise NotJSON (415) for a compressed body, or for a charset that is not UTF-8."""
    coding = request.headers.get("Content-Encoding", "").strip().lower() if request else ""
    if coding not in ("", "identity"):
        raise errors.NotJSON(
            "The body is compressed (Content-Encoding). Send it uncompressed, without that header."
        )
    _, parameters = parse_header_parameters(media_type)
    charset = parameters.get("charset", "utf-8").strip().lower()
    if charset not in ("utf-8", "utf8"):
        shown = jsonbody.printable(charset)
        raise errors.NotJSON(
            f"JSON is sent in UTF-8, but Content-Type says charset={shown}. Leave the charset out."
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


class OffsetPagination(BasePagination):
    """`?offset=0&limit=100` over a plain array.

    `X-Total-Count` is sent only for `?total=1`, because counting is expensive.
    """

    default_limit = 100
    max_limit = 1000
    max_offset = 2**31 - 1

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        offset = self.number(request, "offset", 0, 0, self.max_offset)
        limit = min(
            self.number(request, "limit", self.default_limit, 1, self.max_offset), self.max_limit
        )
        self.total = queryset.count() if self.number(request, "total", 0, 0, 1) else None
        return list(queryset[offset : offset + limit])

    def get_paginated_response(self, data: Any) -> Response:
        return Response(
            data, headers={} if self.total is None else {"X-Total-Count": str(self.total)}
        )

    def number(self, request: Request, name: str, default: int, least: int, most: int) -> int:
        given = request.query_params.get(name)
        if not given:
            return default
        if given.isascii() and given.isdigit() and len(given) <= 10 and least <= int(given) <= most:
            return int(given)
        raise errors.Invalid(f"{name} must be a whole number from {least} to {most}.", field=name)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return schema

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        ranges = {
            "offset": (0, self.max_offset, "number of rows to skip"),
            "limit": (
                1,
                self.max_offset,
                f"number of rows; {self.default_limit} when left out, at most {self.max_limit}",
            ),
            "total": (0, 1, "1 asks for the header X-Total-Count"),
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
