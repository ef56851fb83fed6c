"""The renewal time of a certificate and its reason, as its owner reads them."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from authorities.errors import Refused
from issuance.models import Certificate, RenewalInfo

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(world):
    world.ca.offers_renewal_info = True
    world.ca.explanation_url = "https://ca.test/why"
    return world


def renewal(api, pk):
    shown = api.get(f"certificates/{pk}").data_member
    assert shown | {"deployment": None} == api.get("certificates").data_member[0]
    return shown["renewal"]


def seconds(at) -> int:
    return int(at.timestamp())


def test_a_certificate_that_was_never_issued_has_no_renewal(api, reference):
    pk = api.post("certificates", reference()).data_member["id"]
    assert renewal(api, pk) == {"renew_at": None, "slot_at": None, "ari": None}


def test_before_the_ca_was_asked_only_our_own_reckoning_is_shown(api, issued):
    shown = {"renew_at": seconds(issued.renew_at), "slot_at": None, "ari": None}
    assert renewal(api, issued.pk) == shown


def test_the_window_the_moment_and_the_page_that_explains_are_shown(world, api, issued):
    world.advance(600)
    world.sweep()
    info = RenewalInfo.objects.get()
    assert renewal(api, issued.pk) == {
        "renew_at": seconds(info.moment),
        "slot_at": None,
        "ari": {
            "window_start": seconds(info.window_start),
            "window_end": seconds(info.window_end),
            "moment": seconds(info.moment),
            "explanation_url": "https://ca.test/why",
            "checked_at": seconds(world.time),
            "error": "",
        },
    }


def test_a_refusal_is_shown_and_the_renewal_continues(world, api, issued):
    world.ca.problems["renewal_info"] = [
        Refused("ca_not_found", "The CA does not know the certificate.")
    ]
    world.advance(600)
    world.sweep()
    shown = renewal(api, issued.pk)
    assert shown["renew_at"] == seconds(issued.renew_at)
    assert shown["ari"]["error"] == "The CA does not know the certificate."
    assert (shown["ari"]["window_start"], shown["ari"]["moment"], shown["ari"]["checked_at"]) == (
        None,
        None,
        None,
    )


def test_a_list_of_windows_costs_the_same_queries_whatever_its_length(
    world, api, account, credential
):
    def windows(count: int) -> int:
        for number in range(Certificate.objects.count(), count):
            world.create(account, credential, f"n{number}.example.com")
        world.deliver()
        world.advance(600)
        world.sweep()
        with CaptureQueriesContext(connection) as captured:
            assert len(api.get("certificates").data_member) == count
        return len(captured)

    one = windows(1)
    assert RenewalInfo.objects.exclude(checked_at=None).count() == 1
    assert windows(10) == one
    assert RenewalInfo.objects.exclude(checked_at=None).count() == 10
