"""Every response matches the OpenAPI schema."""

import re

import jsonschema
import pytest

from tests.conftest import JSONClient
from tests.factories import PASSWORD

pytestmark = pytest.mark.django_db
OF_LISTS = {"Link", "X-Total-Count", "X-Total-Count-More"}


def as_json_schema(part):
    """Convert OpenAPI 3.0 to JSON Schema, where `nullable` is another type."""
    if isinstance(part, list):
        return [as_json_schema(each) for each in part]
    if not isinstance(part, dict):
        return part
    plain = {name: as_json_schema(value) for name, value in part.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if part.get("nullable") is True else plain


@pytest.fixture(scope="session")
def json_schema(schema):
    return as_json_schema(schema)


@pytest.fixture(autouse=True)
def _every_answer_is_compared(json_schema, monkeypatch):
    request = JSONClient.request

    def compared(client, **kwargs):
        answer = request(client, **kwargs)
        compare(json_schema, kwargs["REQUEST_METHOD"].lower(), kwargs["PATH_INFO"], answer)
        return answer

    monkeypatch.setattr(JSONClient, "request", compared)


def compare(schema, method, path, answer):
    responses = operation_of(schema, method, path)["responses"]
    assert answer.status_code >= 400 or str(answer.status_code) in responses, (
        f"{method} {path}: {answer.status_code}"
    )
    told = responses.get(str(answer.status_code), responses["default"])
    assert OF_LISTS & set(answer.headers) <= set(told.get("headers", ()))
    if answer.status_code == 204:
        assert "content" not in told
    elif "application/zip" not in told["content"]:
        shape = told["content"]["application/json"]["schema"]
        jsonschema.Draft4Validator(shape | {"components": schema["components"]}).validate(
            answer.body
        )


def operation_of(schema, method, path):
    for template, operations in schema["paths"].items():
        if method in operations and re.fullmatch(re.sub(r"{\w+}", r"\\d+", template), path):
            return operations[method]
    raise AssertionError(f"The schema has no {method} {path}.")


def test_answers_about_people_and_keys_fit(api, client_of, alice):
    permissions = [{"obtype": "certificates", "obid": "*", "actions": ["read"]}]
    made = api.post(
        "apikeys", {"name": "ci", "expires_in_seconds": 60, "permissions": permissions}
    ).data_member
    client_of(token=made["token"]).get("/apiv1/me/certificates")
    used = api.get(f"apikeys/{made['id']}").data_member
    assert used["last_used_at"]
    api.post("apikeys", {"name": "unused", "expires_in_seconds": 60, "permissions": permissions})
    api.get("apikeys")
    api.get("apikeys/987654")
    api.delete(f"apikeys/{made['id']}")
    for client in (client_of(), client_of(alice)):
        for path in (
            "/auth/status",
            "/auth/profile",
            "/apiv1/permissions/catalog",
            "/apiv1/dns/providers/catalog",
        ):
            client.get(path)
    client_of().post("/auth/general", {"email": alice.email, "password": PASSWORD})
    client_of(alice).post("/auth/logout")


def test_answers_about_accounts_credentials_and_cas_fit(world, api, account, credential):
    root = api.post("cas", {"name": "Office"}).data_member["id"]
    api.post("cas", {"name": "Narrow", "max_path_length": 0, "algorithm": "RSA"})
    for path in (
        "cas",
        f"cas/{root}",
        "acme-accounts",
        f"acme-accounts/{account.pk}",
        "dns-providers",
    ):
        api.get(path)
    office = api.post(
        "acme-accounts", {"provider": "SELF_CA", "ca_id": root, "leaf_ec_curve": "prime256v1"}
    ).data_member
    api.put(f"acme-accounts/{office['id']}", {"name": "office", "cert_valid_seconds": 3600})
    api.post(f"acme-accounts/{account.pk}/register")
    api.patch(f"dns-providers/{credential.pk}", {"name": "mine"})
    api.post(f"cas/{root}/issue", {"domain_name": "a.example.com", "validity_seconds": 3600})
    api.get(f"cas/{root}")
    api.delete(f"cas/{root}")
    api.delete(f"dns-providers/{credential.pk}")


def test_the_headers_of_a_list_are_in_the_schema(api, json_schema):
    for name in ("Office", "Plant"):
        api.post("cas", {"name": name})
    first = api.get("cas?limit=1&total=1")
    assert OF_LISTS & set(first.headers) == {"Link", "X-Total-Count"}
    described = operation_of(json_schema, "get", "/apiv1/me/cas")["responses"]["200"]["headers"]
    assert set(described) == OF_LISTS


def test_answers_about_certificates_fit(world, api, guide, reference):
    pk = api.post("certificates", guide(server_decrypt_export=True)).data_member["id"]
    for _ in range(2):  # while it is open, and once it is issued
        for path in ("certificates", f"certificates/{pk}", f"certificates/{pk}?detail=most"):
            api.get(path)
        for path in ("issues", "issues/history", "histories", "issue-result", "export"):
            api.get(f"certificates/{pk}/{path}")
        world.deliver()
    attempt = api.post(f"certificates/{pk}/renew").data_member["issue_history_id"]
    api.post(f"certificates/{pk}/issues")
    api.get(f"certificates/{pk}/issues/{attempt}/events")
    api.post(f"certificates/{pk}/cancel")
    api.post(f"certificates/{pk}/cancel")
    api.put(f"certificates/{pk}", {"renew_days_before": 20})
    api.post(f"certificates/{pk}/revoke")
    api.get(f"acme-accounts/{guide()['acme_account_id']}/certificates")
    unissued = api.post("certificates", reference(domain_name="example.org")).data_member["id"]
    api.get(f"certificates/{unissued}?detail=most")
    api.delete(f"certificates/{unissued}")


def test_the_schema_describes_a_private_ca_with_its_validity(json_schema):
    body = operation_of(json_schema, "post", "/apiv1/me/cas/1/issue")["requestBody"]["content"][
        "application/json"
    ]["schema"]
    members = json_schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
    assert {"domain_name", "sans", "validity_seconds"} <= set(members)
