"""The only exceptions that the API shows.

Codes and keys are stable. docs/reference/errors.md lists them.
"""

from typing import Any


class ApiError(Exception):
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


class Invalid(ApiError):
    """A part of the request is wrong. `params["field"]` names the part."""


class MissingField(ApiError):
    code, key = 5008, "GENERAL::MISSING_FIELD"


class MalformedJSON(ApiError):
    code, key = 9000, "JSON::MALFORMED"


class TooLarge(ApiError):
    code, key, status = 20007, "GENERAL::TOO_LARGE", 413


class TooSlow(ApiError):
    code, key, status = 20021, "GENERAL::TOO_SLOW", 408


class NotJSON(ApiError):
    code, key, status = 20008, "GENERAL::NOT_JSON", 415


class NotFound(ApiError):
    code, key, status = 5003, "GENERAL::NOT_FOUND", 404


class Unauthorized(ApiError):
    code, key, status = 5018, "GENERAL::UNAUTHORIZED", 401


class RefreshTokenRotated(ApiError):
    """A refresh token that was spent before. Agents know this code and this key."""

    code, key, status = 10003, "refresh_token_rotated", 401


class SecondFactorNeeded(ApiError):
    """The password was right. Send the request again with `code`, from the authenticator app."""

    code, key, status = 20022, "GENERAL::SECOND_FACTOR_NEEDED", 401


class NotLoggedIn(ApiError):
    code, key, status = 5104, "GENERAL::NOT_LOGIN", 401


class Forbidden(ApiError):
    code, key, status = 5022, "GENERAL::FORBIDDEN", 403


class RateLimited(ApiError):
    code, key, status = 5013, "GENERAL::RATE_LIMITED", 429


class Conflict(ApiError):
    code, key, status = 20001, "GENERAL::CONFLICT", 409


class CursorTrimmed(ApiError):
    """A cursor that is not in the log of the device. Agents know this code and these params."""

    code, key, status = 40901, "DEVICES::CURSOR_TRIMMED", 409


class QuotaExceeded(ApiError):
    """The owner has reached a quota. `params` has quota, limit and used."""

    code, key, status = 20011, "GENERAL::QUOTA_EXCEEDED", 409


class IdempotencyConflict(ApiError):
    code, key, status = 20002, "GENERAL::IDEMPOTENCY_KEY_REUSED", 409


class ExportForbidden(ApiError):
    code, key, status = 20003, "CERTS::EXPORT_FORBIDDEN", 403


class NotIssued(ApiError):
    code, key, status = 20004, "CERTS::NOT_ISSUED", 409


class WrapPending(ApiError):
    """The key has no wrap for the device yet. Agents look for WRAP_PENDING, and try again."""

    code, key, status = 20005, "DEVICES::WRAP_PENDING", 409


class TooLate(ApiError):
    code, key, status = 20006, "CERTS::TOO_LATE", 409


class MethodNotAllowed(ApiError):
    code, key, status = 5000, "GENERAL::METHOD_NOT_ALLOWED", 405


class Unavailable(ApiError):
    """A part of this server is away. The same request may succeed later."""

    code, key, status = 20009, "GENERAL::UNAVAILABLE", 503


class Unexpected(ApiError):
    """An internal error. The sentence has the request id and no details of the error."""

    code, key, status = 5017, "GENERAL::UNEXPECTED_RESULT", 500


class NobodyLoggedIn(ApiError):
    """The response of `GET /auth/status` without a session.

    The body has the shape of an error, but it is not an error. See docs/reference/api.md.
    """

    code, key, status = 999999, "GENERAL::NOT_AN_ERROR", 200
