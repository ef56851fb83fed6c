"""Cloudflare DNS, API v4: https://developers.cloudflare.com/api/resources/dns/"""

import re
from collections.abc import Iterator
from typing import Any

import requests
from django.conf import settings

from dnsproviders.base import Field, Provider, ProviderError, a_label, is_inside, listed, suffixes, unquoted
from dnsproviders.models import TxtRecord
from dnsproviders.pacing import ApiLimit

RECORD_EXISTS = {81057, 81058}
BAD_TOKEN = {1000, 6003, 6111, 9106, 9107, 9109, 10000, 10001}  # some of them come with 400
AUTO_TTL, LEAST_TTL = 1, 60
MOST_PAGES = 50


def checked_token(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("is not an API token: it must be ASCII without spaces")
    return value


def checked_zone_id(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z_-]{1,64}", value):
        raise ValueError("must be the zone's id as the zone's overview page shows it")
    return value


class Cloudflare(Provider):
    name = "Cloudflare"
    limit = ApiLimit(calls=1200, seconds=300)  # https://developers.cloudflare.com/fundamentals/api/reference/limits/
    fields = (
        Field(
            "api_token", "API token", secret=True, check=checked_token, help="Zone / DNS / Edit and Zone / Zone / Read."
        ),
        Field("zone_id", "Zone ID", required=False, check=checked_zone_id, help="Found by the names when left out."),
    )

    def zone_of(self, name: str) -> str:
        """A zone id: the credential's own for names inside that zone, else that of the longest zone it sees."""
        return self._given_zone(name) if self.public.get("zone_id") else self._found_zone(name)

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
        """Reads a TXT record of the credential's zone, or of the first zone that it sees."""
        zone_id = self.public.get("zone_id") or self._first_zone()
        self._get(f"zones/{zone_id}/dns_records", type="TXT", per_page=5)

    def _given_zone(self, name: str) -> str:
        zone_id = str(self.public["zone_id"])
        response = self._send("GET", f"zones/{zone_id}")
        if response.status_code == 403:  # the token may write records there, but not read the zone
            return zone_id
        if response.status_code in (400, 404):
            what = f"Cloudflare knows no zone with the id {zone_id}{self.said(response)}."
            raise ProviderError("dns_zone_not_found", what, permanent=True)
        with self.as_documented():
            zone = a_label(self._result(response)["result"]["name"])
        if not is_inside(a_label(name), zone):
            what = f"{name} is not inside {zone}, the zone of the credential's zone_id."
            raise ProviderError("dns_zone_not_found", what, permanent=True)
        return zone_id

    def _found_zone(self, name: str) -> str:
        for suffix in suffixes(name):
            zones = self._get("zones", name=suffix)["result"]
            with self.as_documented():
                # A domain that moved between accounts is there twice; only one of the two is served.
                for zone in sorted(zones, key=lambda each: each.get("status") != "active"):
                    if a_label(zone["name"]) == suffix:
                        return str(zone["id"])
        what = f"Cloudflare has no zone for {name} that this token sees; it sees {self._visible_zones()}."
        raise ProviderError("dns_zone_not_found", what, permanent=True)

    def _visible_zones(self) -> str:
        page = self._get("zones", per_page=50)
        with self.as_documented():
            return listed([zone["name"] for zone in page["result"]], (page.get("result_info") or {}).get("total_count"))

    def _first_zone(self) -> str:
        zones = self._get("zones", per_page=5)["result"]
        if not zones:
            what = "Cloudflare takes the token, but it sees no zone: add the zone to the token, or give zone_id."
            raise ProviderError("dns_zone_not_found", what, permanent=True)
        with self.as_documented():
            return str(zones[0]["id"])

    def _find(self, record: TxtRecord) -> list[str]:
        """Ids of the records that are exactly (name, value)."""
        found = self._pages(f"zones/{record.zone}/dns_records", type="TXT", name=record.name)
        with self.as_documented():
            return [each["id"] for each in found if _is(each, record)]

    def _delete(self, zone_id: str, record_id: str) -> int:
        """1, or 0 when another was faster."""
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
        return self.send(method, f"{settings.CLOUDFLARE_API_URL.rstrip('/')}/{path}", headers=headers, **kwargs)

    def _result(self, response: requests.Response) -> dict[str, Any]:
        """The envelope of a success. Raises ProviderError with Cloudflare's words otherwise."""
        body = self.json_of(response)
        if self._codes(response) & BAD_TOKEN:
            what = f"Cloudflare refused the token{self.said(response)}. {self._advice()}"
            raise ProviderError("dns_credential_refused", what, permanent=True)
        if not response.ok or not body.get("success"):
            raise self.refusal(response)
        if "result" not in body:
            raise self.bad_answer(response)
        return body

    def _advice(self) -> str:
        rights = "Zone / DNS / Edit" if self.public.get("zone_id") else "Zone / DNS / Edit and Zone / Zone / Read"
        return f"It needs {rights}, and must not have expired."

    def _errors(self, response: requests.Response) -> list[dict[str, Any]]:
        try:
            errors = response.json()["errors"]
            return [each for each in errors if isinstance(each, dict)]
        except (ValueError, TypeError, KeyError, RecursionError):
            return []

    def _codes(self, response: requests.Response) -> set[Any]:
        return {each.get("code") for each in self._errors(response) if isinstance(each.get("code"), int)}

    def words(self, response: requests.Response) -> str:
        return "; ".join(f"{each.get('message')} ({each.get('code')})" for each in self._errors(response))


def _is(found: dict[str, Any], record: TxtRecord) -> bool:
    return (
        found["type"] == "TXT"
        and a_label(found["name"]) == a_label(record.name)
        and unquoted(found["content"]) == record.value
    )
