"""HEAD returns the headers of GET and changes nothing. OPTIONS changes nothing either."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import get_resolver

from accounts.models import AuditEvent
from issuance.models import Certificate
from tests.issuance.api.calling import refused
from tests.issuance.api.test_audit_trail import routes

pytestmark = pytest.mark.django_db


def reading_routes():
    for route, view in routes(get_resolver().url_patterns):
        methods = getattr(view, "actions", None) or dir(getattr(view, "view_class", object))
        if (
            "get" in methods
            and "users/<user:user_id>" not in route
            and route.startswith(("apiv1/", "auth", "health"))
        ):
            yield route


def changes(queries):
    verbs = ("INSERT", "UPDATE", "DELETE")
    return [each["sql"] for each in queries.captured_queries if each["sql"].startswith(verbs)]


@pytest.mark.parametrize("method", ["head", "options"])
def test_it_writes_nothing_wherever_get_is_answered(api, issued, account, method):
    seen = sorted(set(reading_routes()))
    assert "apiv1/me/certificates/<id:pk>/export" in seen
    for route in seen:
        pk = account.pk if "acme-accounts" in route else issued.pk
        path = route.replace("<id:pk>", str(pk)).replace("<id:acme_account_id>", str(account.pk))
        path = path.replace("<id:issue_history_id>", str(issued.current.issuance_id))
        with CaptureQueriesContext(connection) as queries:
            answer = getattr(api.client, method)(f"/{path}")
        assert answer.status_code != 500, route
        assert changes(queries) == [], route
        assert b"PRIVATE KEY" not in answer.getvalue(), route


def head(api, certificate):
    return api.client.head(f"/apiv1/me/certificates/{certificate.pk}/export")


def test_the_head_of_an_export_opens_no_key_and_shows_no_password(api, issued):
    before = AuditEvent.objects.count()
    answer = head(api, issued)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="cert-{issued.pk}.zip"'
    assert answer.getvalue() == b""
    for header in ("X-Export-Password", "Content-Length"):
        assert header not in answer.headers, "nobody knows it without opening the key"
    assert AuditEvent.objects.count() == before
    assert api.get(f"certificates/{issued.pk}/export").headers["X-Export-Password"]
    assert AuditEvent.objects.filter(action="key.opened").count() == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"server_decrypt_export": False}, 403),
        ({"key_policy": "DEVICE_REQUIRED"}, 403),
        ({"current": None}, 409),
    ],
)
def test_where_the_export_is_refused_its_head_is_too(api, issued, changes, status):
    Certificate.objects.filter(pk=issued.pk).update(**changes)
    assert head(api, issued).status_code == status
    refused(api.get(f"certificates/{issued.pk}/export"), status)
