"""Saved views: filters under a name."""

import pytest

from accounts import savedviews
from accounts.models import SavedView
from certctrl.errors import Invalid, QuotaExceeded

pytestmark = pytest.mark.django_db


def test_a_name_has_the_filters_that_were_saved_last(alice):
    savedviews.save(alice, " my  view ", "?q=a&chip=soon&after=x_1")
    savedviews.save(alice, "my view", "q=b%20c")
    assert SavedView.objects.get().query == "q=b+c"


@pytest.mark.parametrize(
    ("name", "query"),
    [("", "q=a"), ("x" * 65, "q=a"), ("a\tb\0", "q=a"), ("x", f"q={'a' * 1001}"), ("x", "q=%00")],
)
def test_a_view_that_cannot_be_saved_is_refused(alice, name, query):
    with pytest.raises(Invalid):
        savedviews.save(alice, name, query)
    assert not SavedView.objects.exists()


def test_an_owner_has_a_limited_number_of_views(alice, bob, monkeypatch):
    monkeypatch.setattr(SavedView, "MOST", 1)
    savedviews.save(alice, "one", "q=a")
    savedviews.save(bob, "one", "q=a")
    with pytest.raises(QuotaExceeded):
        savedviews.save(alice, "two", "q=a")
    assert alice.saved_views.count() == 1


def test_the_api_saves_lists_and_deletes(client_of, alice, bob):
    mine, bobs = client_of(alice), client_of(bob)
    made = mine.post("/apiv1/me/views", {"name": "soon", "query": "chip=soon"})
    assert made.status_code == 201
    address = f"/apiv1/me/views/{made.data_member['id']}"
    assert [each["name"] for each in mine.get("/apiv1/me/views").data_member] == ["soon"]
    assert bobs.delete(address).status_code == 404
    assert bobs.get("/apiv1/me/views").data_member == []
    assert mine.delete(address).status_code == 204
    assert not SavedView.objects.exists()
