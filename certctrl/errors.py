"""The only exceptions that the API shows.

Codes and keys are stable. docs/reference/errors.md lists them.
"""

from typing import Any


class Refusal(Exception):
    """A refused request. `what` is a sentence for a person.

    The sentence says what is wrong, with which name, and what to do.
    """

    code = 5000
    key = "GENERAL::INVALID_ARGUMENT"
    status = 400

    def __init__(self, what: str, **params: Any) -> None:
        super().__init__(what)
        self.what = what
        self.params = params


class Invalid(Refusal):
    """A part of the request is wrong. `params["field"]` names the part."""


class MissingField(Refusal):
    code, key = 5008, "GENERAL::MISSING_FIELD"


class MalformedJSON(Refusal):
    code, key = 9000, "JSON::MALFORMED"


class TooLarge(Refusal):
    code, key, status = 20007, "GENERAL::TOO_LARGE", 413


class TooSlow(Refusal):
    code, key, status = 20021, "GENERAL::TOO_SLOW", 408


class NotJSON(Refusal):
    code, key, status = 20008, "GENERAL::NOT_JSON", 415


class NotFound(Refusal):
    code, key, status = 5003, "GENERAL::NOT_FOUND", 404


class Unauthorized(Refusal):
    code, key, status = 5018, "GENERAL::UNAUTHORIZED", 401


class NotLoggedIn(Refusal):
    code, key, status = 5104, "GENERAL::NOT_LOGIN", 401


class Forbidden(Refusal):
    code, key, status = 5022, "GENERAL::FORBIDDEN", 403


class RateLimited(Refusal):
    code, key, status = 5013, "GENERAL::RATE_LIMITED", 429


class Conflict(Refusal):
    code, key, status = 20001, "GENERAL::CONFLICT", 409


class QuotaExceeded(Refusal):
    """The owner has reached a quota. `params` has quota, limit and used."""

    code, key, status = 20011, "GENERAL::QUOTA_EXCEEDED", 409


class IdempotencyConflict(Refusal):
    code, key, status = 20002, "GENERAL::IDEMPOTENCY_KEY_REUSED", 409


class ExportForbidden(Refusal):
    code, key, status = 20003, "CERTS::EXPORT_FORBIDDEN", 403


class NotIssued(Refusal):
    code, key, status = 20004, "CERTS::NOT_ISSUED", 409


class TooLate(Refusal):
    code, key, status = 20006, "CERTS::TOO_LATE", 409


class MethodNotAllowed(Refusal):
    code, key, status = 5000, "GENERAL::METHOD_NOT_ALLOWED", 405


class Unavailable(Refusal):
    """A part of this server is away. The same request may succeed later."""

    code, key, status = 20009, "GENERAL::UNAVAILABLE", 503


class Unexpected(Refusal):
    """An internal error. The sentence has the request id and no details of the error."""

    code, key, status = 5017, "GENERAL::UNEXPECTED_RESULT", 500


class NobodyLoggedIn(Refusal):
    """The response of `GET /auth/status` without a session.

    The body has the shape of an error, but it is not an error. See docs/reference/api.md.
    """

    code, key, status = 999999, "GENERAL::NOT_AN_ERROR", 200
