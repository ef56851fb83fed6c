"""Fetch external account bindings from ZeroSSL.

Source: https://zerossl.com/documentation/acme/generate-eab-credentials/
"""

from typing import Any

import requests
from django.conf import settings

from authorities.errors import BAD_EAB, ERROR, RATE_LIMITED, UNREACHABLE, Refused
from certctrl import outgoing
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble


def fetch_eab(email: str = "", api_key: str = "") -> tuple[str, str]:
    """Fetch a new binding, by API key if given, or by e-mail address. Return kid and HMAC key.

    The HMAC key is base64url. Raise Trouble when a retry may help. Raise Refused (permanent) when
    ZeroSSL refuses the address or the API key.

    No error message contains the API key. The key is part of the request's URL, so errors of the
    network are not quoted.
    """
    path = "/acme/eab-credentials" if api_key else "/acme/eab-credentials-email"
    arguments: dict[str, Any] = (
        {"params": {"access_key": api_key}} if api_key else {"data": {"email": email}}
    )
    try:
        response = outgoing.session().post(f"{settings.ZEROSSL_API_URL}{path}", **arguments)
    except requests.RequestException as exc:
        kind = type(exc).__name__
        raise Trouble(
            UNREACHABLE,
            _(
                "ZeroSSL could not be asked for an EAB (%(kind)s). Check that this server "
                "can reach it.",
                kind=kind,
            ),
        ) from None
    answer = _answer_of(response)
    kid = answer.get("eab_kid")
    hmac_key = answer.get("eab_hmac_key")
    if isinstance(kid, str) and isinstance(hmac_key, str) and kid and hmac_key:
        return kid, hmac_key
    whose = "API key" if api_key else "e-mail address"
    reason = _reason_of(answer)
    raise Refused(
        BAD_EAB,
        _(
            "ZeroSSL refuses an EAB for this %(whose)s%(reason)s. Check the %(whose)s.",
            whose=whose,
            reason=reason,
        ),
        permanent=True,
    )


def _answer_of(response: requests.Response) -> dict[str, Any]:
    status = response.status_code
    pause = outgoing.wait_of(response)
    if status == 429:
        raise Trouble(
            RATE_LIMITED,
            _("ZeroSSL limits the requests for EABs. Try again later."),
            retry_after=pause or 300,
        )
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = None
    if status >= 500 or not isinstance(answer, dict):
        raise Trouble(
            ERROR,
            _(
                "ZeroSSL did not answer the request for an EAB (HTTP %(status)s). Try again later.",
                status=status,
            ),
            retry_after=pause,
        )
    return answer


def _reason_of(answer: dict[str, Any]) -> str:
    """Return the reason, for a sentence. Example: ` (code 2900, invalid_access_key)`.

    Both values come from a closed list of ZeroSSL, so that the answer cannot repeat a secret.
    """
    error = answer.get("error")
    if not isinstance(error, dict):
        return ""
    words = [
        str(error[field])[:60]
        for field in ("code", "type")
        if str(error.get(field, "")).isprintable() and field in error
    ]
    return f" ({', '.join(words)})" if words else ""
