"""Alibaba Cloud DNS, API version 2015-01-09.

https://www.alibabacloud.com/help/en/dns/api-alidns-2015-01-09-overview

Requests have a signature of version 3 (ACS3-HMAC-SHA256):
https://www.alibabacloud.com/help/en/sdk/product-overview/v3-request-structure-and-signature
"""

import hashlib
import hmac
import re
import uuid
from collections.abc import Iterator, Mapping, Set
from datetime import UTC
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import idna
import requests
from django.conf import settings

from certctrl import clock, outgoing
from certctrl.sentences import sentence as _
from certctrl.turns import Wait
from dnsclient.names import a_label, suffixes
from dnsproviders.base import (
    CREDENTIAL,
    FOR_GOOD,
    NO_ZONE,
    PASSING,
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
from dnsproviders.ratelimit import LONGEST_PAUSE, ApiLimit, Gate

One = TypeVar("One")

VERSION = "2015-01-09"
# Seconds. This is the lowest TTL of the free plan. Only paid plans accept a lower one.
LEAST_TTL = 600
PAGE = 100  # records
MOST_PAGES = 50
RECORD_EXISTS = {"DomainRecordDuplicate"}
RECORD_ABSENT = {"DomainRecordNotBelongToUser", "InvalidRR.NoExist"}
# The call came too soon. It is not a failure. The same call is made again after a second, or after
# the Retry-After of the answer.
# https://www.alibabacloud.com/en/notice/notice_on_api_throttling_of_alibaba_cloud_dns_444
TOO_SOON = ("Throttling", "LastOperationNotFinished")
A_SECOND = 1.0
# The meaning of an error, by its code, or by the part of the code before the first dot. Other
# errors are not permanent.
# https://help.aliyun.com/zh/dns/api-alidns-2015-01-09-errorcodes and
# https://help.aliyun.com/document_detail/2355841.html
CODES = {
    "InvalidAccessKeyId": CREDENTIAL,
    "InvalidSecurityToken": CREDENTIAL,
    "SignatureDoesNotMatch": CREDENTIAL,
    "IncompleteSignature": CREDENTIAL,
    "Forbidden": CREDENTIAL,  # .RAM, .AccessKeyDisabled, ...
    "NoPermission": CREDENTIAL,
    "InvalidDomainName": NO_ZONE,  # .NoExist, .Format, .Suffix, .Unregistered
    "IncorrectDomainUser": NO_ZONE,
    "DomainAddedByOthers": NO_ZONE,
    "AliyunDomainAddedByOthers": NO_ZONE,
    "Forbidden.DomainType": FOR_GOOD,
    "Forbidden.DomainExpired": FOR_GOOD,
    "Forbidden.DomainLocked": FOR_GOOD,
    "Forbidden.RecordLocked": FOR_GOOD,
    "Forbidden.ProtectedDomain": FOR_GOOD,
    "DomainForbidden": FOR_GOOD,
    "DomainRecordConflict": FOR_GOOD,
    "DomainRecordLocked": FOR_GOOD,
    "RecordForbidden": FOR_GOOD,  # .BlackHole
    "SubDomainInvalid": FOR_GOOD,  # .RR: a label that Alibaba Cloud does not accept
    "QuotaExceeded": FOR_GOOD,  # .Record
    "InvalidRR": FOR_GOOD,
    "InvalidType": FOR_GOOD,
    "InvalidValue": FOR_GOOD,
    "InvalidTTL": FOR_GOOD,
    "InvalidParameter": FOR_GOOD,
    "MissingParameter": FOR_GOOD,
}
HINTS = {
    "InvalidTimeStamp": _("This server's clock is wrong by more than 15 minutes. Set it."),
    "Forbidden.RAM": _(
        "The policy of the RAM user lacks the action, or names another domain. Change the policy."
    ),
    "SubDomainInvalid": _(
        "Alibaba Cloud does not accept this name. Leave it out of the certificate, or "
        "delegate its challenge."
    ),
    "QuotaExceeded": _("Remove old records, or choose a larger plan."),
}


def checked_key(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError(_("must be ASCII without spaces"))
    return value


class Aliyun(Provider):
    name = _("Aliyun")
    # The limit of AddDomainRecord and DeleteDomainRecord. The API may throttle sooner.
    # https://www.alibabacloud.com/help/en/dns/api-alidns-2015-01-09-quota
    limit = ApiLimit(calls=60, seconds=1)
    fields = (
        Field(
            "access_key_id",
            _("AccessKey ID"),
            most=128,
            check=checked_key,
            help=_("Key of a RAM user with rights for DNS only."),
        ),
        Field("access_key_secret", _("AccessKey secret"), secret=True, check=checked_key),
    )

    def zone_of(self, name: str) -> str:
        """Return the name of the longest domain in the account that holds `name`.

        It asks for records, because the credential needs this right anyway. A RAM user may have
        it for one domain only.
        """
        refused = None
        # No domain begins with an underscore.
        possible = [each for each in suffixes(name) if not each.startswith("_")]
        for suffix in (zone for each in possible for zone in _spellings(each)):
            answer = self._call("DescribeDomainRecords", DomainName=suffix, PageSize=1)
            code = answer.get("Code")
            if code is None:
                return suffix
            kind = _kind(code)
            if kind == CREDENTIAL and str(code).startswith("Forbidden"):
                refused = self._error(answer)
            elif kind != NO_ZONE:
                raise self._error(answer)
        if refused:
            raise refused
        what = _(
            "Aliyun shows this key no domain for %(name)s. It shows %(visible_domains)s. "
            "Add the domain, or use another key.",
            name=name,
            visible_domains=self._visible_domains(),
        )
        raise ProviderError("dns_zone_not_found", what, permanent=True)

    def doubt(self, zone: str, name: str, seen: SeenZone) -> str:
        return elsewhere(self.name, zone, name, seen)

    def present(self, record: TxtRecord) -> None:
        """Add the record without a check first, which saves a call.

        The API refuses a second record with the same name and value.
        """
        ttl = max(record.ttl, LEAST_TTL)
        added = {"RR": _rr(record), "Type": "TXT", "Value": record.value, "TTL": ttl}
        with self._gate(record.zone).alone():
            answer = self._call("AddDomainRecord", DomainName=record.zone, **added)
            self._raise_unless_done(answer, but_for=RECORD_EXISTS)
        if not answer.get("Code") and not answer.get("RecordId"):
            raise ProviderError(
                "dns_bad_answer",
                _("Aliyun answered without the id of the new record. Try again later."),
            )

    def cleanup(self, record: TxtRecord) -> int:
        return sum(self._delete(record.zone, record_id) for record_id in self._find(record))

    def check(self) -> None:
        """List the domains of the account, to check the key. The account must have a domain."""
        answer = self._done("DescribeDomains", PageSize=1)
        if not answer.get("TotalCount"):
            what = _(
                "Aliyun accepts the key, but its account has no domain. Add the domain "
                "to Alibaba Cloud DNS."
            )
            raise ProviderError("dns_zone_not_found", what, permanent=True)

    def _visible_domains(self) -> str:
        answer = self._call("DescribeDomains", PageSize=20)
        if answer.get("Code"):
            return _("domains that it may not list")
        with self.as_documented():
            return listed(
                [each["DomainName"] for each in answer["Domains"]["Domain"]], answer["TotalCount"]
            )

    def _find(self, record: TxtRecord) -> list[str]:
        """Return the ids of the records that have exactly this name and value.

        The API also finds names that only contain the key word.
        """
        rr = _rr(record)
        found = self._pages(DomainName=record.zone, RRKeyWord=rr, TypeKeyWord="TXT")
        with self.as_documented():
            return [each["RecordId"] for each in found if _is(each, rr, record.value)]

    def _delete(self, zone: str, record_id: str) -> int:
        """Delete the record. Return 1, or 0 when it was already deleted."""
        with self._gate(zone).alone():
            answer = self._call("DeleteDomainRecord", RecordId=record_id)
            self._raise_unless_done(answer, but_for=RECORD_ABSENT)
        return 0 if answer.get("Code") else 1

    def _gate(self, zone: str) -> Gate:
        """Return the gate of a zone, because the API takes one change of a zone at a time.

        It refuses others with LastOperationNotFinished.
        """
        key = f"aliyun zone {hashlib.sha256(zone.encode()).hexdigest()[:32]}"
        return Gate(
            key,
            _(
                "Aliyun makes one change of %(zone)s at a time, and another one is in progress.",
                zone=zone,
            ),
        )

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
        """Return the JSON answer, which has a `Code` when it is an error.

        Raise Wait when the call came too soon and changed nothing. Raise ProviderError for an
        answer of another shape.
        """
        api = urlsplit(settings.ALIYUN_API_URL)
        query = canonical_query(params)
        headers = self._signed(action, api.netloc.lower(), query)
        url = f"{api.scheme}://{api.netloc}/?{query}"
        response = self.send("POST", url, action=action, headers=headers)
        answer = self.json_of(response)
        code = str(answer.get("Code") or "")
        if code.startswith(TOO_SOON) or (not response.ok and not code):
            raise self.refusal(response)
        return answer

    def refusal(self, response: requests.Response) -> ProviderError:
        """Return the error of an answer. Raise Wait when the call came too soon."""
        words = self.words(response)
        if any(f"({code}" in words for code in TOO_SOON):
            asked = outgoing.wait_of(response) or 0.0
            seconds = min(max(asked, A_SECOND), LONGEST_PAUSE)
            # Throttling is about the user, and not about the zone.
            if "(Throttling" in words:
                self.pace.pause(seconds)
            raise Wait(
                seconds,
                _("Aliyun limits the rate of requests%(said)s.", said=self.said(response)),
                imposed=True,
            )
        return super().refusal(response)

    def _signed(self, action: str, host: str, query: str) -> dict[str, str]:
        headers = {
            "host": host,
            "x-acs-action": action,
            "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
            "x-acs-date": clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "x-acs-signature-nonce": uuid.uuid4().hex,
            "x-acs-version": VERSION,
        }
        key_id = str(self.public["access_key_id"])
        key = self.secret["access_key_secret"].reveal()
        return headers | {"Authorization": authorization("POST", query, headers, key_id, key)}

    def _raise_unless_done(
        self, answer: Mapping[str, Any], but_for: Set[str] = frozenset()
    ) -> None:
        code = answer.get("Code")
        if code is not None and code not in but_for:
            raise self._error(answer)

    def _error(self, answer: Mapping[str, Any]) -> ProviderError:
        code = str(answer.get("Code"))
        said = self.quote(f"{answer.get('Message')} ({code})")
        kind = _kind(code)
        hint = _by_code(HINTS, code)
        if kind == CREDENTIAL:
            what: str = _("Aliyun refused the key: %(said)s.", said=said)
        else:
            what = _("Aliyun answered: %(said)s.", said=said)
        if hint:
            what = _("%(what)s %(hint)s", what=what, hint=hint)
        return ProviderError(kind.code, what, permanent=kind.permanent)

    def words(self, response: requests.Response) -> str:
        try:
            body = response.json()
            return f"{body['Message']} ({body['Code']})"
        except (ValueError, TypeError, KeyError, RecursionError):
            return ""


def _kind(code: Any) -> ErrorKind:
    return _by_code(CODES, str(code)) or PASSING


def _by_code(table: Mapping[str, One], code: str) -> One | None:
    return table.get(code) or table.get(code.partition(".")[0])


def canonical_query(params: Mapping[str, Any]) -> str:
    """Return the sorted query, encoded by RFC 3986.

    A space becomes %20 and a star becomes %2A. A tilde stays.
    """
    return "&".join(
        f"{quote(name, safe='~')}={quote(str(value), safe='~')}"
        for name, value in sorted(params.items())
    )


def authorization(
    method: str, query: str, headers: Mapping[str, str], key_id: str, key: str
) -> str:
    """Return the Authorization header of a request to "/" with an empty body.

    All `headers` are signed. Their names are in lower case. x-acs-content-sha256 is among them.
    """
    names = sorted(headers)
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    request = "\n".join(
        (method, "/", query, lines, ";".join(names), headers["x-acs-content-sha256"])
    )
    to_sign = f"ACS3-HMAC-SHA256\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.new(key.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    return (
        f"ACS3-HMAC-SHA256 Credential={key_id},SignedHeaders={';'.join(names)}"
        f",Signature={signature}"
    )


def _spellings(zone: str) -> list[str]:
    """Return the zone with A-labels, then with U-labels.

    The API's name of an internationalized domain depends on how the domain was added.
    """
    try:
        return [zone, idna.decode(zone)] if "xn--" in zone else [zone]
    except idna.IDNAError:
        return [zone]


def _rr(record: TxtRecord) -> str:
    """Return the record's name relative to its zone. "@" is the zone itself."""
    return a_label(record.name).removesuffix(a_label(record.zone)).removesuffix(".") or "@"


def _is(found: Mapping[str, Any], rr: str, value: str) -> bool:
    return (
        found["Type"] == "TXT" and a_label(found["RR"]) == rr and unquoted(found["Value"]) == value
    )
