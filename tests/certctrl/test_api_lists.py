"""Lists: bare arrays, newest id first, paged by the last id or by an offset."""

from urllib.parse import parse_qs, urlsplit

import pytest
from requests.utils import parse_header_links

from certctrl.formats import ListPagination
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
    "offset": ["-1", "x", "99999999999999999999", "2147483648", "10001", "%00"],
    "after": ["-1", "x", "1.5", "1000000000000000000", "%00"],
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
    monkeypatch.setattr(ListPagination, "max_limit", 3)
    assert len(names(client_of(alice).get(PATH, {"limit": limit}))) == 3


def test_the_largest_values_are_accepted(client_of, alice):
    path = f"{PATH}?limit=1000&offset=10000&after=999999999999999999"
    assert client_of(alice).get(path).status_code == 200


def test_after_gives_the_rows_below_an_id(client_of, alice, five):
    first = client_of(alice).get(PATH, {"limit": 2})
    last_id = first.data_member[-1]["id"]
    assert names(client_of(alice).get(PATH, {"after": last_id, "limit": 2})) == ["key2", "key1"]


def test_a_row_made_meanwhile_moves_no_page_after_an_id(client_of, alice, five):
    last_id = client_of(alice).get(PATH, {"limit": 2}).data_member[-1]["id"]
    factories.api_key(alice, "devices:*[read]", name="newer")
    assert names(client_of(alice).get(PATH, {"after": last_id, "limit": 1})) == ["key2"]


def test_the_link_leads_through_every_page(client_of, alice, five):
    path = f"{PATH}?limit=2&offset=1&total=0"
    found = []
    while path:
        response = client_of(alice).get(path)
        found.append(names(response))
        path = parse_header_links(response.headers["Link"])[0]["url"] if "Link" in response else ""
    assert found == [["key3", "key2"], ["key1", "key0"]]


def test_the_link_keeps_the_other_parameters(client_of, alice, five):
    link = parse_header_links(client_of(alice).get(f"{PATH}?limit=1&offset=1&x=y").headers["Link"])
    assert link[0]["rel"] == "next"
    query = parse_qs(urlsplit(link[0]["url"]).query)
    assert query.keys() == {"limit", "after", "x"}


def test_a_list_that_ends_on_a_full_page_has_no_next_page(client_of, alice, five):
    assert "Link" not in client_of(alice).get(PATH, {"limit": 5}).headers


def test_a_total_beyond_the_most_counted_says_that_there_are_more(
    client_of, alice, five, monkeypatch
):
    monkeypatch.setattr(ListPagination, "most_counted", 4)
    headers = client_of(alice).get(PATH, {"total": 1}).headers
    assert (headers["X-Total-Count"], headers["X-Total-Count-More"]) == ("4", "true")
    monkeypatch.setattr(ListPagination, "most_counted", 5)
    headers = client_of(alice).get(PATH, {"total": 1}).headers
    assert headers["X-Total-Count"] == "5"
    assert "X-Total-Count-More" not in headers


def test_an_offset_too_large_says_what_to_use(client_of, alice):
    error = client_of(alice).get(PATH, {"offset": 10001}).error
    assert error["params"]["field"] == "offset"
    assert "after=ID" in error["what"]
