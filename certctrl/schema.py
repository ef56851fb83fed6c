"""What drf-spectacular cannot see: both credentials, the {"data"} envelope, the error shape."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension

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


def envelope(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """A postprocessing hook: answers stand in `data`, and everything else is an error of one shape."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR
    for operations in result["paths"].values():
        for operation in operations.values():
            wrap(operation["responses"])
    return result


def wrap(responses: dict[str, Any]) -> None:
    for response in responses.values():
        json = response.get("content", {}).get("application/json")
        if json:
            json["schema"] = {"type": "object", "required": ["data"], "properties": {"data": json["schema"]}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses["default"] = {"description": "refused", "content": error}
