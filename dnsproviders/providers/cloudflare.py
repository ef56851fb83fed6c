"""Cloudflare DNS, API v4: https://developers.cloudflare.com/api/resources/dns/"""

import re
from collections.abc import Iterator
from typing import Any

import requests
from django.conf import settings

from certctrl import outgoing
from certctrl.sentences import sentence as _
from dnsclient.names import a_label, is_inside, suffixes
from dnsproviders.base import (
    CREDENTIAL,
    FOR_GOOD,
    LIMITED,
    NO_ZONE,
    ErrorKind,
    Field,
    Provider,
    ProviderError,
    SeenZone,
    elsewhere,
    listed,
    unquoted,
)
from dnsproviders.models import TxtRecord
from dnsproviders.ratelimit import ApiLimit

RECORD_EXISTS = {81057, 81058}
# The meaning of an error, by its code in `errors` or in an `error_chain`. The HTTP status does not
# help, because several codes come with 400. Other errors are not permanent.
# https://developers.cloudflare.com/fundamentals/api/troubleshooting/, and answers that are quoted
# in the issues of Cloudflare's own clients, for example
# https://github.com/cloudflare-api/python-cloudflare-v4/issues/3
CODES = {
    1000: CREDENTIAL,  # Invalid API Token
    6003: CREDENTIAL,  # Invalid request headers; its cause says which
    6100: CREDENTIAL,  # Missing X-Auth-Email header
    6101: CREDENTIAL,  # Missing X-Auth-Key header
    6102: CREDENTIAL,  # Invalid format for X-Auth-Email header
    6103: CREDENTIAL,  # Invalid format for X-Auth-Key header
    6111: CREDENTIAL,  # Invalid format for Authorization header
    9103: CREDENTIAL,  # Unknown X-Auth-Key or X-Auth-Email
    9106: CREDENTIAL,  # Authentication failed
    9107: CREDENTIAL,
    9109: CREDENTIAL,  # Unauthorized to access requested resource; Invalid access token
    10000: CREDENTIAL,  # Authentication error
    10001: CREDENTIAL,  # Unable to authenticate request
    1001: NO_ZONE,  # Invalid zone identifier
    7000: NO_ZONE,  # No route for that URI
    7003: NO_ZONE,  # Could not route to /zones/..., perhaps your object identifier is invalid?
    1004: FOR_GOOD,  # DNS Validation Error; its cause says of what
    9000: FOR_GOOD,  # DNS name is invalid
    9005: FOR_GOOD,  # Content is invalid
    9020: FOR_GOOD,  # Invalid TTL
    9021: FOR_GOOD,  # Invalid TTL: must be between ...
    81045: FOR_GOOD,  # The record quota has been exceeded
    81053: FOR_GOOD,  # An A, AAAA or CNAME record with that host already exists
    81054: FOR_GOOD,  # A CNAME record with that host already exists
    81056: FOR_GOOD,  # NS records with that host already exist
    971: LIMITED,  # Please wait and consider throttling your request speed
}
GRAVEST = (CREDENTIAL, NO_ZONE, FOR_GOOD, LIMITED)
DEEPEST_CAUSE = 4
# https://developers.cloudflare.com/dns/zone-setups/
UNSERVED = {
    "partial": _(
        "a partial zone (CNAME setup), for which other name servers answer. Convert it to a "
        "full setup, or use a credential for those name servers. Or make the challenge a "
        "CNAME into a zone that Cloudflare serves"
    ),
    "secondary": _(
        "a secondary zone, whose records come from its primary server. Use a credential for "
        "that server"
    ),
    "internal": _("an internal zone, which resolvers never see. Use the public zone"),
}
# https://developers.cloudflare.com/dns/zone-setups/reference/domain-status/
# A paused zone is not in this list, because its name servers still answer.
INACTIVE = {
    "initializing": _("is not set up completely at Cloudflare. Finish that"),
    "pending": _(
        "is pending at Cloudflare. Enter the name servers that Cloudflare assigned at its registrar"
    ),
    "moved": _(
        "is marked as moved at Cloudflare, because its registrar names other name servers. "
        "Enter Cloudflare's there, or use a credential for those name servers"
    ),
    "deactivated": _("is deactivated at Cloudflare. Activate it there"),
}
AUTO_TTL = 1
LEAST_TTL = 60
MOST_PAGES = 50


def checked_token(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError(_("is not an API token: it must be ASCII without spaces"))
    return value


def checked_zone_id(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", value):
        raise ValueError(_("must be the id of the zone, as its overview page shows it"))
    return value


class Cloudflare(Provider):
    name = "Cloudflare"
    # https://developers.cloudflare.com/fundamentals/api/reference/limits/
    limit = ApiLimit(calls=1200, seconds=300)
    fields = (
        Field(
            "api_token",
            _("API token"),
            secret=True,
            check=checked_token,
            help=_("Zone / DNS / Edit and Zone / Zone / Read."),
        ),
        Field(
            "zone_id",
            _("Zone ID"),
            required=False,
            check=checked_zone_id,
            help=_("Found by the names when left out."),
        ),
    )

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._known: dict[str, dict[str, Any]] = {}  # zones that Cloudflare showed, by id

    def zone_of(self, name: str) -> str:
        """Return the id of the zone that holds `name`.

        It is the credential's `zone_id`. Without one, it is the longest matching zone that the
        token can see.
        """
        return self._given_zone(name) if self.public.get("zone_id") else self._found_zone(name)

    def zone_name(self, zone: str) -> str:
        return str(self._known.get(zone, {}).get("name", ""))

    def doubt(self, zone: str, name: str, seen: SeenZone) -> str:
        known = self._known.get(zone, {})
        if inactive := INACTIVE.get(str(known.get("status"))):
            return _(
                "The zone of %(name)s %(inactive)s. Until then resolvers may not see the "
                "TXT record.",
                name=name,
                inactive=inactive,
            )
        return elsewhere(self.name, str(known["name"]), name, seen) if known.get("name") else ""

    def present(self, record: TxtRecord) -> None:
        if self._find(record):
            return
        ttl = record.ttl if record.ttl == AUTO_TTL else max(record.ttl, LEAST_TTL)
        body = {"type": "TXT", "name": record.name, "content": f'"{record.value}"', "ttl": ttl}
        response = self._send("POST", f"zones/{record.zone}/dns_records", json=body)
        if not self._codes(response) & RECORD_EXISTS:
            self._result(response)

    def cleanup(self, record: TxtRecord) -> int:
        return sum(self._delete(record.zone, record_id) for record_id in self._find(record))

    def check(self) -> None:
        """Read TXT records of the credential's zone, or of the first zone that the token sees."""
        zone_id = self.public.get("zone_id") or self._first_zone()
        self._get(f"zones/{zone_id}/dns_records", type="TXT", per_page=5)

    def _given_zone(self, name: str) -> str:
        zone_id = str(self.public["zone_id"])
        response = self._send("GET", f"zones/{zone_id}")
        if response.status_code == 403:
            # The token may have the right to write records, but not to read the zone.
            return zone_id
        if response.status_code in (400, 404) and self._kind(response) in (None, NO_ZONE):
            what = _(
                "Cloudflare has no zone with the id %(zone_id)s%(said)s. Check zone_id.",
                zone_id=zone_id,
                said=self.said(response),
            )
            raise ProviderError("dns_zone_not_found", what, permanent=True)
        with self.as_documented():
            found = self._result(response)["result"]
            zone = a_label(found["name"])
        if not is_inside(a_label(name), zone):
            what = _(
                "%(name)s is not inside %(zone)s, the zone of zone_id. Use another credential.",
                name=name,
                zone=zone,
            )
            raise ProviderError("dns_zone_not_found", what, permanent=True)
        if unserved := UNSERVED.get(found.get("type")):
            raise _unserved(zone, unserved)
        self._known[zone_id] = found
        return zone_id

    def _found_zone(self, name: str) -> str:
        passed_over = None
        for suffix in suffixes(name):
            zones = self._get("zones", name=suffix)["result"]
            with self.as_documented():
                # A domain that moved between accounts is listed twice. Only one zone is served.
                for zone in sorted(zones, key=lambda each: each.get("status") != "active"):
                    if a_label(zone["name"]) != suffix:
                        continue
                    if unserved := UNSERVED.get(zone.get("type")):
                        passed_over = passed_over or _unserved(suffix, unserved)
                        continue
                    self._known[str(zone["id"])] = zone
                    return str(zone["id"])
        if passed_over:
            raise passed_over
        what = _(
            "Cloudflare shows this token no zone for %(name)s. It shows "
            "%(visible_zones)s. Add the zone to the token.",
            name=name,
            visible_zones=self._visible_zones(),
        )
        raise ProviderError("dns_zone_not_found", what, permanent=True)

    def _visible_zones(self) -> str:
        page = self._get("zones", per_page=50)
        with self.as_documented():
            return listed(
                [zone["name"] for zone in page["result"]],
                (page.get("result_info") or {}).get("total_count"),
            )

    def _first_zone(self) -> str:
        zones = self._get("zones", per_page=5)["result"]
        if not zones:
            what = _(
                "Cloudflare accepts the token, but shows it no zone. Add the zone to the "
                "token, or give zone_id."
            )
            raise ProviderError("dns_zone_not_found", what, permanent=True)
        with self.as_documented():
            return str(zones[0]["id"])

    def _find(self, record: TxtRecord) -> list[str]:
        """Return the ids of the records that have exactly this name and value."""
        found = self._pages(f"zones/{record.zone}/dns_records", type="TXT", name=record.name)
        with self.as_documented():
            return [each["id"] for each in found if _is(each, record)]

    def _delete(self, zone_id: str, record_id: str) -> int:
        """Delete the record. Return 1, or 0 when it was already deleted."""
        response = self._send("DELETE", f"zones/{zone_id}/dns_records/{record_id}")
        if response.status_code == 404 and self._codes(response):
            return 0
        self._result(response)
        return 1

    def _pages(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        for page in range(1, MOST_PAGES + 1):
            body = self._get(path, **params, per_page=100, page=page)
            with self.as_documented():
                yield from body["result"]
                if page >= (body.get("result_info") or {}).get("total_pages", 1):
                    return

    def _get(self, path: str, **params: Any) -> dict[str, Any]:
        return self._result(self._send("GET", path, params=params))

    def _send(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.secret['api_token'].reveal()}"}
        return self.send(
            method, f"{settings.CLOUDFLARE_API_URL.rstrip('/')}/{path}", headers=headers, **kwargs
        )

    def _result(self, response: requests.Response) -> dict[str, Any]:
        """Return the JSON body of a success. Raise ProviderError with Cloudflare's words else."""
        body = self.json_of(response)
        if not response.ok or not body.get("success"):
            raise self.refusal(response)
        if "result" not in body:
            raise self.bad_answer(response)
        return body

    def refusal(self, response: requests.Response) -> ProviderError:
        kind = self._kind(response)
        said = self.said(response)
        if kind is None or not said:
            return super().refusal(response)
        if kind == CREDENTIAL:
            what = _(
                "Cloudflare refused the token%(said)s. %(advice)s", said=said, advice=self._advice()
            )
        elif kind == LIMITED:
            self.pace.pause(outgoing.wait_of(response))
            what = _("Cloudflare limits the rate of requests%(said)s.", said=said)
        else:
            what = _(
                "Cloudflare answered %(status_code)s%(said)s.",
                status_code=response.status_code,
                said=said,
            )
        return ProviderError(kind.code, what, kind.permanent, outgoing.wait_of(response))

    def _kind(self, response: requests.Response) -> ErrorKind | None:
        """Return the kind of the most serious error. Return None without a known error code."""
        kinds = {CODES[code] for code in self._codes(response) if code in CODES}
        return next((each for each in GRAVEST if each in kinds), None)

    def _advice(self) -> str:
        rights = (
            _("Zone / DNS / Edit")
            if self.public.get("zone_id")
            else _("Zone / DNS / Edit and Zone / Zone / Read")
        )
        return _("It needs %(rights)s, and it must not be expired.", rights=rights)

    def _errors(self, response: requests.Response, member: str = "errors") -> list[dict[str, Any]]:
        try:
            errors = response.json()[member]
            return [each for each in errors if isinstance(each, dict)]
        except (ValueError, TypeError, KeyError, RecursionError):
            return []

    def _codes(self, response: requests.Response) -> set[Any]:
        """Return the codes of the errors and of their causes."""
        found = [each for error in self._errors(response) for each in _causes(error)]
        return {each.get("code") for each in found if isinstance(each.get("code"), int)}

    def words(self, response: requests.Response) -> str:
        """Return each error with its causes. Without errors, return the messages."""
        return "; ".join(map(_told, self._errors(response) or self._errors(response, "messages")))


def _unserved(zone: str, why: str) -> ProviderError:
    what = _(
        "Resolvers would not see the TXT record. %(zone)s is at Cloudflare %(why)s.",
        zone=zone,
        why=why,
    )
    return ProviderError("dns_zone_not_served", what, permanent=True)


def _behind(error: dict[str, Any]) -> list[dict[str, Any]]:
    behind = error.get("error_chain")
    return [each for each in behind if isinstance(each, dict)] if isinstance(behind, list) else []


def _causes(error: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    yield error
    for each in _behind(error) if depth < DEEPEST_CAUSE else []:
        yield from _causes(each, depth + 1)


def _told(error: dict[str, Any], depth: int = 0) -> str:
    """Return an error and its causes as text.

    Example: Invalid request headers (6003): Invalid format for Authorization header (6111)
    """
    told = f"{error.get('message')} ({error.get('code')})"
    behind = _behind(error) if depth < DEEPEST_CAUSE else []
    return f"{told}: {', '.join(_told(each, depth + 1) for each in behind)}" if behind else told


def _is(found: dict[str, Any], record: TxtRecord) -> bool:
    return (
        found["type"] == "TXT"
        and a_label(found["name"]) == a_label(record.name)
        and unquoted(found["content"]) == record.value
    )
