"""The last step of a sign-in, after the first factor was right."""

import pytest
from django.test import Client

from accounts import links
from accounts.models import Session
from accounts.sessions import SessionStore
from certctrl import errors
from signin import entering

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


def test_a_link_that_another_request_used_meanwhile_is_over(alice, rf):
    token = links.token_for(alice)
    read_before = links.user_of(token)
    assert Client().post(f"/sign-in/link?token={token}").status_code == 302
    request = rf.post("/")
    request.session = SessionStore()
    with pytest.raises(errors.Unauthorized):
        entering.finish(request, read_before, ("link",))
    assert Session.objects.count() == 1
