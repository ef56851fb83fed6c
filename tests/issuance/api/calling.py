"""Calls and counts for the tests of the API."""

from collections.abc import Callable, Iterator
from typing import Any

from django.apps import apps
from django.urls import URLPattern, get_resolver

from tests.conftest import JSONClient

CERTIFICATES = "certificates"


class Caller:
    """One person's requests below one prefix: `api.post("certificates", {...},
    HTTP_IDEMPOTENCY_KEY="k")`.
    """

    def __init__(self, client: JSONClient, prefix: str = "/apiv1/me") -> None:
        self.client = client
        self.prefix = prefix

    def get(self, path: str, **extra: Any) -> Any:
        return self.client.get(f"{self.prefix}/{path}", **extra)

    def post(self, path: str, body: Any = None, **extra: Any) -> Any:
        return self.client.post(f"{self.prefix}/{path}", body, **extra)

    def put(self, path: str, body: Any = None, **extra: Any) -> Any:
        return self.client.put(f"{self.prefix}/{path}", body, **extra)

    def patch(self, path: str, body: Any = None, **extra: Any) -> Any:
        return self.client.patch(f"{self.prefix}/{path}", body, **extra)

    def delete(self, path: str, **extra: Any) -> Any:
        return self.client.delete(f"{self.prefix}/{path}", **extra)


def routes(patterns: list[Any] | None = None, before: str = "") -> Iterator[tuple[str, Callable]]:
    """Yield (route, view) of every URL of the server."""
    for each in get_resolver().url_patterns if patterns is None else patterns:
        route = before + str(each.pattern)
        if isinstance(each, URLPattern):
            yield route, each.callback
        else:
            yield from routes(each.url_patterns, route)


def rows() -> dict[str, int]:
    """Return how many rows each table has."""
    return {model._meta.label: model._default_manager.count() for model in apps.get_models()}


def refused(response: Any, status: int, field: str | None = None) -> str:
    """Check the shape of an error. Return its sentence."""
    assert response.status_code == status, response.content
    assert set(response.body) == {"error"}
    error = response.error
    assert set(error) == {"code", "key", "what", "params"}
    assert isinstance(error["code"], int)
    assert "::" in error["key"]
    assert error["what"].endswith((".", ")", "]", "}")), error["what"]
    if field is not None:
        assert error["params"].get("field") == field, error
    return str(error["what"])
