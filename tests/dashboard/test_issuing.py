"""The form that issues a certificate."""

import pytest

from authorities import accounts, catalog, privateca
from dashboard import issuing
from issuance.models import Certificate, Issuance
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def form(account, credential):
    return {
        "names": "example.com, *.example.com",
        "account": account.pk,
        "credential": credential.pk,
        "policy": "HYBRID",
        "auto_renew": "on",
        "action": "issue",
        "form_key": "a-key",
    }


def test_the_button_starts_an_attempt_and_shows_it(visitor, form, world):
    answer = visitor.post("/issue", form)
    attempt = Issuance.objects.get()
    assert (
        answer.headers["Location"]
        == f"/certificates/{attempt.certificate_id}/attempts/{attempt.pk}"
    )
    assert attempt.certificate.names == ["example.com", "*.example.com"]
    page = visitor.get(answer.headers["Location"]).content.decode()
    assert 'sse-swap="moved"' in page
    world.deliver()
    world.settle()
    page = visitor.get(answer.headers["Location"]).content.decode()
    assert 'data-state="issued"' in page
    assert "hx-trigger" not in page


def test_a_form_that_is_sent_twice_makes_one_certificate(visitor, form, world):
    first = visitor.post("/issue", form)
    world.deliver()
    world.settle()
    world.advance(3600)
    assert visitor.post("/issue", form).headers["Location"] == first.headers["Location"]
    assert Certificate.objects.count() == 1


def test_the_same_key_with_other_names_is_refused_with_a_new_key(visitor, form):
    visitor.post("/issue", form)
    answer = visitor.post("/issue", form | {"names": "other.example.com"})
    assert answer.status_code == 409
    assert "other.example.com" in answer.content.decode()
    assert answer.context["form_key"] != "a-key"
    assert Certificate.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"names": ""}, 400),
        ({"names": "under_score.example.com"}, 400),
        ({"names": "<script>alert(1)</script>.example.com"}, 400),
        ({"account": ""}, 400),
        ({"account": "999"}, 404),
        ({"credential": "999"}, 404),
        ({"credential": ""}, 400),
        ({"key": "dsa-1"}, 400),
        ({"policy": "EVERYBODY"}, 400),
        ({"before": "-1"}, 400),
        ({"fallback": "999"}, 404),
        ({"names": "x.example.com " * 3000}, 400),
    ],
)
def test_a_bad_form_comes_back_and_leaves_nothing(visitor, form, change, status):
    answer = visitor.post("/issue", form | change)
    assert answer.status_code in (status, 302 if "x.example" in change.get("names", "") else status)
    if answer.status_code != 302:
        assert 'role="alert"' in answer.content.decode()
        assert "<script>alert" not in answer.content.decode()
        assert Certificate.objects.count() == 0


def test_names_are_separated_by_the_commas_of_chinese_too(visitor, form):
    commas = "\N{FULLWIDTH COMMA}\N{IDEOGRAPHIC COMMA}\N{FULLWIDTH SEMICOLON}"
    names = "a.org{}b.org{}c.org{}d.org".format(*commas)
    checked = visitor.post("/issue/names", form | {"names": names}).context["checked"]
    assert [each.typed for each in checked] == ["a.org", "b.org", "c.org", "d.org"]


def test_names_are_checked_as_they_are_typed(visitor, form):
    names = "Example.com bad_name.org <b>x</b> example.com *.example.com www.example.com"
    answer = visitor.post("/issue/names", form | {"names": names}, headers={"HX-Request": "true"})
    text = answer.content.decode()
    assert "<html" not in text
    assert "<b>x</b>" not in text
    assert [each.wrong == "" for each in answer.context["checked"]] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert Certificate.objects.count() == 0


def test_the_wildcard_is_offered_with_its_base(visitor, form):
    answer = visitor.post("/issue/names", form | {"names": "shop.example.com"})
    assert answer.context["companions"] == ["*.shop.example.com"]
    visitor.post("/issue", form | {"names": "shop.example.com", "also": "*.shop.example.com"})
    assert Certificate.objects.get().names == ["shop.example.com", "*.shop.example.com"]


def test_a_look_shows_findings_and_orders_nothing(visitor, form, world, monkeypatch):
    form |= {"action": "look"}
    answer = visitor.post("/issue", form)
    assert answer.status_code == 200
    assert answer.context["looked"]
    assert "findings" in answer.context
    assert Certificate.objects.count() == 0


def test_a_private_ca_issues_at_once(visitor, alice):
    private_ca = privateca.create_private_ca(alice, {"name": "lab"})
    account = accounts.account_of_private_ca(private_ca)
    form = {"names": "printer 192.0.2.7", "account": account.pk, "action": "issue"}
    answer = visitor.post("/issue", form)
    assert Issuance.objects.get().state == Issuance.State.ISSUED
    assert 'data-state="issued"' in visitor.get(answer.headers["Location"]).content.decode()


def test_the_form_begins_with_the_choices_of_the_last_certificate(visitor, certificate):
    given = visitor.get("/issue").context["given"]
    assert given["account"] == certificate.account_id
    assert given["credential"] == certificate.credential_id


def test_only_the_first_names_are_checked():
    names = [f"host{number}.example.com" for number in range(issuing.MOST_CHECKED + 5)]
    assert len(issuing.checked(names, private=False)) == issuing.MOST_CHECKED


def test_a_device_proves_the_names(visitor, form, alice):
    device = factories.device(alice)
    by_agent = form | {"names": "www.example.com", "method": "http-01", "device": device.pk}
    assert visitor.post("/issue", by_agent).status_code == 302
    certificate = Certificate.objects.get()
    assert (certificate.verify_method, certificate.verify_device) == ("http-01", device)
    assert certificate.credential is None


@pytest.mark.parametrize("names", ["*.example.com", "www.example.com"])
def test_a_device_proves_no_wildcard_and_must_be_there(visitor, form, names):
    refused = visitor.post("/issue", form | {"names": names, "method": "tls-alpn-01"})
    assert refused.status_code == 400
    assert not Certificate.objects.exists()


def test_the_same_names_are_noted_before_the_button(visitor, form, certificate, bob, world):
    names = "EXAMPLE.com www.example.com"  # as the certificate's, in another order
    answer = visitor.post("/issue/names", form | {"names": names}, headers={"HX-Request": "true"})
    assert f'href="/certificates/{certificate.pk}"' in answer.content.decode()
    answer = visitor.post("/issue/names", form | {"names": "www.example.com"})
    assert answer.context["same"] == []
    also = form | {"names": "www.example.com", "also": "example.com"}
    assert len(visitor.post("/issue/names", also).context["same"]) == 1


def test_the_note_says_what_a_second_one_costs(visitor, form, certificate, alice, world):
    url = catalog.info("letsencrypt").directory_url
    account = world.account(alice, ca_provider="letsencrypt", directory_url=url)
    names = form | {"names": "example.com www.example.com", "account": account.pk}
    limit = visitor.post("/issue/names", names).context["limit"]
    assert (limit["capacity"], limit["left"], limit["days"]) == (5, 5, 7)


def test_a_second_one_is_made_only_when_it_is_confirmed(visitor, form, certificate):
    form |= {"names": "www.example.com example.com"}
    asked = visitor.post("/issue", form)
    assert asked.status_code == 409
    assert 'name="second"' in asked.content.decode()
    assert Certificate.objects.count() == 1
    assert visitor.post("/issue", form | {"second": "on"}).status_code == 302
    assert Certificate.objects.count() == 2


def test_names_of_another_owner_are_not_noted(bobs_visitor, form, certificate):
    answer = bobs_visitor.post("/issue/names", form | {"names": "www.example.com example.com"})
    assert answer.context["same"] == []
    assert f"/certificates/{certificate.pk}" not in answer.content.decode()


def test_a_name_is_left_out_by_its_button(visitor, form):
    form |= {"names": "example.com bad_name.org *.example.com", "leave": "bad_name.org"}
    page = visitor.post("/issue", form)
    assert page.context["given"]["names"].split() == ["example.com", "*.example.com"]
    assert Certificate.objects.count() == 0


def test_the_wildcard_pasted_with_its_base_is_not_offered_again(visitor, form):
    pasted = "example.com\n*.example.com;shop.example.net,\t*.shop.example.net"
    answer = visitor.post("/issue/names", form | {"names": pasted})
    assert answer.context["good"] == 4
    assert answer.context["companions"] == []
