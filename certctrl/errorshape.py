"""Every API error in one shape: `{"error": {"code", "key", "what", "params"}}`.

See docs/reference/api.md.
"""

import math
import re
import secrets
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import (
    DisallowedHost,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.utils import translation
from django.utils.translation import gettext_noop
from django.views import defaults
from rest_framework import exceptions
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from certctrl import disk, errors, jsonbody
from certctrl.errors import ApiError
from certctrl.sentences import either
from certctrl.sentences import sentence as _
from certctrl.turns import LostTurn, Trouble, Wait

log = structlog.get_logger()

NO_OBJECT = gettext_noop("%(field)s is not an object. Give one: {...}.")
# Sentences of Django REST framework, and ours. Ours begin with the member's name.
REWORDED = {
    "This field is required.": gettext_noop("%(field)s is missing. Add it."),
    "This field may not be null.": gettext_noop("%(field)s is null. Give a value."),
    "This field may not be blank.": gettext_noop("%(field)s is empty. Give a value."),
    "Not a valid string.": gettext_noop("%(field)s is not text. Give a string."),
    "A valid integer is required.": gettext_noop("%(field)s is not a whole number. Give one."),
    "String value too large.": gettext_noop(
        "%(field)s is too long for a number. Give a shorter one."
    ),
    "Must be a valid boolean.": gettext_noop(
        "%(field)s is neither true nor false. Give one of them."
    ),
    "Enter a valid email address.": gettext_noop(
        "%(field)s is not an e-mail address. Give one: name@example.com."
    ),
    "Null characters are not allowed.": gettext_noop("%(field)s has a NUL character. Remove it."),
    "Value must be valid JSON.": gettext_noop(
        "%(field)s is not JSON. Give a text, a number, or an object."
    ),
    'Expected a list of items but got type "{input_type}".': gettext_noop(
        "%(field)s is not a list. Give one: [...]."
    ),
    'Expected a dictionary of items but got type "{input_type}".': NO_OBJECT,
    "Invalid data. Expected a dictionary, but got {datatype}.": NO_OBJECT,
    "This list may not be empty.": gettext_noop(
        "%(field)s is an empty list. Give one entry or more."
    ),
    "Ensure this value is less than or equal to {max_value}.": gettext_noop(
        "%(field)s is too large. It is at most %(max_value)s."
    ),
    "Ensure this value is greater than or equal to {min_value}.": gettext_noop(
        "%(field)s is too small. It is at least %(min_value)s."
    ),
    "Ensure this field has no more than {max_length} characters.": gettext_noop(
        "%(field)s is longer than %(max_length)s characters."
    ),
    "Ensure this field has at least {min_length} characters.": gettext_noop(
        "%(field)s is shorter than %(min_length)s characters."
    ),
    "Ensure this field has no more than {max_length} elements.": gettext_noop(
        "%(field)s has more than %(max_length)s entries."
    ),
    "Ensure this field has at least {min_length} elements.": gettext_noop(
        "%(field)s has too few entries. Give %(min_length)s or more."
    ),
    "Date has wrong format. Use one of these formats instead: {format}.": gettext_noop(
        "%(field)s is not a day. Give one: 2030-12-31."
    ),
    "Datetime has wrong format. Use one of these formats instead: {format}.": gettext_noop(
        "%(field)s is not a time. Give one: 2030-12-31T23:59:59Z. In a query, write + as %%2B."
    ),
    "Datetime value out of range.": gettext_noop(
        "%(field)s is too early or too late. Give another time."
    ),
}

DATABASE_PAUSE = 5  # seconds until a request that the database did not accept is worth a retry
LOST_TURN_PAUSE = 2  # seconds until a request that lost its row is worth a retry


class ErrorResponse(Response):
    """A response with the body `{"error": ...}`.

    It is always JSON, even if the view renders another type.
    """

    @property
    def rendered_content(self) -> Any:
        self.accepted_renderer = JSONRenderer()
        self.accepted_media_type = JSONRenderer.media_type
        return super().rendered_content


def error_body(refusal: ApiError) -> dict[str, Any]:
    return {
        "error": {
            "code": refusal.code,
            "key": refusal.key,
            "what": str(refusal.what),
            "params": refusal.params,
        },
    }


def error_headers(refusal: ApiError) -> dict[str, str]:
    headers = {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="certctrl"'
    if "retry_after" in refusal.params:
        headers["Retry-After"] = str(refusal.params["retry_after"])
    return headers


def error_response(refusal: ApiError) -> ErrorResponse:
    return ErrorResponse(error_body(refusal), status=refusal.status, headers=error_headers(refusal))


def exception_handler(exc: Exception, context: Mapping[str, Any]) -> Response:
    """Return the error response for an exception that left a view.

    An internal error is logged. Its response has no details.
    """
    if isinstance(exc, exceptions.MethodNotAllowed):
        return error_response(wrong_method(context["request"].method, context["view"]))
    return error_response(refusal_of(exc) or unexpected(exc))


def wrong_method(method: str, view: Any) -> ApiError:
    taken = [each for each in view.allowed_methods if each not in ("HEAD", "OPTIONS")]
    return errors.MethodNotAllowed(
        _(
            "This path does not take %(method)s. Send %(taken)s.",
            method=jsonbody.printable(method),
            taken=either(taken),
        )
    )


def unexpected(exc: BaseException | None) -> ApiError:
    """Log an internal error or a database error, and return its refusal."""
    request_id = structlog.contextvars.get_contextvars().get("request_id") or secrets.token_hex(8)
    log.error("request.failed", request_id=request_id, exc_info=exc)
    if full := disk.note(exc):
        full.params["request_id"] = request_id
        return full
    if isinstance(exc, OperationalError | InterfaceError):
        return errors.Unavailable(
            _(
                "The database is busy or unreachable. The request was not carried out. Send "
                "it again in a few seconds."
            ),
            request_id=request_id,
            retry_after=DATABASE_PAUSE,
        )
    return errors.Unexpected(
        _(
            "Internal error. The request was not carried out. Send it again. If that fails "
            "too, ask the operator: the server log has the details under %(request_id)s.",
            request_id=request_id,
        ),
        request_id=request_id,
    )


def refusal_of(exc: Exception) -> ApiError | None:
    """Return our refusal for an exception of DRF or Django, or None for an unexpected exception."""
    match exc:
        case ApiError():
            return exc
        case exceptions.ValidationError():
            return invalid(exc.detail)
        case exceptions.ParseError() | UnreadablePostError():
            return errors.MalformedJSON(_("The body cannot be read. Send JSON in UTF-8."))
        case exceptions.UnsupportedMediaType():
            return errors.NotJSON(
                _(
                    "The body is not declared as JSON. Send JSON, with the header "
                    "Content-Type: application/json."
                )
            )
        case exceptions.NotAuthenticated():
            return errors.NotLoggedIn(
                _("Log in first, or send an API key: Authorization: Bearer ak_...")
            )
        case exceptions.AuthenticationFailed():
            return errors.Unauthorized(str(exc.detail))
        case exceptions.PermissionDenied() | PermissionDenied():
            return errors.Forbidden(_("You may not do that. Ask the staff of this server."))
        case exceptions.NotFound() | Http404():
            return errors.NotFound(
                _("The object does not exist, or it is not yours. Check its id.")
            )
        case exceptions.Throttled():
            pause = int(getattr(exc, "wait", None) or 60)
            return errors.RateLimited(
                _("Too many requests. Try again in %(pause)s seconds.", pause=pause),
                retry_after=pause,
            )
        case RequestDataTooBig():
            return jsonbody.too_large(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        case Wait() if exc.imposed:
            return errors.RateLimited(exc.what, retry_after=math.ceil(exc.seconds))
        case Wait() | LostTurn():
            pause = math.ceil(exc.seconds) if isinstance(exc, Wait) else LOST_TURN_PAUSE
            return held(max(1, pause))
        case SuspiciousOperation():
            return disk.note(exc) or not_understood()
        case Trouble():
            return errors.Unavailable(exc.what)
        case exceptions.APIException() if exc.status_code < 500:
            return errors.Invalid(str(exc.detail))
    return None


def held(pause: int) -> ApiError:
    """Return the error for a row that a worker holds. It may be free after `pause` seconds."""
    return errors.Unavailable(
        _(
            "The server is working on this object. The request was not completed. Send it "
            "again in %(pause)s seconds.",
            pause=pause,
        ),
        retry_after=pause,
    )


def not_understood() -> ApiError:
    """Return the error for a request that Django finds suspicious.

    Examples are a foreign host name, or a thousand query parameters.
    """
    return errors.Invalid(
        _("The request cannot be understood. Check its host name, its headers and its query.")
    )


def invalid(detail: Any) -> ApiError:
    """Return the first error of a serializer, as a sentence with the name of the member."""
    field, complaint = first_complaint(detail, "")
    kind = errors.MissingField if complaint.code == "required" else errors.Invalid
    if not field:
        return kind(str(complaint))
    return kind(sentence_about(field, str(complaint)), field=field)


def sentence_about(field: str, complaint: str) -> str:
    """Return our sentence for one of Django REST framework, which is in the active language."""
    for theirs, ours in REWORDED.items():
        if found := _pattern(theirs, translation.get_language()).fullmatch(complaint):
            return _(ours, field=field, **found.groupdict())
    return _("%(field)s: %(complaint)s", field=field, complaint=complaint)


@lru_cache
def _pattern(text: str, _language: str | None) -> re.Pattern[str]:
    """Return the pattern of a text in the active language, with a group for each `{name}`."""
    escaped = re.escape(translation.gettext(text))
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>.*)", escaped), re.DOTALL)


def first_complaint(detail: Any, path: str) -> tuple[str, exceptions.ErrorDetail]:
    if isinstance(detail, dict):
        name, inner = next((name, inner) for name, inner in detail.items() if inner)
        if isinstance(name, int):
            return first_complaint(inner, f"{path}[{name}]")
        if name == "non_field_errors":
            return first_complaint(inner, path)
        return first_complaint(inner, f"{path}.{name}" if path else str(name))
    if isinstance(detail, list):
        number, inner = next((number, inner) for number, inner in enumerate(detail) if inner)
        return first_complaint(
            inner, f"{path}[{number}]" if isinstance(inner, dict | list) else path
        )
    return path, detail


# --- Requests without a view ---

API_PATHS = ("/apiv1", "/auth", "/health", "/api/")


def is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith(API_PATHS)


def plain_response(refusal: ApiError) -> JsonResponse:
    return JsonResponse(error_body(refusal), status=refusal.status, headers=error_headers(refusal))


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, DisallowedHost):
        host = jsonbody.printable(request.META.get("HTTP_HOST", ""))
        return plain_response(
            errors.Invalid(
                _(
                    "The host %(host)s is not in the setting ALLOWED_HOSTS. Call this server "
                    "by a host in that setting.",
                    host=host,
                )
            )
        )
    if not is_api(request):
        return defaults.bad_request(request, exception)
    if isinstance(exception, RequestDataTooBig):
        return plain_response(jsonbody.too_large(settings.DATA_UPLOAD_MAX_MEMORY_SIZE))
    # Django takes a session that it could not save for a deleted session.
    return plain_response(disk.note(exception) or not_understood())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    docs = f"{settings.URL_PREFIX}/apiv1/docs"
    what = _("There is nothing at this path. See %(docs)s.", docs=docs)
    if request.path_info.startswith("/api/"):
        what = _(
            "Devices open a WebSocket here. If this was one, a proxy did not pass on the headers "
            "Connection and Upgrade. See %(docs)s.",
            docs=docs,
        )
    elif request.path_info.endswith("/"):
        what = _(
            "There is nothing at this path. Leave out the slash at its end. See %(docs)s.",
            docs=docs,
        )
    return plain_response(errors.NotFound(what))


def server_error(request: HttpRequest) -> HttpResponse:
    return plain_response(unexpected(sys.exc_info()[1]))
