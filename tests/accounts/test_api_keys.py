"""API keys are made, listed and revoked with a session."""

import re
from datetime import timedelta

import pytest
import time_machine

from accounts.authentication import digest_of
from accounts.models import ApiKey, AuditEvent
from accounts.permissions import PERMISSIONS
from accounts.serializers import TEN_YEARS
from certctrl import clock
from tests import factories

GOOD = {
    "name": "ci",
    "expires_in_seconds": 86400,
    "permissions": [{"obtype": "certificates", "obid": "123", "actions": ["read", "issue"]}],
}
READ = "/apiv1/me/dns-providers"


@pytest.fixture(params=["me", "users"])
def path(request, alice):
    return "/apiv1/me/apikeys" if request.param == "me" else f"/apiv1/users/{alice.pk}/apikeys"


def test_a_key_is_made_and_its_token_shown_once(client_of, alice, path):
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False):
        response = client_of(alice).post(path, GOOD)
        assert response.status_code == 201
        made = response.data_member
        assert re.fullmatch(r"ak_[A-Za-z0-9_-]{43}", made["token"])
        assert made["name"] == "ci"
        assert made["expires_in_seconds"] == 86400
        assert made["expires_at"] == 1893456000 + 86400
        assert made["permissions"] == [
            {"obtype": "certificates", "obid": "123", "actions": ["issue", "read"]}
        ]
        shown = client_of(alice).get(f"{path}/{made['id']}")
        listed = client_of(alice).get(path)
    assert shown.data_member == listed.data_member[0]
    for answer in (shown, listed):
        assert made["token"] not in answer.content.decode()
        assert digest_of(made["token"]) not in answer.content.decode()
        assert "token" not in answer.content.decode()


def test_only_the_digest_is_kept(client_of, alice):
    token = client_of(alice).post("/apiv1/me/apikeys", GOOD).data_member["token"]
    row = ApiKey.objects.values().get()
    assert token not in str(row)
    assert row["digest"] == digest_of(token)
    assert token.startswith(row["prefix"])
    assert len(row["prefix"]) < 16


def test_two_keys_are_never_the_same(client_of, alice):
    tokens = {
        client_of(alice).post("/apiv1/me/apikeys", GOOD).data_member["token"] for _ in range(3)
    }
    assert len(tokens) == 3


def with_permission(**change):
    return {"permissions": [GOOD["permissions"][0] | change]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "   "}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": None}, "name"),
        ({"name": ["ci"]}, "name"),
        ({"expires_in_seconds": 0}, "expires_in_seconds"),
        ({"expires_in_seconds": -1}, "expires_in_seconds"),
        ({"expires_in_seconds": TEN_YEARS + 1}, "expires_in_seconds"),
        ({"expires_in_seconds": 10**30}, "expires_in_seconds"),
        ({"expires_in_seconds": 1.5}, "expires_in_seconds"),
        ({"expires_in_seconds": True}, "expires_in_seconds"),
        ({"expires_in_seconds": None}, "expires_in_seconds"),
        ({"permissions": []}, "permissions"),
        ({"permissions": {}}, "permissions"),
        ({"permissions": "certificates"}, "permissions"),
        ({"permissions": None}, "permissions"),
        ({"permissions": ["certificates"]}, "permissions[0]"),
        ({"permissions": GOOD["permissions"] * 101}, "permissions"),
        (with_permission(obtype="certs"), "permissions[0].obtype"),
        (with_permission(obtype=["certificates"]), "permissions[0].obtype"),
        (with_permission(obid=""), "permissions[0].obid"),
        (with_permission(obid="1 or 1"), "permissions[0].obid"),
        (with_permission(obid="**"), "permissions[0].obid"),
        (with_permission(obid="x" * 65), "permissions[0].obid"),
        (with_permission(obid=None), "permissions[0].obid"),
        (with_permission(actions=[]), "permissions[0].actions"),
        (with_permission(actions="read"), "permissions[0].actions"),
        (with_permission(actions=["fly"]), "permissions[0]"),
        (with_permission(actions=["authenticate"]), "permissions[0]"),
        (with_permission(actions=[1]), "permissions[0]"),
    ],
    ids=str,
)
def test_bad_input_is_400_names_the_member_and_makes_nothing(client_of, alice, change, field):
    response = client_of(alice).post("/apiv1/me/apikeys", GOOD | change)
    assert response.status_code == 400
    assert response.error["params"]["field"] == field
    assert not ApiKey.objects.exists()
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("missing", ["name", "expires_in_seconds", "permissions"])
def test_every_member_is_needed(client_of, alice, missing):
    body = {name: value for name, value in GOOD.items() if name != missing}
    response = client_of(alice).post("/apiv1/me/apikeys", body)
    assert (response.status_code, response.error["code"]) == (400, 5008)
    assert response.error["params"] == {"field": missing}


def test_the_limits_themselves_are_taken(client_of, alice):
    for change in (
        {"name": "x" * 64},
        {"name": "x"},
        {"expires_in_seconds": TEN_YEARS},
        {"expires_in_seconds": 1},
    ):
        assert client_of(alice).post("/apiv1/me/apikeys", GOOD | change).status_code == 201


def test_everything_in_the_catalogue_can_be_granted(client_of, alice):
    permissions = [
        {"obtype": obtype, "obid": "*", "actions": list(actions)}
        for obtype, (_, actions) in PERMISSIONS.items()
    ]
    assert (
        client_of(alice).post("/apiv1/me/apikeys", GOOD | {"permissions": permissions}).status_code
        == 201
    )


def test_everybody_may_read_the_catalogue(client_of, db):
    told = client_of().get("/apiv1/permissions/catalog").data_member
    assert {row["obtype"]: tuple(row["actions"]) for row in told} == {
        obtype: actions for obtype, (_, actions) in PERMISSIONS.items()
    }
    assert all(row["description"] for row in told)


def test_a_revoked_key_stops_at_once_and_is_gone(client_of, key_client, alice, path):
    script = key_client(alice, "dns_providers:*[read]")
    assert script.get(READ).status_code == 200
    key = ApiKey.objects.get()
    response = client_of(alice).delete(f"{path}/{key.pk}")
    assert (response.status_code, response.content) == (204, b"")
    refused = script.get(READ)
    assert (refused.status_code, refused.error["code"]) == (401, 5018)
    assert client_of(alice).get(f"{path}/{key.pk}").status_code == 404
    assert client_of(alice).get(path).data_member == []
    assert client_of(alice).delete(f"{path}/{key.pk}").status_code == 404


def test_a_key_opens_nothing_once_it_expired(key_client, alice):
    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False) as traveller:
        script = key_client(
            alice, "dns_providers:*[read]", expires_at=clock.now() + timedelta(seconds=60)
        )
        traveller.shift(59)
        assert script.get(READ).status_code == 200
        traveller.shift(1)
        assert (script.get(READ).status_code, script.get(READ).error["code"]) == (401, 5018)


def test_a_key_whose_owner_is_inactive_opens_nothing(key_client, alice):
    script = key_client(alice, "dns_providers:*[read]")
    alice.is_active = False
    alice.save()
    assert script.get(READ).status_code == 401


@pytest.mark.parametrize(
    "token", ["ak_", "ak_unknown", "ak_" + "x" * 43, "ak_" + "é" * 10, "ak_" + "x" * 10000]
)
def test_an_unknown_key_is_401(client_of, db, token):
    response = client_of().get(READ, HTTP_AUTHORIZATION=f"Bearer {token}")
    assert (response.status_code, response.error["code"]) == (401, 5018)
    assert token not in response.content.decode() or token == "ak_"


@pytest.mark.parametrize(
    "header", ["Basic YTpi", "Bearer", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", "ak_x", "Token ak_x"]
)
def test_another_kind_of_credential_is_none(client_of, db, header):
    response = client_of().get(READ, HTTP_AUTHORIZATION=header)
    assert (response.status_code, response.error["code"]) == (401, 5104)


def test_a_bad_key_is_401_even_beside_a_good_cookie(client_of, alice):
    client = client_of(alice)
    assert client.get(READ, HTTP_AUTHORIZATION="Bearer ak_wrong").status_code == 401


def test_the_scheme_is_read_without_case(client_of, alice):
    token = factories.api_key(alice, "dns_providers:*[read]")
    assert client_of().get(READ, HTTP_AUTHORIZATION=f"bearer {token}").status_code == 200


def test_the_last_use_is_noted_at_most_once_a_minute(key_client, alice):
    def noted():
        return ApiKey.objects.get().last_used_at

    with time_machine.travel("2030-01-01T00:00:00+00:00", tick=False) as traveller:
        script = key_client(alice, "dns_providers:*[read]")
        assert noted() is None
        script.get(READ)
        first = noted()
        assert first == clock.now()
        traveller.shift(59)
        script.get(READ)
        assert noted() == first
        traveller.shift(1)
        script.get(READ)
        assert noted() == clock.now()
        traveller.shift(-7200)
        script.get(READ)
        assert noted() == clock.now()


def test_making_and_revoking_are_written_down(client_of, alice):
    made = client_of(alice).post("/apiv1/me/apikeys", GOOD, REMOTE_ADDR="203.0.113.9").data_member
    client_of(alice).delete(f"/apiv1/me/apikeys/{made['id']}", REMOTE_ADDR="203.0.113.10")
    created, revoked = AuditEvent.objects.order_by("pk")
    assert (created.owner, created.actor, created.action) == (alice, alice.email, "apikey.created")
    assert (created.object, created.ip) == (f"apikey:{made['id']}", "203.0.113.9")
    assert created.detail["permissions"] == made["permissions"]
    assert (revoked.action, revoked.object, revoked.ip) == (
        "apikey.revoked",
        created.object,
        "203.0.113.10",
    )
    assert made["token"] not in str(AuditEvent.objects.values())


def test_an_old_session_makes_no_key(client_of, alice, settings):
    client = client_of(alice)
    settings.EXPORT_LOGIN_AGE = -1
    refused = client.post("/apiv1/me/apikeys", GOOD)
    assert (refused.status_code, refused.error["code"]) == (403, 5022)
    assert "Log in again" in refused.error["what"]
    assert not ApiKey.objects.exists()
    assert client.get("/apiv1/me/apikeys").status_code == 200
