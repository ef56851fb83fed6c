"""Quotas of an owner: checked before a row is made, shown, and raised by staff."""

import threading

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from accounts import quotas
from accounts.models import ApiKey, AuditEvent, User
from authorities import accounts
from authorities.models import AcmeAccount, PrivateCA
from devices import codes
from devices.models import Device, DeviceCode
from dnsproviders import credentials
from dnsproviders.models import DnsCredential
from issuance import services
from issuance.models import Certificate, Issuance
from notices.models import Webhook
from tests import factories
from tests.devices.agent import Agent

pytestmark = pytest.mark.django_db
KEY = {
    "name": "ci",
    "expires_in_seconds": 60,
    "permissions": [factories.permission("devices:*[read]")],
}
HOOK = {"url": "https://hooks.example.com/certctrl"}
CLOUDFLARE = {"provider": "cloudflare", "api_token": "a-token"}
ACCOUNT = {"ca_provider": "letsencrypt", "email": "a@example.org", "terms_accepted": True}


@pytest.fixture
def api(world, client_of, alice):
    return client_of(alice)


@pytest.fixture
def limited(settings):
    """Two rows of everything."""
    settings.QUOTAS = dict.fromkeys(quotas.QUOTAS, 2)


def certificate_body(world, owner, number):
    account = AcmeAccount.objects.filter(owner=owner).first() or world.account(owner)
    credential = DnsCredential.objects.filter(owner=owner).first() or world.credential(owner)
    return {
        "domain_name": f"n{number}.example.com",
        "acct_id": account.pk,
        "dns_provider_id": credential.pk,
    }


def device_body(world, owner, number):
    """A device that enrols with a code that its owner approved."""
    device_code = codes.start(interval=5, expires_in=900, origin="https://certctrl.test")[
        "device_code"
    ]
    DeviceCode.objects.filter(user=None).update(user=owner, decision="approved")
    return Agent().body(registration_code=codes.poll(device_code)["registration_code"])


CREATES = {
    "api_keys": ("apikeys", ApiKey, lambda world, owner, number: KEY),
    "dns_credentials": ("dns-providers", DnsCredential, lambda world, owner, number: CLOUDFLARE),
    "acme_accounts": ("acme-accounts", AcmeAccount, lambda world, owner, number: ACCOUNT),
    "private_cas": ("cas", PrivateCA, lambda world, owner, number: {"name": f"CA {number}"}),
    "certificates": ("certificates", Certificate, certificate_body),
    "devices": ("devices", Device, device_body),
    "webhooks": ("webhooks", Webhook, lambda world, owner, number: HOOK),
}


def create(client, world, owner, name, number):
    path, _, body = CREATES[name]
    return client.post(f"/apiv1/me/{path}", body(world, owner, number))


def usage(client):
    return {
        row["name"]: (row["used"], row["limit"])
        for row in client.get("/apiv1/me/quotas").data_member
    }


@pytest.mark.parametrize("name", CREATES)
def test_one_too_many_is_refused_with_the_limit_and_who_can_raise_it(
    limited, api, world, alice, name
):
    for number in range(2):
        assert create(api, world, alice, name, number).status_code == 201
    events = AuditEvent.objects.count()
    answer = create(api, world, alice, name, 3)
    assert answer.status_code == 409, answer.content
    assert answer.error["key"] == (
        "GENERAL::CONFLICT" if name == "webhooks" else "GENERAL::QUOTA_EXCEEDED"
    )
    assert answer.error["params"] == {"quota": name, "limit": 2, "used": 2}
    for words in ("You have 2 ", "the limit is 2", "staff"):
        assert words in answer.error["what"]
    assert CREATES[name][1].objects.filter(owner=alice).count() == 2
    assert AuditEvent.objects.count() == events
    assert usage(api)[name] == (2, 2)


@pytest.mark.parametrize("name", CREATES)
def test_deleted_rows_make_room(limited, api, world, alice, name):
    for number in range(2):
        create(api, world, alice, name, number)
    path = f"/apiv1/me/{CREATES[name][0]}"
    assert api.delete(f"{path}/{api.get(path).data_member[0]['id']}").status_code == 204
    assert create(api, world, alice, name, 3).status_code == 201
    assert create(api, world, alice, name, 4).status_code == 409


@pytest.mark.parametrize("name", CREATES)
def test_rows_of_other_owners_do_not_count(limited, api, client_of, world, alice, bob, name):
    for number in range(2):
        create(api, world, alice, name, number)
    assert create(client_of(bob), world, bob, name, 1).status_code == 201


def test_attempts_that_are_open_count_and_renewals_are_never_refused(limited, world, alice, api):
    alice.quotas = {"certificates": 10}
    alice.save()
    bodies = [certificate_body(world, alice, number) for number in range(3)]
    made = [api.post("/apiv1/me/certificates", body).data_member["id"] for body in bodies]
    for pk in made[:2]:
        assert api.post(f"/apiv1/me/certificates/{pk}/issues").status_code == 200
        assert api.post(f"/apiv1/me/certificates/{pk}/issues").status_code == 200, (
            "it is the open one"
        )
    refused = api.post(f"/apiv1/me/certificates/{made[2]}/issues")
    assert (refused.status_code, refused.error["params"]["quota"]) == (409, "open_attempts")
    assert usage(api)["open_attempts"] == (2, 2)
    late = Certificate.objects.get(pk=made[2])
    services.open_issuance(late, Issuance.Reason.RENEWAL)
    world.deliver()
    assert Certificate.objects.filter(owner=alice, current__isnull=False).count() == 2


def test_the_second_account_of_staging_first_counts_too(limited, world, alice):
    accounts.create_account(alice, ACCOUNT)
    with pytest.raises(Exception, match="ACME accounts"):
        accounts.create_account(alice, ACCOUNT | {"staging_first": True})
    assert AcmeAccount.objects.filter(owner=alice).count() == 1, "none is left behind"


@pytest.mark.parametrize("name", ["api_keys", "private_cas"])
def test_staff_have_no_limit_unless_it_is_theirs(limited, world, client_of, name):
    root = factories.UserFactory(email="root@example.org", is_staff=True)
    client = client_of(root)
    for number in range(3):
        assert create(client, world, root, name, number).status_code == 201
    assert usage(client)[name] == (3, None)
    root.quotas = {name: 3}
    root.save()
    assert create(client, world, root, name, 4).status_code == 409


@pytest.mark.parametrize(("own", "more"), [(3, 1), (None, 4), (0, 0), (1, 0)])
def test_an_owners_own_quota_comes_first(limited, world, api, alice, own, more):
    for number in range(2):
        create(api, world, alice, "dns_credentials", number)
    alice.quotas = {"dns_credentials": own}
    alice.save()
    codes = [
        create(api, world, alice, "dns_credentials", number).status_code for number in range(4)
    ]
    assert codes == [201] * more + [409] * (4 - more)
    assert usage(api)["dns_credentials"] == (2 + more, own)


def test_out_of_the_box_a_team_with_fifty_thousand_names_is_not_held_up(alice):
    assert quotas.most(alice, "certificates") >= 50_000
    assert quotas.most(alice, "open_attempts") >= 50_000
    assert all(0 < quotas.most(alice, name) <= 100_000 for name in quotas.QUOTAS)


def test_a_key_that_may_read_quotas_sees_them(key_client, alice):
    assert key_client(alice, "quotas:*[read]").get("/apiv1/me/quotas").status_code == 200
    assert key_client(alice, "certificates:*[read]").get("/apiv1/me/quotas").status_code == 403
    assert (
        key_client(alice, "quotas:*[read]").get(f"/apiv1/users/{alice.pk}/quotas").status_code
        == 200
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([1], "JSON object"),
        ({"certs": 1}, "no quota certs"),
        ({"webhooks": -1}, "whole"),
        ({"webhooks": "9"}, "whole"),
    ],
)
def test_an_invalid_quota_setting_is_reported_at_the_start(settings, wrong, words):
    settings.QUOTAS = wrong
    with pytest.raises(ImproperlyConfigured, match=words):
        quotas.check_setting()


# --- staff see and raise them ---


def change(client, user, **fields):
    body = {"email": user.email, "name": user.name, "kind": "person", "is_active": "on"}
    body |= {"language": user.language, **fields}
    return client.post(f"/admin/accounts/user/{user.pk}/change/", body, format="multipart")


@pytest.fixture
def root(client_of):
    return client_of(
        factories.UserFactory(email="root@example.org", is_staff=True, is_superuser=True)
    )


def test_staff_see_what_is_used_and_raise_it(root, alice):
    page = root.get(f"/admin/accounts/user/{alice.pk}/change/").content.decode()
    assert "certificates: 0 of 100000" in page
    assert change(root, alice, quotas='{"certificates": 200000}').status_code == 302
    alice.refresh_from_db()
    assert alice.quotas == {"certificates": 200_000}
    assert AuditEvent.objects.get(action="user.changed").detail["quotas"] == {
        "certificates": 200_000
    }
    assert change(root, alice, quotas="").status_code == 302
    alice.refresh_from_db()
    assert alice.quotas == {}


@pytest.mark.parametrize("wrong", ['{"certs": 1}', '{"webhooks": "many"}', "[]5", "[1]"])
def test_an_invalid_quota_is_reported_to_staff(root, alice, wrong):
    answer = change(root, alice, quotas=wrong)
    assert answer.status_code == 200
    assert "errorlist" in answer.content.decode() or "error" in answer.content.decode()
    alice.refresh_from_db()
    assert alice.quotas == {}


# --- at once ---


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_many_at_once_do_not_pass_it(settings):
    settings.QUOTAS = {"dns_credentials": 3}
    owner = User.objects.create_user("owner@example.com")
    start = threading.Barrier(8)
    refused = []

    def one():
        try:
            start.wait()
            credentials.create_credential(owner, CLOUDFLARE)
        except quotas.QuotaExceeded:
            refused.append(1)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (DnsCredential.objects.count(), len(refused)) == (3, 5)


def test_a_create_of_staff_without_a_limit_reads_none_of_their_rows(
    world, django_assert_num_queries
):
    root = factories.UserFactory(email="root@example.org", is_staff=True)
    with transaction.atomic(), django_assert_num_queries(1):
        quotas.refuse_more(root, "certificates")


def test_a_create_reads_no_more_rows_than_the_limit(limited, world, alice):
    with transaction.atomic(), CaptureQueriesContext(connection) as ran:
        quotas.refuse_more(alice, "certificates")
    assert [each["sql"] for each in ran if "COUNT(" in each["sql"]] == []
    assert "LIMIT 1 OFFSET 1" in ran[-1]["sql"]
