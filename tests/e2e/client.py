"""A client from the text of the HTTP contract: the standard library, no code of the server.

    python client.py URL EMAIL PASSWORD

It calls what clients in the field call, in each spelling, and compares each response with the text.
It writes one line for each part. It ends with an error at the first difference.
"""

import base64
import http.client
import io
import json
import os
import sys
import uuid
import zipfile
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

SUCCESS = (200, 201, 202, 204)
NAME = "printer.office.example.com"


class Answer:
    """A response. `data` is what a strict client reads from it."""

    def __init__(self, sent: str, status: int, headers: Any, content: bytes) -> None:
        self.sent = sent
        self.status = status
        self.headers = headers
        self.content = content

    @property
    def body(self) -> Any:
        assert self.headers["Content-Type"].startswith("application/json"), self
        return json.loads(self.content)

    @property
    def data(self) -> Any:
        assert self.status in SUCCESS, self
        if self.status == 204:
            assert not self.content, self
            return None
        assert set(self.body) == {"data"}, self
        return self.body["data"]

    def refuses(self, status: int, *codes: int) -> dict[str, Any]:
        """Return the error. Without `codes`, any number is right."""
        assert self.status == status, self
        error: dict[str, Any] = self.body["error"]
        assert type(error["code"]) is int, self
        assert error["code"] in (codes or (error["code"],)), self
        assert isinstance(error["what"], str), self
        assert error["what"], self
        assert isinstance(error.get("key", ""), str), self
        assert isinstance(error.get("params", {}), dict), self
        return error

    def __str__(self) -> str:
        return f"{self.sent}: {self.status} {self.content[:600]!r}"


class Client:
    """Sends JSON with at most one credential: a cookie, an API key or an access token."""

    def __init__(self, url: str, **headers: str) -> None:
        self.url = url
        self.headers = headers

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        content = None if body is None else json.dumps(body)
        sent = {"Content-Type": "application/json"} if content else {}
        connection.request(method, path, content, sent | self.headers | headers)
        answer = connection.getresponse()
        read = Answer(f"{method} {path} {content}", answer.status, answer.headers, answer.read())
        connection.close()
        return read

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.call("POST", path, body)

    def put(self, path: str, body: Any) -> Answer:
        return self.call("PUT", path, body)

    def delete(self, path: str) -> Answer:
        return self.call("DELETE", path)


def fits(row: Any, shape: dict[str, Any]) -> Any:
    """Compare the types of the members with the shape. Return the row."""
    for name, kind in shape.items():
        assert name in row, (name, row)
        assert type(row[name]) in (kind if isinstance(kind, tuple) else (kind,)), (name, row)
    return row


NULL = type(None)
USER = {"id": int, "email": str, "roles": list}
PROFILE = USER | {"name": str, "country_of_residence": str}
KEY = {"id": int, "name": str, "permissions": list, "expires_at": int}
ACCOUNT = {
    "id": int,
    "user_id": int,
    "name": str,
    "email": str,
    "provider": str,
    "kid": (str, NULL),
    "ca_id": (int, NULL),
}
CREDENTIAL = {"id": int, "provider": str, "name": str, "zone_id": str, "created_at": int}
CERTIFICATE = {
    "id": int,
    "acct_id": int,
    "acme_account_id": int,
    "domain_name": str,
    "domain": str,
    "sans": list,
    "self_signed": bool,
    "verified": bool,
    "public_id": str,
    "serial_number": str,
    "organization": str,
    "organizational_unit": str,
    "country": str,
    "state": str,
    "locality": str,
    "key_dist_policy": str,
    "server_decrypt_export": bool,
    "status": str,
    "not_before": int,
    "not_after": int,
    "auto_renew": bool,
    "renew_days_before": (int, NULL),
    "key_type": str,
    "key_size": int,
    "created_at": int,
    "updated_at": int,
}
MOST = {"cert": str, "csr": str, "dhparam": str, "der": str, "orders": list}
HISTORY = {
    "id": int,
    "cert_record_id": int,
    "issue_attempt_number": int,
    "status": str,
    "acme_order_id": str,
    "error_message": str,
    "started_at": int,
    "completed_at": int,
}
RESULT = {"issue_history_id": int, "status": str, "error_message": str, "certificate_id": int}
CA = {
    "id": int,
    "user_id": int,
    "name": str,
    "algorithm": str,
    "key_size": int,
    "curve_name": str,
    "country": str,
    "organization": str,
    "common_name": str,
    "valid_days": int,
    "key_usage": str,
    "serial_number": str,
    "ca_certificate_pem": str,
    "status": str,
    "not_before": int,
    "not_after": int,
    "issued_cert_count": int,
    "last_used_at": int,
    "enc_scheme": int,
    "created_at": int,
    "updated_at": int,
}
DEVICE = {
    "id": int,
    "user_id": int,
    "device_public_id": str,
    "name": str,
    "platform": str,
    "model": str,
    "app_version": str,
    "status": str,
    "created_at": int,
    "last_seen_at": int,
}
SESSION = {"access_token": str, "refresh_token": str, "token_type": str, "expires_in": int}
PLAN = {
    "id": int,
    "user_device_id": int,
    "version": int,
    "installs": list,
    "installs_hash": str,
    "after_update_script": (str, NULL),
}
A_SECOND, A_MILLISECOND = 10**9, 10**12  # the least of each kind of time stamp


class Field:
    """The parts of the contract, in the order of its sections."""

    def __init__(self, url: str, email: str, password: str) -> None:
        self.url = url
        self.login = {"email": email, "password": password}
        self.stranger = Client(url)
        self.owner = self.stranger
        self.user_id = 0

    def mine(self, path: str) -> str:
        return f"/apiv1/users/{self.user_id}/{path}"

    def sessions(self) -> None:
        """Section 5."""
        for path, action in (("/auth/general", {"action": "login"}), ("/auth", {}), ("/auth", {})):
            answer = self.stranger.post(path, action | self.login)
            assert set(answer.data) == {"user", "to"}, answer
            assert answer.data["to"] == "/", answer
            self.user_id = fits(answer.data["user"], USER)["id"]
            cookie = answer.headers["Set-Cookie"]  # the first one
            assert cookie.startswith("cjj365="), cookie
            assert "path=/" in cookie.lower(), cookie
            assert "httponly" in cookie.lower(), cookie
            self.owner = Client(self.url, Cookie=cookie.partition(";")[0])
        for wrong, status in (
            ({"password": "Wrong-password-1"}, 401),
            ({"email": "nobody@example.net"}, 401),
            ({"email": "no address"}, 400),
            ({"action": "dance"}, 400),
        ):
            self.stranger.post("/auth/general", self.login | wrong).refuses(status, 5000, 5018)
        assert self.stranger.get("/auth/general?name=some.name").data == {"available": True}
        self.stranger.get("/auth/general?name=a%20b").refuses(400, 5000)
        seen = self.owner.get("/auth/status").data
        fits(seen, {"to": str, "amr": list, "acr": str, "auth_time": int, "mfa": bool})
        fits(seen["user"], PROFILE)
        assert (seen["amr"], seen["acr"]) == (["pwd"], "aal1"), seen
        self.stranger.get("/auth/status").refuses(200, 999999)
        fits(self.owner.get("/auth/profile").data, PROFILE)
        self.stranger.get("/auth/profile").refuses(401)
        second = self.stranger.post("/auth", self.login).headers["Set-Cookie"].partition(";")[0]
        leaving = Client(self.url, Cookie=second)
        fits(leaving.get("/auth/profile").data, PROFILE)
        assert leaving.post("/auth/logout").status == 204
        leaving.get("/auth/profile").refuses(401)

    def conventions(self) -> None:
        """Sections 1, 2 and 4."""
        assert self.stranger.get("/health").status == 200
        self.owner.get("/apiv1/me/nothing").refuses(404, 5003)
        self.owner.get(self.mine("certificates/987654")).refuses(404, 5003)
        self.owner.delete(self.mine("certificates")).refuses(405, 5000)
        self.owner.get(f"/apiv1/users/{self.user_id + 1}/certificates").refuses(403, 5022)
        self.stranger.get(self.mine("certificates")).refuses(401, 5018, 5104)
        Client(self.url, Authorization="Bearer ak_x").get("/apiv1/me/devices").refuses(401, 5018)
        self.stranger.get("/apiv1/devices/self/updates").refuses(401, 5018, 5104)
        forged = ".".join(part(each) for each in ({"alg": "none"}, {"sub": "1", "device_id": 1}))
        unsigned = Client(self.url, Authorization=f"Bearer {forged}.")
        unsigned.get("/apiv1/devices/self/updates").refuses(401, 5018)
        lists = ("certificates", "acme-accounts", "dns-providers", "apikeys", "cas", "devices")
        for name in lists:
            assert self.owner.get(self.mine(name)).data == []
            assert self.owner.get(f"/apiv1/me/{name}?offset=0&limit=100").data == []
        allowed = "http://other.example"
        other = self.owner.call("GET", "/apiv1/me/devices", Origin=allowed)
        assert "Origin" in other.headers["Vary"], other
        for scope in self.stranger.get("/apiv1/permissions/catalog").data:
            fits(scope, {"obtype": str, "actions": list, "description": str})
        providers = self.stranger.get("/apiv1/dns/providers/catalog").data
        for provider in providers:
            fits(provider, {"id": str, "name": str, "fields": list})
            for field in provider["fields"]:
                fits(field, {"name": str, "required": bool, "secret": bool})
        assert "cloudflare" in [each["id"] for each in providers]

    def keys(self) -> None:
        """Section 6."""
        grant = {"obtype": "certificates", "obid": "*", "actions": ["read"]}
        wanted = {"name": "ci", "expires_in_seconds": 86400, "permissions": [grant]}
        made = fits(self.owner.post(self.mine("apikeys"), wanted).data, KEY)
        assert made["expires_in_seconds"] == 86400, made
        assert made["token"].startswith("ak_"), made
        assert made["expires_at"] > A_SECOND, made
        for shown in (
            self.owner.get(self.mine("apikeys")).data[0],
            self.owner.get(f"/apiv1/me/apikeys/{made['id']}").data,
        ):
            assert made["token"] not in json.dumps(shown), shown
        script = Client(self.url, Authorization=f"Bearer {made['token']}")
        assert script.get("/apiv1/me/certificates").data == []
        assert script.get(self.mine("certificates")).data == []
        script.get("/apiv1/me/devices").refuses(403, 5022)
        script.post("/apiv1/me/certificates", {"domain_name": NAME}).refuses(403, 5022)
        for wrong in (
            {"expires_in_seconds": 0},
            {"permissions": [grant | {"obtype": "nothing"}]},
            {"permissions": [grant | {"actions": ["dance"]}]},
        ):
            self.owner.post(self.mine("apikeys"), wanted | wrong).refuses(400, 5000)
        assert self.owner.delete(self.mine(f"apikeys/{made['id']}")).status == 204
        script.get("/apiv1/me/certificates").refuses(401, 5018)

    def key_for(self, obtype: str, obid: str, *actions: str) -> Client:
        grant = {"obtype": obtype, "obid": obid, "actions": list(actions)}
        wanted = {"name": obtype, "expires_in_seconds": 3600, "permissions": [grant]}
        token = self.owner.post(self.mine("apikeys"), wanted).data["token"]
        return Client(self.url, Authorization=f"Bearer {token}")

    def authorities(self) -> None:
        """Sections 7, 8 and 10."""
        wanted = {
            "name": "Office",
            "algorithm": "ECDSA",
            "key_size": 256,
            "curve_name": "prime256v1",
            "country": "SE",
            "organization": "Example",
            "organizational_unit": "",
            "common_name": "Example Root",
            "state": "",
            "locality": "",
            "valid_days": 3650,
            "key_usage": "keyCertSign,cRLSign",
        }
        made = self.owner.post(self.mine("cas"), wanted)
        ca = fits(made.data, CA)
        assert {name: ca[name] for name in wanted} == wanted, made
        assert (ca["status"], ca["enc_scheme"]) == ("ACTIVE", 1), made
        assert ca["created_at"] > A_MILLISECOND, made
        assert "PRIVATE" not in str(made.content), made
        self.ca = int(ca["id"])
        fits(self.owner.get(f"/apiv1/me/cas/{self.ca}").data, CA)
        for provider in ("SELF_CA", "self_ca", "letsencrypt"):
            body = {"provider": provider, "ca_id": self.ca, "name": "own", "email": "a@example.org"}
            account = fits(self.owner.post(self.mine("acme-accounts"), body).data, ACCOUNT)
            assert account["ca_id"] == self.ca, account
            self.account = int(account["id"])
        seed = {"ca_provider": "SELF_CA", "ca_id": self.ca, "terms_accepted": True}
        other = self.owner.post("/apiv1/me/acme-accounts", seed).data["id"]
        self.owner.post(self.mine("acme-accounts"), seed | {"ca_id": 987654}).refuses(404, 5003)
        path = self.mine(f"acme-accounts/{other}")
        self.owner.post(self.mine("acme-accounts"), seed | {"terms_accepted": False}).refuses(400)
        assert self.owner.put(path, {"name": "renamed"}).data["name"] == "renamed"
        shown = self.owner.get(path).data
        assert self.owner.put(path, shown).data["name"] == "renamed", "a client sends back all"
        listed = self.owner.get(self.mine("acme-accounts")).data
        assert [each["id"] for each in listed][:2] == [other, self.account], "newest first"
        two = self.owner.get("/apiv1/me/acme-accounts?offset=1&limit=2").data
        assert two == listed[1:3], "offset and limit"
        assert self.owner.delete(path).status in (200, 204)
        self.owner.get(path).refuses(404, 5003)
        secret = "cf-secret-of-the-client-0123456789"
        body = {"provider": "cloudflare", "api_token": secret, "zone_id": "0" * 32}
        zone = self.owner.post(self.mine("dns-providers"), body)
        fits(zone.data, CREDENTIAL)
        shown = self.owner.get(f"/apiv1/me/dns-providers/{zone.data['id']}")
        fits(shown.data, CREDENTIAL)
        assert secret not in str(zone.content) + str(shown.content)
        body = {"provider": "ali", "access_key_id": "LTAI0123", "access_key_secret": secret}
        fits(self.owner.post("/apiv1/me/dns-providers", body).data, CREDENTIAL)
        self.owner.post("/apiv1/me/dns-providers", {"provider": "nobody"}).refuses(400, 5000)

    def certificates(self) -> None:
        """Section 9."""
        body = {"action": "create", "domain_name": NAME, "sans": [], "acct_id": self.account}
        record = fits(self.owner.post(self.mine("certificates"), body).data, CERTIFICATE)
        assert (record["status"], record["serial_number"]) == ("pending", ""), record
        assert record["key_dist_policy"] == "HYBRID", record
        assert (record["server_decrypt_export"], record["self_signed"]) == (False, True), record
        assert A_SECOND < record["created_at"] < A_MILLISECOND, record
        self.certificate = int(record["id"])
        path = self.mine(f"certificates/{self.certificate}")
        self.owner.get(f"{path}/export").refuses(403)
        opened = {"server_decrypt_export": True, "country": "se"}
        assert self.owner.put(path, opened).data["country"] == "SE"
        assert self.owner.get(f"{path}/export").refuses(409)["key"] == "CERTS::NOT_ISSUED"
        self.owner.put(path, {"country": "SWE"}).refuses(400, 5000)
        strict = {"key_dist_policy": "DEVICE_REQUIRED", "server_decrypt_export": True}
        self.owner.put(path, strict).refuses(400, 5000)
        self.owner.put(path, {"action": "verify_domain"}).refuses(400)
        self.issue(path)
        full = fits(self.owner.get(f"{path}?detail=most").data, CERTIFICATE | MOST)
        assert full["cert"].startswith("-----BEGIN CERTIFICATE-----"), full
        assert b"PRIVATE" not in base64.b64decode(full["der"]), full
        assert self.owner.put(path, full).data["serial_number"] == full["serial_number"]
        self.export(path)
        listed = self.owner.get(self.mine(f"acme-accounts/{self.account}/certificates")).data
        assert [each["id"] for each in listed] == [self.certificate], listed
        assert "cert" not in fits(listed[0], CERTIFICATE), listed
        self.owner.delete(self.mine(f"acme-accounts/{self.account}")).refuses(409)
        seed = {"domain": "seed.example.com", "sans": ["www.seed.example.com"]}
        seed |= {"acme_account_id": self.account, "key_type": "rsa", "key_size": 2048}
        sown = self.owner.post("/apiv1/me/certificates", seed).data
        assert (sown["domain"], sown["sans"]) == (seed["domain"], seed["sans"]), sown
        assert type(sown["issue_history_id"]) is int, sown
        assert self.owner.delete(f"/apiv1/me/certificates/{sown['id']}").status in (200, 204)
        self.owner.get(f"/apiv1/me/certificates/{sown['id']}").refuses(404, 5003)
        for wrong, status in (
            ({"domain_name": "no name"}, 400),
            ({"country": "SWE"}, 400),
            ({"acct_id": 987654}, 404),
            (strict, 400),
        ):
            self.owner.post(self.mine("certificates"), body | wrong).refuses(status)
        order = {"domain_name": "direct.example.com", "sans": [], "validity_seconds": 86400}
        direct = self.owner.post(self.mine(f"cas/{self.ca}/issue"), order)
        assert direct.status == 200, direct
        fits(direct.data, CERTIFICATE)
        span = direct.data["not_after"] - direct.data["not_before"]
        assert 86400 <= span < 2 * 86400, direct

    def issue(self, path: str) -> None:
        started = self.owner.post(f"{path}/issues", {"validity_seconds": 864000})
        assert started.status == 200, started
        fits(started.data, CERTIFICATE | {"issue_history_id": int})
        assert started.data["status"] == "SUCCESS", started
        first = started.data["issue_history_id"]
        again = self.owner.post(f"{path}/renew").data
        assert again["issue_history_id"] > first, again
        assert again["serial_number"] != started.data["serial_number"], again
        for name in ("issues", "issues/history", "histories"):
            rows = self.owner.get(f"{path}/{name}").data
            assert [row["id"] for row in rows] == [again["issue_history_id"], first], rows
            for row in rows:
                fits(row, HISTORY)
                assert row["cert_record_id"] == self.certificate, row
                assert row["completed_at"] > A_MILLISECOND, row
        result = fits(self.owner.get(f"{path}/issue-result").data, RESULT)
        assert result["issue_history_id"] == again["issue_history_id"], result
        one = self.owner.get(f"{path}/issue-result?issue_history_id={first}").data
        assert (one["issue_history_id"], one["status"]) == (first, "SUCCESS"), one
        self.owner.get(f"{path}/issue-result?issue_history_id=987654").refuses(404, 5003)

    def export(self, path: str) -> None:
        for query in ("", "?format=zip"):
            answer = self.owner.get(f"{path}/export{query}")
            assert answer.headers["Content-Type"] == "application/zip", answer
            name = f'attachment; filename="cert-{self.certificate}.zip"'
            assert answer.headers["Content-Disposition"] == name, answer
            assert len(answer.headers["X-Export-Password"]) >= 32, answer
            files = zipfile.ZipFile(io.BytesIO(answer.content))
            names = {"private.key", "certificate.pem", "fullchain.pem", "certificate.der"}
            assert names | {"bundle.pfx", "meta.json"} <= set(files.namelist()), files.namelist()
            assert json.loads(files.read("meta.json"))["cert_id"] == self.certificate
            assert files.read("private.key").startswith(b"-----BEGIN ")
            assert answer.headers["X-Export-Password"].encode() not in answer.content

    def devices(self) -> None:
        """Section 11."""
        enrols = self.key_for("ForDeviceAuthenticate", "*", "authenticate")
        public_id = str(uuid.uuid4())
        body = {
            "device_public_id": public_id,
            "dev_pk": base64.b64encode(os.urandom(32)).decode(),
            "platform": "linux",
            "model": "x86_64",
            "app_version": "1.0.0",
            "name": "a script",
            "ip": "unknown",
            "user_agent": "script/1",
        }
        enrols.post(self.mine("devices"), body | {"dev_pk": "AAAA"}).refuses(400, 5000, 8001)
        made = enrols.post(self.mine("devices"), body)
        assert made.status in (200, 201), made
        device = fits(made.data["device"], DEVICE)
        assert (device["device_public_id"], device["status"]) == (public_id, "ACTIVE"), made
        assert device["created_at"] > A_MILLISECOND, made
        assert fits(made.data["session"], SESSION)["token_type"] == "Bearer", made
        claims = made.data["session"]["access_token"].split(".")[1]
        read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        fits(read, {"iss": str, "sub": str, "device_id": int, "iat": int, "exp": int})
        assert (read["sub"], read["device_id"]) == (str(self.user_id), device["id"]), read
        assert enrols.post("/apiv1/me/devices", body).data["device"]["id"] == device["id"]
        found = self.owner.get(f"/apiv1/me/devices/by-public-id/{public_id}").data
        assert fits(found, DEVICE)["id"] == device["id"], found
        self.owner.get(f"/apiv1/me/devices/by-public-id/{uuid.uuid4()}").refuses(404, 5003)
        path = self.mine(f"devices/{device['id']}")
        assert self.owner.get(path).data == found
        self.assign(path, public_id)
        self.plan(path, public_id)
        assert self.owner.delete(path).status == 204
        revoked = Client(self.url, Authorization="Bearer " + made.data["session"]["access_token"])
        revoked.get("/apiv1/devices/self/install-config").refuses(403, 5022)

    def assign(self, path: str, public_id: str) -> None:
        one = f"{path}/certificates/{self.certificate}"
        given = {"cert_id": self.certificate}
        assert self.owner.post(f"{path}/certificates", given).status in (200, 201, 204)
        assert [each["id"] for each in self.owner.get(f"{path}/certificates").data] == [
            self.certificate
        ]
        fits(self.owner.get(one).data, {"id": int, "cert": str})
        fits(self.owner.get(f"{one}/bundle").data, {"enc_scheme": str, "enc_data_key_b64": str})
        loaded = self.owner.get(f"{one}/bundle?pack=download")
        assert loaded.headers["Content-Disposition"].startswith("attachment"), loaded
        assert self.owner.delete(one).status == 204
        self.owner.get(one).refuses(404, 5003)
        certificate = self.mine(f"certificates/{self.certificate}")
        device_id = int(path.rpartition("/")[2])
        assert self.owner.post(f"{certificate}/assign", {"device_id": device_id}).status == 204
        shown = self.owner.get(f"{certificate}/devices").data
        assert [fits(each, DEVICE)["id"] for each in shown] == [device_id], shown
        assert self.owner.delete(one).status == 204
        script = self.key_for("certificates", str(self.certificate), "read", "write")
        wanted = {"device_public_id": public_id}
        done = script.post("/apiv1/me/certificate-assign", wanted)
        assert done.status in (200, 204), done
        script.post(
            "/apiv1/me/certificate-assign", {"device_public_id": str(uuid.uuid4())}
        ).refuses(404, 5003)
        every = self.key_for("certificates", "*", "read", "write")
        refused = every.post("/apiv1/me/certificate-assign", wanted)
        assert refused.status in (400, 403), refused
        assert self.owner.post(f"{path}/cas", {"ca_id": self.ca}).status == 204
        assert [each["id"] for each in self.owner.get(f"{path}/cas").data] == [self.ca]
        fits(self.owner.get(f"{path}/cas/{self.ca}/bundle").data, {"ca_certificate_pem": str})
        assert self.owner.delete(f"{path}/cas/{self.ca}").status == 204

    def plan(self, path: str, public_id: str) -> None:
        where = f"{path}/install-config"
        empty = fits(self.owner.get(where).data, PLAN)
        assert (empty["version"], empty["installs"]) == (0, []), empty
        copied = {"id": 1, "type": "copy", "ob_type": "ca", "ob_id": self.ca}
        copied |= {"from": ["ca.pem"], "to": ["/etc/ssl/office.pem"]}
        loaded = {"id": 2, "type": "exec", "cmd": "true", "depends_on": [1]}
        loaded |= {"ob_type": "ca", "ob_id": self.ca, "enabled": True}
        sent = {"installs": [copied, loaded], "change_note": "first"}
        assert self.owner.put(where, sent).status in (200, 201, 204)
        stored = self.owner.get(where).data
        assert (stored["version"], stored["installs"]) == (1, sent["installs"]), stored
        script = self.key_for("ForInstallConfigUpdate", str(stored["user_device_id"]), "update")
        patches = [{"ob_type": "ca", "ob_id": self.ca, "id": 2, "cmd_argv": ["date"], "to": ["/x"]}]
        address = f"/apiv1/me/install-config-update/{public_id}"
        for body in (patches, {"patches": patches, "after_update_script": None}):
            answer = script.post(address, body)
            assert answer.status == 200, answer
            assert isinstance(answer.data, dict), answer
        patched = self.owner.get(where).data
        expected = [copied, loaded | {"cmd_argv": ["date"]}]
        assert (patched["version"], patched["installs"]) == (3, expected), patched
        script.post(address, [{"ob_type": "cert", "ob_id": 1, "cmd": "true"}]).refuses(400)
        back = self.owner.post(f"{where}/restore", {"version": 1, "change_note": "back"}).data
        assert (back["version"], back["installs"]) == (4, sent["installs"]), back
        versions = self.owner.get(f"{where}-histories").data
        assert [each["version"] for each in versions] == [4, 3, 2, 1], versions


def part(claims: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


def main(url: str, email: str, password: str) -> None:
    field = Field(url, email, password)
    parts: list[Callable[[], None]] = [
        field.sessions,
        field.conventions,
        field.keys,
        field.authorities,
        field.certificates,
        field.devices,
    ]
    for each in parts:
        each()
        print(each.__name__, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
