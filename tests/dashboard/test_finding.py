"""What the palette finds, and the colours without scripts."""

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


def test_certificates_are_found_by_a_part_of_a_name(visitor, bobs_visitor, certificate):
    found = visitor.get("/find", {"q": "www.ex"}).json()["certificates"]
    href = f"/certificates/{certificate.pk}"
    assert found == [{"id": certificate.pk, "name": "www.example.com", "href": href}]
    assert bobs_visitor.get("/find", {"q": "www.ex"}).json() == {"certificates": []}


@pytest.mark.parametrize("words", ["", " ", "<script>", "x" * 300])
def test_words_that_no_name_has_find_nothing(visitor, certificate, words):
    assert visitor.get("/find", {"q": words}).json() == {"certificates": []}


def test_finding_takes_three_queries_more_than_the_session(
    visitor, certificate, django_assert_num_queries
):
    with django_assert_num_queries(5):
        visitor.get("/find", {"q": "www"})


def test_a_form_sets_the_colours_and_leads_back(visitor):
    answer = visitor.post("/theme", {"theme": "dark", "next": "/certificates?q=a"})
    assert answer.headers["Location"] == "/certificates?q=a"
    assert 'data-theme="dark"' in visitor.get("/certificates").content.decode()
    visitor.post("/theme", {"theme": "system"})
    assert "data-theme" not in visitor.get("/certificates").content.decode()


@pytest.mark.parametrize("address", ["https://evil.test/", "//evil.test", "\\\\evil.test"])
def test_the_colours_never_lead_to_another_host(address):
    answer = Client().post("/theme", {"theme": "dark", "next": address})
    assert answer.headers["Location"] == "/"
