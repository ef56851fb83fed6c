"""A small Alidns for the `responses` library: it keeps records and checks every signature."""

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import requests
import responses

API = "https://alidns.aliyuncs.com"
KEY_ID = "LTAI5tExample"
KEY = "secret-of-the-key-never-shown"
ZONE = "example.com"


class FakeAlidns:
    def __init__(self) -> None:
        self.zones = ["example.com", "deep.example.com"]
        self.records: list[dict[str, Any]] = []
        self.forbidden: set[str] = set()
        self.hidden_from_listing = False
        self.nonces: list[str] = []
        self.asked: list[str] = []  # the actions, refused ones too
        self.refuses: Callable[[str], str] = lambda action: (
            ""
        )  # the code with which it refuses the next call
        responses.add_callback(responses.POST, re.compile(re.escape(API)), self.answer)

    def answer(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        assert request.headers["Authorization"] == expected_authorization(request)
        self.nonces.append(request.headers["x-acs-signature-nonce"])
        action = request.headers["x-acs-action"]
        params = dict(parse_qsl(urlsplit(str(request.url)).query))
        self.asked.append(action)
        if code := self.refuses(action):
            return error(400, code, "Refused.")
        if action in self.forbidden:
            return error(
                403, "Forbidden.RAM", "User not authorized to operate on the specified resource."
            )
        handler = getattr(self, action)
        found: tuple[int, dict[str, str], str] = handler(params)
        return found

    def DescribeDomains(self, params: dict[str, str]) -> tuple[int, dict[str, str], str]:
        return success(
            TotalCount=len(self.zones),
            Domains={"Domain": [{"DomainName": zone} for zone in self.zones]},
        )

    def DescribeDomainRecords(self, params: dict[str, str]) -> tuple[int, dict[str, str], str]:
        zone = params["DomainName"]
        if "_" in zone:
            return error(400, "InvalidDomainName.Format", "Invalid domain name.")
        if zone not in self.zones:
            return error(
                404, "InvalidDomainName.NoExist", "The specified domain name does not exist."
            )
        found = [each for each in self.records if params.get("RRKeyWord", "") in each["RR"]]
        found = [] if self.hidden_from_listing else found
        page = int(params.get("PageNumber", 1))
        size = int(params["PageSize"])
        return success(
            TotalCount=len(found),
            DomainRecords={"Record": found[(page - 1) * size : page * size]},
            PageSize=size,
        )

    def AddDomainRecord(self, params: dict[str, str]) -> tuple[int, dict[str, str], str]:
        if any(
            (each["RR"], each["Value"]) == (params["RR"], params["Value"]) for each in self.records
        ):
            return error(400, "DomainRecordDuplicate", "The DNS record already exists.")
        self.records.append(params | {"RecordId": f"id{len(self.records)}"})
        return success(RecordId=self.records[-1]["RecordId"])

    def DeleteDomainRecord(self, params: dict[str, str]) -> tuple[int, dict[str, str], str]:
        kept = [each for each in self.records if each["RecordId"] != params["RecordId"]]
        if len(kept) == len(self.records):
            return error(400, "DomainRecordNotBelongToUser", "The DNS record does not exist.")
        self.records = kept
        return success()

    def values(self) -> list[str]:
        return [each["Value"] for each in self.records]


def success(**members: Any) -> tuple[int, dict[str, str], str]:
    return 200, {}, json.dumps({"RequestId": "r", **members})


def error(status: int, code: str, message: str) -> tuple[int, dict[str, str], str]:
    return (
        status,
        {},
        json.dumps({"RequestId": "r", "HostId": "h", "Code": code, "Message": message}),
    )


def expected_authorization(request: requests.PreparedRequest) -> str:
    """Compute the signature by the vendor's page, without code of the provider."""
    url = urlsplit(str(request.url))
    assert request.headers["host"] == url.netloc
    pairs = sorted(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
    query = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs
    )
    lower = {name.lower(): value for name, value in request.headers.items()}
    signed = sorted(name for name in lower if name == "host" or name.startswith("x-acs-"))
    assert lower["x-acs-content-sha256"] == hashlib.sha256(request.body or b"").hexdigest()
    canonical = "POST\n/\n" + query + "\n"
    canonical += "".join(name + ":" + lower[name] + "\n" for name in signed)
    canonical += "\n" + ";".join(signed) + "\n" + lower["x-acs-content-sha256"]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signature = hmac.new(KEY.encode(), f"ACS3-HMAC-SHA256\n{digest}".encode(), "sha256").hexdigest()
    headers = ";".join(signed)
    return f"ACS3-HMAC-SHA256 Credential={KEY_ID},SignedHeaders={headers},Signature={signature}"
