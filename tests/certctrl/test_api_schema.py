"""The OpenAPI schema matches the responses, and its page loads nothing from other hosts."""

import re

import pytest

pytestmark = pytest.mark.django_db


def test_responses_are_in_the_data_envelope(schema):
    answer = schema["paths"]["/apiv1/me/apikeys"]["get"]["responses"]["200"]["content"][
        "application/json"
    ]["schema"]
    assert answer["required"] == ["data"]
    rows = answer["properties"]["data"]["$ref"].rpartition("/")[2]
    assert schema["components"]["schemas"][rows]["type"] == "array"


def test_every_operation_may_answer_the_error_shape(schema):
    operations = [each for path in schema["paths"].values() for each in path.values()]
    assert operations
    assert all("$ref" in str(each["responses"]["default"]) for each in operations)


def test_the_schema_names_the_ways_to_authenticate(schema):
    assert set(schema["components"]["securitySchemes"]) == {"session", "api_key", "device"}


def test_times_are_numbers(schema):
    assert (
        schema["components"]["schemas"]["ApiKey"]["properties"]["expires_at"]["type"] == "integer"
    )


def test_the_page_asks_only_this_server(client_of):
    page = client_of().get("/apiv1/docs", HTTP_ACCEPT="text/html")
    assert page.status_code == 200
    assert "swagger" in page.content.decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())
    assert loaded
    assert all(each.startswith("/") and not each.startswith("//") for each in loaded)
