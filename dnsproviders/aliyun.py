"""Alibaba Cloud DNS, API version 2015-01-09: https://www.alibabacloud.com/help/en/dns/api-alidns-2015-01-09-overview

Requests carry a signature of the third kind (ACS3-HMAC-SHA256):
https://www.alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature
"""

import hashlib
import hmac
import re
import uuid
from collections.abc import Iterator, Mapping, Set
from datetime import UTC
from typing import Any
from urllib.parse import quote, urlsplit

import idna
import requests
from django.conf import settings

from certctrl import clock
from dnsproviders.base import Field, Provider, ProviderError, a_label, listed, suffixes, unquoted
from dnsproviders.models import TxtRecord

VERSION = "2015-01-09"
LEAST_TTL = 600  # of the free plan; the paid ones allow less, but refuse it without
PAGE = 100
MOST_PAGES = 50
NO_SUCH_ZONE = {"InvalidDomainName.NoExist", "InvalidDomainName.Format", "IncorrectDomainUser"}
RECORD_EXISTS = {"DomainRecordDuplicate"}
RECORD_ABSENT = {"DomainRecordNotBelongToUser", "InvalidRR.NoExist"}
REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "IncompleteSignature", "Forbidden", "NoPermission")


def checked_key(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("must be ASCII without spaces")
    return value


class Aliyun(Provider):
    name = "Aliyun"
    fields = (
        Field(
            "access_key_id", "AccessKey ID", most=128, check=checked_key, help="Of a RAM user with rights for DNS only."
        ),
        Field("access_key_secret", "AccessKey secret", secret=True, check=checked_key),
    )

    def zone_of(self, name: str) -> str:
        """The name of the longest domain in the account that holds `name`.

        Asks for records, since that right is needed anyway; a RAM user may have it for one domain only.
        """
        refused = None
        for suffix in (zone for each in suffixes(name) for zone in _spellings(each)):
            answer = self._call("DescribeDomainRecords", DomainName=suffix, PageSize=1)
            code = answer.get("Code")
            if code is None:
                return suffix
            if str(code).startswith("Forbidden"):
                refused = self._error(answer)
            elif code not in NO_SUCH_ZONE:
                raise self._error(answer)
        if refused:
            raise refused
        what = f"Aliyun has no domain for {name} that this key sees; it sees {self._visible_domains()}."
        raise ProviderError("dns_zone_not_found", what, permanent=True)

    def present(self, record: TxtRecord) -> None:
        if self._find(record):
            return
        ttl = max(record.ttl, LEAST_TTL)
        rr = _rr(record)
        answer = self._call("AddDomainRecord", DomainName=record.zone, RR=rr, Type="TXT", Value=record.value, TTL=ttl)
        self._raise_unless_done(answer, but_for=RECORD_EXISTS)

    def cleanup(self, record: TxtRecord) -> int:
        return sum(self._delete(record_id) for record_id in self._find(record))

    def check(self) -> None:
        """Lists the domains of the account, which proves the key; at least one must be there."""
        answer = self._done("DescribeDomains", PageSize=1)
        if not answer.get("TotalCount"):
            what = "Aliyun takes the key, but there is no domain in its account: add the domain to Alibaba Cloud DNS."
            raise ProviderError("dns_zone_not_found", what, permanent=True)

    def _visible_domains(self) -> str:
        answer = self._call("DescribeDomains", PageSize=20)
        if answer.get("Code"):
            return "domains that it may not list"
        with self.as_documented():
            return listed([each["DomainName"] for each in answer["Domains"]["Domain"]], answer["TotalCount"])

    def _find(self, record: TxtRecord) -> list[str]:
        """Ids of the records that are exactly (name, value); the API itself compares by parts of words."""
        rr = _rr(record)
        found = self._pages(DomainName=record.zone, RRKeyWord=rr, TypeKeyWord="TXT")
        with self.as_documented():
            return [each["RecordId"] for each in found if _is(each, rr, record.value)]

    def _delete(self, record_id: str) -> int:
        """1, or 0 when another was faster."""
        answer = self._call("DeleteDomainRecord", RecordId=record_id)
        self._raise_unless_done(answer, but_for=RECORD_ABSENT)
        return 0 if answer.get("Code") else 1

    def _pages(self, **params: Any) -> Iterator[dict[str, Any]]:
        for page in range(1, MOST_PAGES + 1):
            answer = self._done("DescribeDomainRecords", PageNumber=page, PageSize=PAGE, **params)
            with self.as_documented():
                yield from answer["DomainRecords"]["Record"]
                if page * PAGE >= answer["TotalCount"]:
                    return

    def _done(self, action: str, **params: Any) -> dict[str, Any]:
        answer = self._call(action, **params)
        self._raise_unless_done(answer)
        return answer

    def _call(self, action: str, **params: Any) -> dict[str, Any]:
        """The answer as JSON, be it an error that has a `Code`; raises ProviderError for anything else."""
        api = urlsplit(settings.ALIYUN_API_URL)
        query = canonical_query(params)
        headers = self._signed(action, api.netloc.lower(), query)
        response = self.send("POST", f"{api.scheme}://{api.netloc}/?{query}", headers=headers)
        answer = self.json_of(response)
        if not response.ok and not answer.get("Code"):
            raise self.refusal(response)
        return answer

    def _signed(self, action: str, host: str, query: str) -> dict[str, str]:
        headers = {
            "host": host,
            "x-acs-action": action,
            "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
            "x-acs-date": clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "x-acs-signature-nonce": uuid.uuid4().hex,
            "x-acs-version": VERSION,
        }
        key_id, key = str(self.public["access_key_id"]), self.secret["access_key_secret"].reveal()
        return headers | {"Authorization": authorization("POST", query, headers, key_id, key)}

    def _raise_unless_done(self, answer: Mapping[str, Any], but_for: Set[str] = frozenset()) -> None:
        code = answer.get("Code")
        if code is not None and code not in but_for:
            raise self._error(answer)

    def _error(self, answer: Mapping[str, Any]) -> ProviderError:
        code = str(answer.get("Code"))
        said = self.quote(f"{answer.get('Message')} ({code})")
        if code.startswith("Throttling"):
            return ProviderError("dns_rate_limited", f"Aliyun asks us to slow down: {said}.")
        if code.startswith(REFUSED):
            return ProviderError("dns_credential_refused", f"Aliyun refused the key: {said}.", permanent=True)
        if code in NO_SUCH_ZONE:
            return ProviderError("dns_zone_not_found", f"Aliyun: {said}.", permanent=True)
        return ProviderError("dns_refused", f"Aliyun answered: {said}.")

    def words(self, response: requests.Response) -> str:
        try:
            body = response.json()
            return f"{body['Message']} ({body['Code']})"
        except (ValueError, TypeError, KeyError, RecursionError):
            return ""


def canonical_query(params: Mapping[str, Any]) -> str:
    """Sorted, and encoded as RFC 3986 says: a space is %20, a star %2A, a tilde itself."""
    return "&".join(f"{quote(name, safe='~')}={quote(str(value), safe='~')}" for name, value in sorted(params.items()))


def authorization(method: str, query: str, headers: Mapping[str, str], key_id: str, key: str) -> str:
    """The Authorization header of a request to "/" with an empty body whose `headers` are all signed.

    `headers` have names in lower case, among them x-acs-content-sha256.
    """
    names = sorted(headers)
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    request = "\n".join((method, "/", query, lines, ";".join(names), headers["x-acs-content-sha256"]))
    to_sign = f"ACS3-HMAC-SHA256\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.new(key.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    return f"ACS3-HMAC-SHA256 Credential={key_id},SignedHeaders={';'.join(names)},Signature={signature}"


def _spellings(zone: str) -> list[str]:
    """A-labels, then U-labels: what the API calls an internationalised domain differs by how it was added."""
    try:
        return [zone, idna.decode(zone)] if "xn--" in zone else [zone]
    except idna.IDNAError:
        return [zone]


def _rr(record: TxtRecord) -> str:
    """The record's name within its zone; "@" is the zone itself."""
    return a_label(record.name).removesuffix(a_label(record.zone)).removesuffix(".") or "@"


def _is(found: Mapping[str, Any], rr: str, value: str) -> bool:
    return found["Type"] == "TXT" and a_label(found["RR"]) == rr and unquoted(found["Value"]) == value
