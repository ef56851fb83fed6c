"""`staging_first` over HTTP: the staging account, and which rows may be deleted."""

import pytest

from authorities.models import AcmeAccount
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db

BODY = {
    "ca_provider": "letsencrypt",
    "email": "alice@example.org",
    "terms_accepted": True,
    "name": "mine",
}


@pytest.fixture
def made(api) -> dict:
    return api.post("acme-accounts", BODY | {"staging_first": True}).data_member


def test_a_staging_account_has_the_same_address_and_its_own_key(made):
    main, staging = AcmeAccount.objects.order_by("pk")
    assert (made["staging_first"], made["staging_account_id"]) == (True, staging.pk)
    assert (staging.ca_provider, staging.email, staging.name) == (
        "letsencrypt_staging",
        "alice@example.org",
        "mine (staging)",
    )
    assert staging.directory_url == "https://acme-staging-v02.api.letsencrypt.org/directory"
    assert staging.thumbprint != main.thumbprint
    assert (staging.staging_first, staging.staging_account, staging.owner) == (
        False,
        None,
        main.owner,
    )


def test_both_register_at_their_own_ca(world, made):
    world.deliver()
    urls = list(AcmeAccount.objects.order_by("pk").values_list("url", flat=True))
    assert [url.partition("/acct")[0] for url in urls] == [
        "https://ca.test",
        "https://staging.test",
    ]


def test_it_is_listed_as_any_other(api, made):
    assert {each["id"] for each in api.get("acme-accounts").data_member} == {
        made["id"],
        made["staging_account_id"],
    }


def test_it_can_be_switched_on_later_once(world, api):
    pk = api.post("acme-accounts", BODY).data_member["id"]
    for _ in range(2):
        changed = api.put(f"acme-accounts/{pk}", {"staging_first": True}).data_member
    assert changed["staging_account_id"] == AcmeAccount.objects.exclude(pk=pk).get().pk
    world.deliver()
    world.sweep()
    assert set(AcmeAccount.objects.values_list("status", flat=True)) == {"valid"}


def test_switched_off_and_on_again_it_has_the_same_account(api, made):
    path = f"acme-accounts/{made['id']}"
    assert api.put(path, {"staging_first": False}).data_member["staging_first"] is False
    assert api.put(path, {"name": "other"}).data_member["staging_first"] is False
    again = api.put(path, {"staging_first": True}).data_member
    assert (again["staging_first"], again["staging_account_id"]) == (
        True,
        made["staging_account_id"],
    )
    assert AcmeAccount.objects.count() == 2


def test_the_response_of_a_get_may_be_sent_back_whole(api, made):
    path = f"acme-accounts/{made['id']}"
    before = api.get(path).data_member
    after = api.put(path, before).data_member
    assert {name for name in before if before[name] != after[name]} <= {"updated_at"}


@pytest.mark.parametrize("ca_provider", ["letsencrypt_staging", "zerossl", "custom"])
def test_a_ca_without_staging_is_refused_in_a_sentence(api, ca_provider):
    before = rows()
    body = BODY | {"ca_provider": ca_provider, "staging_first": True, "directory_url": ""}
    what = refused(api.post("acme-accounts", body), 400, "staging_first")
    assert "staging_first is possible with letsencrypt" in what
    assert rows() == before


def test_an_account_of_such_a_ca_does_not_get_it_later(api, account):
    before = rows()
    path = f"acme-accounts/{account.pk}"
    refused(api.put(path, {"staging_first": True, "name": "other"}), 400, "staging_first")
    assert rows() == before
    assert api.get(path).data_member["name"] == account.name


def test_settings_give_a_ca_its_staging(api, settings):
    settings.ACME_CAS = {
        "corporate": {"directory_url": "https://ca.corp.example/dir", "staging": "corporate_test"},
        "corporate_test": {"directory_url": "https://test.corp.example/dir"},
    }
    made = api.post(
        "acme-accounts", BODY | {"ca_provider": "corporate", "staging_first": True}
    ).data_member
    assert AcmeAccount.objects.get(pk=made["staging_account_id"]).ca_provider == "corporate_test"


# --- deleting ---


def test_the_staging_account_stays_as_long_as_it_proves(api, made):
    path = f"acme-accounts/{made['staging_account_id']}"
    assert "is the staging account of mine" in refused(api.delete(path), 409)
    api.put(f"acme-accounts/{made['id']}", {"staging_first": False})
    assert api.delete(path).status_code == 204


def test_after_that_another_one_is_made(api, made):
    api.put(f"acme-accounts/{made['id']}", {"staging_first": False})
    api.delete(f"acme-accounts/{made['staging_account_id']}")
    again = api.put(f"acme-accounts/{made['id']}", {"staging_first": True}).data_member
    assert again["staging_account_id"] not in (None, made["staging_account_id"])


def test_it_goes_with_the_account_that_it_proves_for(api, made):
    assert api.delete(f"acme-accounts/{made['id']}").status_code == 204
    assert api.get("acme-accounts").data_member == []


def test_it_stays_where_a_certificate_uses_it(api, guide, made):
    api.post("certificates", guide(acme_account_id=made["staging_account_id"]))
    assert api.delete(f"acme-accounts/{made['id']}").status_code == 204
    assert api.get(f"acme-accounts/{made['staging_account_id']}").status_code == 200
