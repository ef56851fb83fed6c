"""Lists: bare arrays, newest id first, offset and limit."""

import pytest

from certctrl.formats import OffsetPagination
from tests import factories

PATH = "/apiv1/me/apikeys"


@pytest.fixture
def five(alice):
    for number in range(5):
        factories.api_key(alice, "devices:*[read]", name=f"key{number}")


def names(response):
    return [row["name"] for row in response.data_member]


def test_a_list_is_a_bare_array_newest_first(client_of, alice, five):
    response = client_of(alice).get(PATH)
    assert names(response) == ["key4", "key3", "key2", "key1", "key0"]
    assert "X-Total-Count" not in response.headers


def test_offset_and_limit_cut_a_slice(client_of, alice, five):
    assert names(client_of(alice).get(PATH, {"offset": 1, "limit": 2})) == ["key3", "key2"]
    assert names(client_of(alice).get(PATH, {"offset": 100})) == []


def test_the_total_is_sent_only_on_request(client_of, alice, five):
    response = client_of(alice).get(PATH, {"limit": 2, "total": 1})
    assert response.headers["X-Total-Count"] == "5"
    assert len(response.data_member) == 2
    assert "X-Total-Count" not in client_of(alice).get(PATH, {"total": 0}).headers


def test_a_list_without_rows_is_an_empty_array(client_of, alice):
    assert client_of(alice).get(PATH).body == {"data": []}


BAD_NUMBERS = {
    "limit": ["0", "-1", "x", "1.5", "%C2%B2", "%D9%A1"],
    "offset": ["-1", "x", "99999999999999999999", "2147483648", "%00"],
    "total": ["2", "yes"],
}


@pytest.mark.parametrize(
    "query", [f"{name}={value}" for name, values in BAD_NUMBERS.items() for value in values]
)
def test_a_bad_number_is_400_and_named(client_of, alice, query):
    response = client_of(alice).get(f"{PATH}?{query}")
    assert response.status_code == 400
    assert response.error["params"]["field"] == query.partition("=")[0]


def test_an_empty_parameter_counts_as_omitted(client_of, alice, five):
    response = client_of(alice).get(f"{PATH}?limit=&offset=&total=")
    assert len(names(response)) == 5
    assert "X-Total-Count" not in response.headers


@pytest.mark.parametrize("limit", [4, 1001, 2147483647])
def test_a_limit_over_the_largest_counts_as_the_largest(client_of, alice, five, monkeypatch, limit):
    monkeypatch.setattr(OffsetPagination, "max_limit", 3)
    assert len(names(client_of(alice).get(PATH, {"limit": limit}))) == 3


def test_the_largest_values_are_taken(client_of, alice):
    assert client_of(alice).get(f"{PATH}?limit=1000&offset=2147483647").status_code == 200
