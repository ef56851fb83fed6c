"""An API key may do what the view declares and the key was granted, and nothing else."""

import pytest

from dnsproviders.models import DnsCredential


@pytest.fixture
def three(alice):
    return [
        DnsCredential.objects.create(owner=alice, name=f"dns{n}", provider="cloudflare")
        for n in range(3)
    ]


@pytest.fixture(params=["me", "users"])
def path(request, alice):
    return (
        "/apiv1/me/dns-providers"
        if request.param == "me"
        else f"/apiv1/users/{alice.pk}/dns-providers"
    )


def ids(response):
    return [row["id"] for row in response.data_member]


def assert_forbidden(response):
    assert (response.status_code, response.error["code"]) == (403, 5022)


def test_a_star_sees_all_rows(key_client, alice, three, path):
    client = key_client(alice, "dns_providers:*[read]")
    assert ids(client.get(path)) == [row.pk for row in reversed(three)]
    assert client.get(f"{path}/{three[0].pk}").status_code == 200


def test_concrete_ids_see_just_those_rows(key_client, alice, three, path):
    client = key_client(
        alice, f"dns_providers:{three[0].pk}[read]", f"dns_providers:{three[2].pk}[read]"
    )
    assert ids(client.get(path)) == [three[2].pk, three[0].pk]
    assert client.get(f"{path}/{three[0].pk}").status_code == 200
    assert_forbidden(client.get(f"{path}/{three[1].pk}"))


def test_an_action_on_one_row_does_not_spread_to_the_next(key_client, alice, three, path):
    client = key_client(
        alice, f"dns_providers:{three[0].pk}[write]", f"dns_providers:{three[1].pk}[read]"
    )
    assert ids(client.get(path)) == [three[1].pk]
    assert client.delete(f"{path}/{three[0].pk}").status_code == 204
    assert_forbidden(client.delete(f"{path}/{three[1].pk}"))
    assert_forbidden(client.get(f"{path}/{three[0].pk}"))


def test_reading_is_not_writing(key_client, alice, three, path):
    client = key_client(alice, "dns_providers:*[read]")
    assert_forbidden(client.post(path, {}))
    assert_forbidden(client.delete(f"{path}/{three[0].pk}"))
    assert DnsCredential.objects.filter(retired_at=None).count() == 3


def test_writing_is_not_reading(key_client, alice, three, path):
    client = key_client(alice, "dns_providers:*[write]")
    assert_forbidden(client.get(path))
    assert_forbidden(client.get(f"{path}/{three[0].pk}"))


def test_making_a_row_needs_the_star(key_client, alice, three, path):
    assert_forbidden(key_client(alice, f"dns_providers:{three[0].pk}[write]").post(path, {}))
    assert key_client(alice, "dns_providers:*[write]").post(path, {}).status_code == 400


def test_a_grant_of_another_type_is_none(key_client, alice, three, path):
    client = key_client(alice, f"certificates:{three[0].pk}[read]", "acme_accounts:*[read,write]")
    assert_forbidden(client.get(path))
    assert_forbidden(client.get(f"{path}/{three[0].pk}"))


def test_a_key_without_any_grant_opens_nothing(key_client, alice, three, path):
    assert_forbidden(key_client(alice).get(path))


def test_a_star_is_a_star_over_the_owners_rows_only(key_client, bob, three):
    client = key_client(bob, "dns_providers:*[read,write]")
    assert client.get("/apiv1/me/dns-providers").data_member == []
    assert client.get(f"/apiv1/me/dns-providers/{three[0].pk}").status_code == 404
    assert client.delete(f"/apiv1/me/dns-providers/{three[0].pk}").status_code == 404


def test_a_concrete_id_of_somebody_elses_row_is_404(key_client, bob, three):
    client = key_client(bob, f"dns_providers:{three[0].pk}[read,write]")
    assert client.get("/apiv1/me/dns-providers").data_member == []
    assert client.get(f"/apiv1/me/dns-providers/{three[0].pk}").status_code == 404


def test_a_refusal_says_what_is_lacking(key_client, alice, three, path):
    client = key_client(alice, "dns_providers:*[read]")
    assert client.delete(f"{path}/{three[0].pk}").error["params"] == {
        "needs": f"dns_providers:{three[0].pk}[write]"
    }
    assert "dns_providers:*[write]" in client.post(path, {}).error["what"]


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_key_makes_and_sees_no_keys(key_client, alice, method):
    assert_forbidden(
        getattr(key_client(alice, "devices:*[read,write]"), method)("/apiv1/me/apikeys")
    )


@pytest.mark.parametrize(("path", "status"), [("/auth/profile", 401), ("/auth/status", 200)])
def test_a_key_is_no_session(key_client, alice, path, status):
    response = key_client(alice, "devices:*[read]").get(path)
    assert response.status_code == status
    assert response.error["code"] in (5104, 999999)


def test_a_key_where_a_session_is_needed_is_told_so(key_client, alice):
    what = key_client(alice, "devices:*[read]").get("/auth/profile").error["what"]
    assert "An API key cannot do this." in what


def test_a_session_needs_no_grant(client_of, alice, three, path):
    assert len(ids(client_of(alice).get(path))) == 3
