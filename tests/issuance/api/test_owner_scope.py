"""Rows of other owners are 404, and an API key reaches only the rows it was granted."""

import pytest

from authorities.models import AcmeAccount
from issuance.models import Certificate
from tests.issuance.api.calling import refused, rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def attempt(issued):
    return issued.issuances.get()


def test_a_strangers_certificate_is_404_whatever_is_asked_of_it(bobs, issued, attempt):
    before = rows()
    path = f"certificates/{issued.pk}"
    asked = [
        ("get", path),
        ("get", f"{path}?detail=most"),
        ("put", path),
        ("delete", path),
        ("get", f"{path}/issues"),
        ("get", f"{path}/issues/history"),
        ("get", f"{path}/histories"),
        ("get", f"{path}/issue-result"),
        ("get", f"{path}/issues/{attempt.pk}/events"),
        ("get", f"{path}/export"),
        ("post", f"{path}/issues"),
        ("post", f"{path}/renew"),
        ("post", f"{path}/cancel"),
        ("post", f"{path}/revoke"),
        ("post", f"{path}/preflight"),
    ]
    for method, each in asked:
        answer = getattr(bobs, method)(each)
        refused(answer, 404)
        assert answer.error["code"] == 5003, each
    assert rows() == before


def test_a_strangers_account_credential_and_ca_cannot_be_used(
    world, bobs, bob, guide, account, credential
):
    theirs = world.account(bob)
    zone = world.credential(bob)
    before = rows()
    refused(bobs.post("certificates", guide(dns_provider_id=zone.pk)), 404, "acme_account_id")
    refused(bobs.post("certificates", guide(acme_account_id=theirs.pk)), 404, "dns_provider_id")
    assert rows() == before


def test_a_strangers_rows_of_other_kinds_are_404(api, bobs, account, credential):
    ca = api.post("cas", {"name": "Root"}).data_member["id"]
    before = rows()
    for path in (f"acme-accounts/{account.pk}", f"dns-providers/{credential.pk}", f"cas/{ca}"):
        for method in ("get", "delete"):
            refused(getattr(bobs, method)(path), 404)
    refused(bobs.put(f"acme-accounts/{account.pk}", {"name": "mine"}), 404)
    refused(bobs.put(f"dns-providers/{credential.pk}", {"name": "mine"}), 404)
    refused(bobs.post(f"dns-providers/{credential.pk}/check"), 404)
    refused(bobs.post(f"acme-accounts/{account.pk}/register"), 404)
    refused(bobs.get(f"acme-accounts/{account.pk}/certificates"), 404)
    refused(bobs.post(f"cas/{ca}/issue", {"domain_name": "example.com"}), 404)
    refused(bobs.post("acme-accounts", {"provider": "SELF_CA", "ca_id": ca}), 404, "ca_id")
    assert rows() == before


def test_lists_hold_ones_own_rows_only(api, bobs, issued, credential):
    for path in ("certificates", "acme-accounts", "dns-providers"):
        assert len(api.get(path).data_member) == 1
        assert bobs.get(path).data_member == []


def test_a_certificate_cannot_use_a_strangers_account_or_credential(world, api, bob, issued):
    theirs = world.account(bob)
    zone = world.credential(bob)
    refused(
        api.put(f"certificates/{issued.pk}", {"acme_account_id": theirs.pk}), 404, "acme_account_id"
    )
    refused(
        api.put(f"certificates/{issued.pk}", {"dns_provider_id": zone.pk}), 404, "dns_provider_id"
    )
    issued.refresh_from_db()
    assert issued.account_id != theirs.pk


# --- API keys (contract, section 6) ---


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("certificates:*[read]", {"list", "detail", "history", "result", "events", "export"}),
        ("certificates:*[issue]", {"issues", "renew"}),
        ("certificates:*[write]", {"create", "update", "delete"}),
        ("devices:*[read,write]", set()),
        ("acme_accounts:*[read]", {"accounts"}),
        ("dns_providers:*[read]", {"credentials"}),
        ("cas:*[read]", {"cas"}),
    ],
)
def test_a_key_does_what_its_permissions_say_and_nothing_else(
    keyed, issued, attempt, reference, scope, allowed
):
    script = keyed(scope)
    path = f"certificates/{issued.pk}"
    done = {
        "list": script.get("certificates"),
        "detail": script.get(path),
        "history": script.get(f"{path}/issues"),
        "result": script.get(f"{path}/issue-result"),
        "events": script.get(f"{path}/issues/{attempt.pk}/events"),
        "export": script.get(f"{path}/export"),
        "issues": script.post(f"{path}/issues"),
        "renew": script.post(f"{path}/renew"),
        "create": script.post("certificates", reference(domain_name="example.org")),
        "update": script.put(path, {"auto_renew": False}),
        "accounts": script.get("acme-accounts"),
        "credentials": script.get("dns-providers"),
        "cas": script.get("cas"),
        "delete": script.delete(path),
    }
    assert {name for name, answer in done.items() if answer.status_code < 300} == allowed
    for name in set(done) - allowed:
        refused(done[name], 403)
        assert done[name].error["code"] == 5022


def test_a_key_for_one_certificate_reaches_that_one_and_lists_only_it(
    world, api, keyed, issued, reference
):
    other = api.post("certificates", reference(domain_name="example.org")).data_member["id"]
    script = keyed(f"certificates:{issued.pk}[read,issue]")
    assert [row["id"] for row in script.get("certificates").data_member] == [issued.pk]
    assert script.get("certificates?total=1").headers["X-Total-Count"] == "1"
    assert (
        script.get(f"acme-accounts/{issued.account_id}/certificates").data_member[0]["id"]
        == issued.pk
    )
    assert script.get(f"certificates/{issued.pk}").status_code == 200
    assert script.post(f"certificates/{issued.pk}/renew").status_code == 200
    refused(script.get(f"certificates/{other}"), 403)
    refused(script.post(f"certificates/{other}/issues"), 403)


def test_a_key_for_one_certificate_makes_no_other(keyed, issued, reference):
    before = Certificate.objects.count()
    refused(
        keyed(f"certificates:{issued.pk}[write]").post(
            "certificates", reference(domain_name="example.org")
        ),
        403,
    )
    assert Certificate.objects.count() == before


def test_a_key_works_below_its_owners_id_too_and_below_no_other(key_client, alice, bob, issued):
    script = key_client(alice, "certificates:*[read]")
    assert script.get(f"/apiv1/users/{alice.pk}/certificates").data_member[0]["id"] == issued.pk
    refused(script.get(f"/apiv1/users/{bob.pk}/certificates"), 403)


def test_a_create_that_issues_at_once_needs_both_scopes(world, keyed, guide):
    before = rows()
    for scopes in (["certificates:*[write]"], ["certificates:*[write]", "certificates:1[issue]"]):
        answer = keyed(*scopes).post("certificates", guide())
        assert "certificates:*[issue]" in refused(answer, 403)
        assert answer.error["params"] == {"needs": "certificates:*[issue]"}
    refused(keyed("certificates:*[issue]").post("certificates", guide()), 403)
    assert rows() == before | {"accounts.ApiKey": 3}
    assert keyed("certificates:*[write,issue]").post("certificates", guide()).status_code == 201


def test_a_change_of_account_issues_and_needs_both_scopes(world, keyed, owner, issued):
    path = f"certificates/{issued.pk}"
    production = world.account(owner)
    writer = keyed("certificates:*[write]", f"certificates:{issued.pk + 1}[issue]")
    what = refused(writer.put(path, {"acme_account_id": production.pk}), 403)
    assert f"certificates:{issued.pk}[issue]" in what
    assert (
        writer.put(path, {"acme_account_id": issued.account_id, "auto_renew": False}).status_code
        == 200
    )
    assert issued.issuances.count() == 1
    both = keyed("certificates:*[write]", f"certificates:{issued.pk}[issue]")
    assert both.put(path, {"acme_account_id": production.pk}).status_code == 200
    assert issued.issuances.count() == 2


def test_a_key_that_writes_accounts_registers_none_without_the_scope(keyed, account):
    refused(keyed("acme_accounts:*[read]").post(f"acme-accounts/{account.pk}/register"), 403)
    assert (
        keyed("acme_accounts:*[write]").post(f"acme-accounts/{account.pk}/register").status_code
        == 200
    )
    assert AcmeAccount.objects.count() == 1
