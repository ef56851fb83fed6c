"""JSON lines: an event name and keys, no prose, no PEM, no tokens."""

from typing import Any


def configure() -> None: ...


class RequestContext:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)
