"""A small Cloudflare for the `responses` library: it keeps records."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
import responses

API = "https://api.cloudflare.com/client/v4"
TOKEN = "tok-0123456789-never-shown"
ZONE = "023e105f4ecef8ad9ca31a8372d0c353"


class FakeCloudflare:
    """Zones by id, and records; `zone_reading` is the permission Zone / Zone / Read."""

    def __init__(self) -> None:
        self.zones = {ZONE: "example.com", "sub": "deep.example.com", "idn": "bücher.example"}
        self.records: list[dict[str, Any]] = []
        self.types: dict[str, str] = {}  # of zones that are not full ones
        self.statuses: dict[str, str] = {}  # of zones that are not active
        self.page_size = 100
        self.zone_reading = True
        self.hidden_from_listing = False
        for method in (responses.GET, responses.POST, responses.DELETE):
            responses.add_callback(method, re.compile(re.escape(API)), self.answer)

    def answer(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        url = urlsplit(str(request.url))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        path = url.path.removeprefix("/client/v4/").split("/")
        if path[:2] == ["zones", path[-1]] or path == ["zones"]:
            return self.zone(path, query)
        if request.method == "POST":
            return self.create(json.loads(request.body or "null"))
        if request.method == "DELETE":
            return self.delete(path[-1])
        return self.listing(query)

    def zone(self, path: list[str], query: dict[str, str]) -> tuple[int, dict[str, str], str]:
        if not self.zone_reading:
            return error(403, 9109, "Unauthorized to access requested resource")
        if len(path) == 2:
            if path[1] not in self.zones:
                return error(
                    404,
                    7003,
                    "Could not route to /zones, perhaps your object identifier is invalid?",
                )
            return success(self.shown(path[1]))
        wanted = query.get("name")
        alabels = {"xn--bcher-kva.example": "bücher.example"}
        zones = [
            self.shown(key)
            for key, name in self.zones.items()
            if wanted is None or name == alabels.get(wanted, wanted)
        ]
        return success(zones, total_count=len(zones))

    def shown(self, key: str) -> dict[str, Any]:
        kind = {
            "type": self.types.get(key, "full"),
            "status": self.statuses.get(key, "active"),
            "paused": False,
        }
        return {"id": key, "name": self.zones[key]} | kind

    def create(self, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        same = [
            each
            for each in self.records
            if (each["name"], each["content"]) == (body["name"], body["content"])
        ]
        if same:
            return error(400, 81058, "An identical record already exists.")
        self.records.append(body | {"id": f"id{len(self.records)}"})
        return success(self.records[-1])

    def delete(self, record_id: str) -> tuple[int, dict[str, str], str]:
        kept = [each for each in self.records if each["id"] != record_id]
        if len(kept) == len(self.records):
            return error(404, 81044, "Record does not exist.")
        self.records = kept
        return success({"id": record_id})

    def listing(self, query: dict[str, str]) -> tuple[int, dict[str, str], str]:
        found = [each for each in self.records if each["name"] == query.get("name", each["name"])]
        found = [] if self.hidden_from_listing else found
        page = int(query.get("page", 1))
        size = self.page_size
        pages = max(1, -(-len(found) // size))
        return success(found[(page - 1) * size : page * size], total_pages=pages)

    def contents(self) -> list[str]:
        return [each["content"] for each in self.records]


def success(result: Any, **info: int) -> tuple[int, dict[str, str], str]:
    return (
        200,
        {},
        json.dumps({"success": True, "errors": [], "result": result, "result_info": info}),
    )


def error(status: int, code: int, message: str) -> tuple[int, dict[str, str], str]:
    return (
        status,
        {},
        json.dumps(
            {"success": False, "errors": [{"code": code, "message": message}], "result": None}
        ),
    )
