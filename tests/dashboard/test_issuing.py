"""The form that issues a certificate."""

import json
import shlex

import pytest
from django.utils.html import escape

from authorities import accounts, catalog, privateca
from certctrl import clock
from dashboard import issuing
from issuance import services
from issuance.beat import renewals
from issuance.models import Certificate, Issuance
from issuance.preflight import Finding
from tests import factories
from tests.issuance.failing import issued

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


LIVE = {"HX-Request": "true"}


def typed(visitor, form, **changed):
    """Return the context of the parts that come back while a person types."""
    return visitor.post("/issue/names", form | changed, headers=LIVE).context


def test_the_table_says_how_each_zone_is_proved(visitor, form, credential):
    page = visitor.post("/issue/names", form, headers=LIVE)
    (row,) = page.context["proofs"]
    assert (row.proof.zone, row.by) == ("example.com", credential.name)
    assert row.condition.word == "not asked yet"
    shown = page.content.decode()
    assert "_acme-challenge.example.com" in shown
    assert shown.count("hx-swap-oob") == 5
    assert "hx-swap-oob" not in visitor.get("/issue").content.decode()


def test_a_refused_credential_is_told_before_an_order(visitor, form, credential):
    credential.last_error = "Cloudflare refused the token."
    credential.checked_at = clock.now()
    credential.save()
    page = visitor.post("/issue/names", form)
    (row,) = page.context["proofs"]
    assert (row.condition.word, row.replaces) == ("refused", True)
    assert "Replace the token" in page.content.decode()


def test_a_look_says_that_the_credential_sees_the_zone(visitor, form, world):
    page = visitor.post("/issue", form | {"action": "look"}, headers=LIVE)
    (row,) = page.context["proofs"]
    assert row.condition.word == "sees the zone"
    assert "Nothing speaks against it" in page.content.decode()
    assert "every 60s" not in page.content.decode()


@pytest.fixture
def forbidden(monkeypatch):
    fix = 'example.com. CAA 0 issue "letsencrypt.org"'
    found = Finding("caa_forbids", "example.com", "example.com CAA", "Forbidden <b>.", fix=fix)
    monkeypatch.setattr(services, "look", lambda owner, spec: services.Looked([found], []))
    return fix


def test_a_finding_has_the_record_to_copy_and_looks_again(visitor, form, forbidden):
    page = visitor.post("/issue", form | {"action": "look"}, headers=LIVE)
    shown = page.content.decode()
    assert f"<code>{escape(forbidden)}</code>" in shown
    assert "Forbidden &lt;b&gt;." in shown
    assert 'hx-trigger="every 60s"' in shown
    assert "1 finding would make the CA refuse" in shown


def test_the_page_stops_to_look_by_itself(visitor, form, forbidden):
    form |= {"action": "look", "looks": issuing.MOST_LOOKS - 1}
    assert "every 60s" not in visitor.post("/issue", form, headers=LIVE).content.decode()
    without_script = visitor.post("/issue", form | {"looks": "0"}).content.decode()
    assert "every 60s" not in without_script


def test_the_credential_that_proved_the_zone_is_chosen(visitor, form, certificate, world, alice):
    other = world.credential(alice, name="other")
    names = {"names": "new.example.com", "credential": other.pk}
    chosen = typed(visitor, form, **names, matched=other.pk)
    assert chosen["given"]["credential"] == certificate.credential_id
    assert chosen["proofs"][0].condition.word == "proved it before"
    by_hand = typed(visitor, form, **names, matched=certificate.credential_id)
    assert by_hand["given"]["credential"] == str(other.pk)
    assert by_hand["proofs"][0].condition.word == f"{certificate.credential} proved it before"


def test_zones_of_two_credentials_are_told(visitor, form, certificate, world, account, alice):
    other = world.credential(alice, name="other")
    issued(world, account, other, "example.net")
    assert typed(visitor, form, names="a.example.com a.example.net")["several"]
    assert not typed(visitor, form, names="a.example.com")["several"]


def test_a_device_proves_names_without_a_record(visitor, form, alice):
    device = factories.device(alice)
    agent = {"method": "tls-alpn-01", "device": device.pk}
    (row,) = typed(visitor, form, **agent)["proofs"]
    assert (row.by, row.how) == (str(device), "tls-alpn-01: the agent answers on port 443")
    (row,) = typed(visitor, form, **agent | {"device": ""})["proofs"]
    assert row.condition.word == "choose a device"


def test_without_a_credential_the_table_asks_for_one(visitor, form, settings):
    (row,) = typed(visitor, form, credential="")["proofs"]
    assert row.condition.word == "choose a credential"
    settings.SERVICE_ZONE = "auth.example.net"
    (row,) = typed(visitor, form, credential="")["proofs"]
    assert row.by == "the service zone, by CNAME"


def test_the_summary_has_the_call_that_does_the_same(visitor, form, client_of, alice):
    shown = typed(visitor, form, names="example.com bad_name '; id #", also="*.example.com")
    assert shown["summary"]["names"] == 2
    *_before, body, _newline, url = shlex.split(shown["curl"])
    assert url.endswith("/apiv1/me/certificates")
    made = client_of(alice).post("/apiv1/me/certificates", json.loads(body))
    assert made.status_code == 201
    assert Certificate.objects.get().names == ["example.com", "*.example.com"]


def test_a_record_is_made_and_issued_later(visitor, form, world):
    answer = visitor.post("/issue", form | {"action": "later", "credential": ""}, follow=True)
    certificate = Certificate.objects.get()
    assert not Issuance.objects.exists()
    assert answer.redirect_chain == [(f"/certificates/{certificate.pk}", 302)]
    shown = answer.content.decode()
    assert "Nothing was ordered" in shown
    assert "Issue now" in shown
    assert "Renew now" not in shown
    world.sweep()
    renewals.scan_renewals.run()
    assert not Issuance.objects.exists()


def test_a_record_is_issued_by_its_button_or_by_the_api(visitor, form, client_of, alice):
    for number, call in enumerate(("page", "api")):
        names = {"names": f"{call}.example.com", "form_key": call, "action": "later"}
        visitor.post("/issue", form | names)
        certificate = Certificate.objects.latest("pk")
        if call == "page":
            visitor.post(f"/certificates/{certificate.pk}/renew")
        else:
            client_of(alice).post(f"/apiv1/me/certificates/{certificate.pk}/issues", {})
        assert Issuance.objects.count() == number + 1


def test_a_record_and_an_order_of_one_form_are_two_requests(visitor, form):
    visitor.post("/issue", form | {"action": "later"})
    assert visitor.post("/issue", form).status_code == 409
    assert not Issuance.objects.exists()


def test_bad_names_that_were_ticked_are_left_out(visitor, form):
    shown = typed(visitor, form, also=["a..b", "<b>.example.net", "\N{SNOWMAN}"])
    assert [each.proof.zone for each in shown["proofs"]] == ["example.com"]


def test_the_first_form_has_an_account_and_the_only_credential(visitor, account, credential):
    given = visitor.get("/issue?names=example.com").context["given"]
    assert (given["account"], given["credential"]) == (account.pk, credential.pk)


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
