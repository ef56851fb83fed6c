"""The list of certificates: pages by key, and filters in the address."""

from datetime import timedelta

import pytest

from certctrl import clock
from devices.models import Device
from issuance import services
from issuance.models import Certificate
from issuance.rollout import Report, note_reports
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def many(account):
    """45 certificates with ends, of which two pairs are the same, and 5 that were never issued."""
    now = clock.now()
    ends = [now + timedelta(days=number // 2) for number in range(45)] + [None] * 5
    for number, end in enumerate(ends):
        Certificate.objects.create(
            owner=account.owner,
            account=account,
            domain=f"n{number}.example.com",
            names=[f"n{number}.example.com"],
            expires_at=end,
            request_digest=str(number),
        )


def test_the_list_says_how_many_there_are_and_who_serves_each(visitor, certificate, alice):
    devices = [factories.device(alice, name=name) for name in ("a", "b", "c")]
    for device in devices:
        services.assign(certificate, device)
    serial = certificate.current.serial
    note_reports(devices[0], [Report(certificate.pk, serial, "served", "")])
    revoked = {"status": Device.Status.REVOKED, "revoked_at": clock.now()}
    Device.objects.filter(pk=devices[2].pk).update(**revoked)
    page = visitor.get("/certificates")
    assert "<b>1 certificate</b>, the soonest end first." in page.content.decode()
    (row,) = page.context["rows"]
    assert (row.served, row.assigned) == (1, 2)
    assert "1 of 2" in page.content.decode()
    assert "<b>" not in visitor.get("/certificates?q=www").content.decode().split("</h1>")[0]


def walked(visitor, address: str) -> list[str]:
    """Return the domains of all pages."""
    found = []
    while address:
        context = visitor.get(f"/certificates{address}").context
        found += [row.certificate.domain for row in context["rows"]]
        address = context["following"]
    return found


def test_the_pages_hold_each_certificate_once_in_order(visitor, many):
    found = walked(visitor, "?sort=end")
    assert found[:45] == [f"n{number}.example.com" for number in range(45)]
    assert found[45:] == [f"n{number}.example.com" for number in range(49, 44, -1)]


def test_the_newest_can_come_first(visitor, many):
    found = walked(visitor, "?sort=new")
    assert found == [f"n{number}.example.com" for number in range(49, -1, -1)]


@pytest.mark.parametrize("after", ["x", "_", "2026_1", "_99999999999999999999", "2026-99-99T_3"])
def test_a_key_that_is_none_begins_at_the_first_page(visitor, many, after):
    rows = visitor.get("/certificates", {"after": after}).context["rows"]
    assert rows[0].certificate.domain == "n0.example.com"


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ({"chip": "new"}, 50),
        ({"chip": "soon"}, 43),
        ({"chip": "you"}, 0),
        ({"chip": "open"}, 0),
        ({"chip": "off"}, 0),
        ({"chip": "revoked"}, 0),
        ({"q": "n7.exa"}, 1),
        ({"q": "%"}, 0),
        ({"q": "<script>\0"}, 0),
        ({"account": "999"}, 0),
        ({"account": "x"}, 50),
        ({"rows": "7"}, 50),
    ],
)
def test_filters_are_in_the_address(visitor, many, query, number):
    rows = visitor.get("/certificates", {"rows": "100"} | query).context["rows"]
    assert len(rows) == (20 if query == {"rows": "7"} else number)


def test_words_of_a_search_are_not_markup(visitor):
    text = visitor.get("/certificates", {"q": '"><script>alert(1)</script>'}).content.decode()
    assert "<script>alert" not in text


def test_the_overview_of_many_has_a_drawing_of_the_days(visitor, many):
    page = visitor.get("/")
    assert 'class="bar ends"' in page.content.decode()
    assert len(page.context["lanes"]) == 24
    assert page.context["more"] == 26


@pytest.mark.parametrize("ends", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_page_after_the_end_of_all_days_is_the_first(visitor, certificate, ends):
    response = visitor.get("/certificates", {"after": f"{ends}_1"})
    assert f"/certificates/{certificate.pk}" in response.content.decode()
