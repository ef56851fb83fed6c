"""/apiv1/users/{id} accepts only the caller's id, /apiv1/me is the same, and other rows are 404."""

import re

import pytest
from rest_framework.permissions import AllowAny

from accounts.models import ApiKey
from accounts.permissions import PERMISSIONS
from devices.authentication import DeviceAuthentication
from tests import factories
from tests.issuance.api.calling import routes


@pytest.fixture
def key_of_alice(alice):
    factories.api_key(alice, "devices:*[read]", name="hers")
    return ApiKey.objects.get()


@pytest.fixture(params=["me", "users"])
def prefix_of(request):
    return lambda user: "/apiv1/me" if request.param == "me" else f"/apiv1/users/{user.pk}"


def test_the_owner_sees_the_row_under_both_prefixes(client_of, alice, key_of_alice, prefix_of):
    client = client_of(alice)
    assert client.get(f"{prefix_of(alice)}/apikeys/{key_of_alice.pk}").data_member["name"] == "hers"
    assert [row["id"] for row in client.get(f"{prefix_of(alice)}/apikeys").data_member] == [
        key_of_alice.pk
    ]


def test_a_strangers_row_is_404_and_stays(client_of, bob, key_of_alice, prefix_of):
    client = client_of(bob)
    for method in ("get", "delete"):
        response = getattr(client, method)(f"{prefix_of(bob)}/apikeys/{key_of_alice.pk}")
        assert (response.status_code, response.error["code"]) == (404, 5003)
    assert client.get(f"{prefix_of(bob)}/apikeys").data_member == []
    key_of_alice.refresh_from_db()
    assert key_of_alice.revoked_at is None


def test_a_row_that_never_was_reads_like_a_strangers(client_of, bob, key_of_alice, prefix_of):
    strangers = client_of(bob).get(f"{prefix_of(bob)}/apikeys/{key_of_alice.pk}").error["what"]
    absent = client_of(bob).get(f"{prefix_of(bob)}/apikeys/987654").error["what"]
    assert strangers.replace(str(key_of_alice.pk), "N") == absent.replace("987654", "N")


@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_the_scope_of_somebody_else_is_403(client_of, alice, bob, key_of_alice, method):
    for path in (
        f"/apiv1/users/{alice.pk}/apikeys",
        f"/apiv1/users/{alice.pk}/apikeys/{key_of_alice.pk}",
    ):
        response = getattr(client_of(bob), method)(path)
        assert (response.status_code, response.error["code"]) == (403, 5022)


@pytest.mark.parametrize("user_id", ["987654", "0", "9" * 20, "9" * 5000])
def test_a_user_that_never_was_is_403_as_well_and_401_without_a_credential(client_of, bob, user_id):
    for path in (f"/apiv1/users/{user_id}/apikeys", f"/apiv1/users/{user_id}/apikeys/1"):
        response = client_of(bob).get(path)
        assert (response.status_code, response.error["code"]) == (403, 5022)
        assert len(response.error["what"]) < 200
        assert client_of().get(path).status_code == 401


def test_a_users_id_is_spelt_in_one_way_only(client_of, bob):
    assert client_of(bob).get(f"/apiv1/users/0{bob.pk}/apikeys").status_code == 403


def test_an_administrator_has_no_other_scope_than_anybody(client_of, alice, key_of_alice):
    admin = factories.UserFactory(is_staff=True, is_superuser=True)
    assert client_of(admin).get(f"/apiv1/users/{alice.pk}/apikeys").status_code == 403
    assert client_of(admin).get(f"/apiv1/me/apikeys/{key_of_alice.pk}").status_code == 404


def test_the_scope_of_somebody_else_is_403_for_a_key(key_client, alice, bob):
    response = key_client(bob, "dns_providers:*[read]").get(
        f"/apiv1/users/{alice.pk}/dns-providers"
    )
    assert (response.status_code, response.error["code"]) == (403, 5022)


def api_endpoints():
    served_by_libraries = ("apiv1/schema", "apiv1/docs")
    return [
        (path, view)
        for path, view in routes()
        if path.startswith(("apiv1", "auth", "health")) and path not in served_by_libraries
    ]


def a_real_path(path, user_id):
    path = path.replace("<user:user_id>", str(user_id))
    return "/" + re.sub(r"<[^>]+>", "1", path)


def methods_of(view):
    handlers = getattr(view, "actions", None) or {
        method: method
        for method in ("get", "post", "put", "patch", "delete")
        if hasattr(view.cls, method)
    }
    return {method: handler for method, handler in handlers.items() if method != "head"}


def is_for_devices(view):
    """Return whether only the access token of a device opens the view."""
    return DeviceAuthentication in view.cls.authentication_classes


def obtype_of(view, handler):
    return getattr(view.cls, "other_obtypes", {}).get(handler, view.cls.obtype)


def is_public(view):
    return view.cls.permission_classes == [AllowAny]


def test_there_are_endpoints_to_look_at():
    assert len(api_endpoints()) > 10


def test_every_view_says_what_an_api_key_needs_or_that_it_takes_none():
    forgotten = []
    for path, view in api_endpoints():
        if is_public(view) or is_for_devices(view) or getattr(view.cls, "session_only", False):
            continue
        declared = view.cls.permissions
        forgotten += [
            f"{method} {path}"
            for method, handler in methods_of(view).items()
            if handler not in declared
        ]
    assert forgotten == []


def test_every_declared_permission_is_in_the_catalogue():
    for _, view in api_endpoints():
        for handler, needed in (getattr(view.cls, "permissions", None) or {}).items():
            assert needed is None or needed in PERMISSIONS[obtype_of(view, handler)][1]


def test_without_a_credential_every_view_that_is_not_public_is_401(client_of, db):
    for path, view in api_endpoints():
        if is_public(view):
            continue
        for method in methods_of(view):
            response = getattr(client_of(), method)(a_real_path(path, 1))
            assert (response.status_code, response.error["code"]) == (401, 5104), f"{method} {path}"


def test_no_view_opens_the_scope_of_somebody_else(client_of, alice, bob):
    for path, view in api_endpoints():
        if "<user:user_id>" not in path:
            continue
        for method in methods_of(view):
            response = getattr(client_of(bob), method)(a_real_path(path, alice.pk))
            assert (response.status_code, response.error["code"]) == (403, 5022), f"{method} {path}"


def test_no_view_opens_to_a_key_that_was_granted_something_else(key_client, alice):
    for path, view in api_endpoints():
        if is_public(view) or is_for_devices(view) or path.startswith("auth"):
            continue
        for method, handler in methods_of(view).items():
            others = [
                f"{obtype}:*[{','.join(actions)}]"
                for obtype, (_, actions) in PERMISSIONS.items()
                if obtype != obtype_of(view, handler)
            ]
            client = key_client(alice, *others)
            response = getattr(client, method)(a_real_path(path, alice.pk))
            assert (response.status_code, response.error["code"]) == (403, 5022), f"{method} {path}"


def test_an_api_key_opens_no_view_for_devices(key_client, alice):
    client = key_client(alice, "devices:*[read,write]", "ForDeviceAuthenticate:*[authenticate]")
    views = [(path, view) for path, view in api_endpoints() if is_for_devices(view)]
    assert views
    for path, view in views:
        for method in methods_of(view):
            response = getattr(client, method)(a_real_path(path, alice.pk))
            assert (response.status_code, response.error["code"]) == (401, 5018), f"{method} {path}"


def test_every_owned_path_is_there_under_both_prefixes():
    paths = {path for path, _ in api_endpoints()}
    mine = {path.removeprefix("apiv1/me/") for path in paths if path.startswith("apiv1/me/")}
    prefix = "apiv1/users/<user:user_id>/"
    assert mine == {path.removeprefix(prefix) for path in paths if path.startswith(prefix)}
    assert mine
