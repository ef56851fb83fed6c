"""Actions on many certificates from the list."""

import pytest

from certctrl import clock
from issuance import services
from issuance.models import Certificate, CertificateVersion

pytestmark = pytest.mark.django_db
ADDRESS = "/certificates/bulk"


@pytest.fixture
def second(world, account, credential) -> Certificate:
    return world.create(account, credential, "new.example.org")[0]


def confirmed(page, **changes):
    """Return the form of the dry run, as its button sends it."""
    results = page.context["results"]
    form = {"do": page.context["name"], "confirmed": "1", "label": page.context["label"]}
    form |= {"id": [each.id for each in results], "form_key": page.context["form_key"]}
    return form | changes


def test_the_first_press_shows_what_will_happen(visitor, certificate, second):
    form = {"do": "renew", "id": [certificate.pk, second.pk]}
    page = visitor.post(ADDRESS, form)
    assert "Nothing is done yet" in page.content.decode()
    certificate.refresh_from_db()
    assert certificate.renew_at > clock.now()
    visitor.post(ADDRESS, confirmed(page))
    certificate.refresh_from_db()
    assert certificate.renew_at <= clock.now()


def test_a_form_that_is_sent_twice_shows_the_same_result(visitor, certificate):
    page = visitor.post(ADDRESS, {"do": "renewal_off", "id": certificate.pk})
    form = confirmed(page)
    first = visitor.post(ADDRESS, form)
    services.update_certificate(certificate, {"auto_renew": True})
    again = visitor.post(ADDRESS, form)
    assert again.context["results"] == first.context["results"]
    certificate.refresh_from_db()
    assert certificate.auto_renew


def test_a_revocation_wants_the_number_typed(visitor, certificate, second):
    page = visitor.post(ADDRESS, {"do": "revoke", "id": [certificate.pk, second.pk]})
    wrong = visitor.post(ADDRESS, confirmed(page, count="1", reason="superseded"))
    assert wrong.status_code == 400
    assert not CertificateVersion.objects.exclude(revoke_asked_at=None).exists()
    done = visitor.post(ADDRESS, confirmed(page, count=" 2 ", reason="keyCompromise"))
    assert [each.outcome for each in done.context["results"]] == ["done", "refused"]
    assert CertificateVersion.objects.get().revoke_reason == 1


def test_all_that_the_filters_let_through_are_taken(visitor, certificate, second):
    form = {"do": "label", "label": "prod", "all": "1", "query": "q=new.example"}
    page = visitor.post(ADDRESS, form)
    assert [each.id for each in page.context["results"]] == [second.pk]
    visitor.post(ADDRESS, confirmed(page))
    listed = visitor.get("/certificates", {"label": "prod"}).context["rows"]
    assert [each.certificate.pk for each in listed] == [second.pk]


@pytest.mark.parametrize("name", ["revoke", "renewal_off"])
def test_nothing_is_done_to_what_the_dry_run_did_not_name(visitor, certificate, name):
    form = {"do": name, "all": "1", "confirmed": "1", "count": "0", "reason": "superseded"}
    assert visitor.post(ADDRESS, form).status_code == 400
    assert not CertificateVersion.objects.exclude(revoke_asked_at=None).exists()
    certificate.refresh_from_db()
    assert certificate.auto_renew


def test_certificates_of_another_owner_are_not_touched(bobs_visitor, certificate):
    form = {"do": "renewal_off", "id": certificate.pk, "confirmed": "1"}
    assert bobs_visitor.post(ADDRESS, form).status_code == 404
    form = {"do": "renewal_off", "all": "1", "confirmed": "1"}
    assert bobs_visitor.post(ADDRESS, form).status_code == 400
    certificate.refresh_from_db()
    assert certificate.auto_renew


@pytest.mark.parametrize("form", [{}, {"do": "x"}, {"do": "renew"}, {"do": "label", "label": ","}])
def test_a_form_without_an_action_or_a_row_is_refused(visitor, certificate, form):
    assert visitor.post(ADDRESS, form).status_code == 400


def test_markup_in_a_label_is_text(visitor, certificate):
    form = {"do": "label", "id": certificate.pk, "label": "<script>x"}
    page = visitor.post(ADDRESS, form)
    assert "<script>x" not in page.content.decode()
    visitor.post(ADDRESS, confirmed(page))
    assert "&lt;script&gt;x" in visitor.get("/certificates").content.decode()


def test_the_number_of_queries_is_fixed(visitor, certificate, second, django_assert_num_queries):
    for ids in ([certificate.pk], [certificate.pk, second.pk]):
        with django_assert_num_queries(5):
            visitor.post(ADDRESS, {"do": "renew", "id": ids})


def test_a_view_is_saved_opened_and_deleted(visitor, bobs_visitor, certificate):
    saved = visitor.post("/views", {"name": "<b>soon", "query": "?q=www&after=x_1&chip=soon"})
    assert saved.headers["Location"] == "/certificates?q=www&chip=soon"
    page = visitor.get("/certificates")
    assert "&lt;b&gt;soon" in page.content.decode()
    view = page.context["views"][0]
    assert bobs_visitor.post(f"/views/{view.pk}").status_code == 404
    visitor.post(f"/views/{view.pk}")
    assert not visitor.get("/certificates").context["views"]
