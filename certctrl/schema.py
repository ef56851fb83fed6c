"""Adds to the API schema what drf-spectacular cannot see.

These are the credentials, the {"data"} envelope, the error shape, the headers of lists, and
optional members.
"""

from typing import Any

from django.utils.translation import override
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView

# Extension of a serializer: response members that may be absent.
OPTIONAL = "x-optional"
# Extension of an operation: its 200 may have an error body (docs/reference/api.md).
OR_ERROR = "x-or-error"
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "key", "what", "params"],
            "properties": {
                "code": {"type": "integer"},
                "key": {"type": "string", "example": "GENERAL::NOT_FOUND"},
                "what": {"type": "string", "description": "a sentence for a person"},
                "params": {"type": "object", "additionalProperties": {}},
            },
        }
    },
}

# certctrl.formats.ListPagination sends them.
LIST_HEADERS = {
    "Link": {
        "description": '`<URL>; rel="next"`, unless this is the last page (RFC 8288)',
        "schema": {"type": "string"},
    },
    "X-Total-Count": {
        "description": "number of rows, at most 10000, for `total=1`",
        "schema": {"type": "integer"},
    },
    "X-Total-Count-More": {
        "description": "`true` when there are more rows than were counted",
        "schema": {"type": "string"},
    },
}


class SchemaView(SpectacularAPIView):
    """The schema in English. Names of enumerations follow from the words of their choices."""

    @extend_schema(exclude=True)
    def get(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        with override("en"):
            return super().get(request, *args, **kwargs)  # type: ignore[no-untyped-call]


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "accounts.authentication.JSONSessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "apiKey", "in": "cookie", "name": "cjj365"}


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "accounts.authentication.ApiKeyAuthentication"
    name = "api_key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "ak_..."}


class DeviceScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "devices.authentication.DeviceAuthentication"
    name = "device"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


def envelope(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Put responses into `data`, and describe all other responses as the one error shape.

    Lists, which have the parameter `after`, get their headers.

    This is a postprocessing hook of drf-spectacular.
    """
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    for schema in schemas.values():
        optional = schema.pop(OPTIONAL, ())
        schema |= (
            {"required": [name for name in schema["required"] if name not in optional]}
            if optional
            else {}
        )
        for member in schema.get("properties", {}).values():
            member.pop("title", None)  # the words of the admin
    schemas["Error"] = ERROR
    result["components"]["headers"] = LIST_HEADERS
    for operations in result["paths"].values():
        for operation in operations.values():
            if any(each["name"] == "after" for each in operation.get("parameters", ())):
                operation["responses"]["200"]["headers"] = {
                    name: {"$ref": f"#/components/headers/{name}"} for name in LIST_HEADERS
                }
            wrap(operation["responses"], or_error=operation.pop(OR_ERROR, False))
    return result


def wrap(responses: dict[str, Any], or_error: bool) -> None:
    error = {"$ref": "#/components/schemas/Error"}
    for response in responses.values():
        json = response.get("content", {}).get("application/json")
        if json:
            data = {"type": "object", "required": ["data"], "properties": {"data": json["schema"]}}
            json["schema"] = {"oneOf": [data, error]} if or_error else data
    responses["default"] = {
        "description": "refused",
        "content": {"application/json": {"schema": error}},
    }
