"""The page of one certificate, and its buttons."""

import io
import re
import zipfile

import pytest

from certctrl import clock
from dashboard.certificate import REASONS
from issuance import services
from issuance.models import CertificateVersion, Issuance, RenewalInfo
from tests.issuance.failing import FOR_GOOD, try_again

pytestmark = pytest.mark.django_db


def test_the_page_says_when_it_renews_and_why(visitor, certificate):
    page = visitor.get(f"/certificates/{certificate.pk}")
    text = page.content.decode()
    assert f"{certificate.renew_at:%Y-%m-%d %H:%M}" in text
    assert page.context["why_then"]
    assert certificate.current.serial in text


REVOKED = {"revoke_asked_at": clock.now(), "revoked_at": clock.now()}


def words_of(page) -> str:
    return " ".join(re.sub("<[^>]+>", "", page.content.decode()).split())


def test_a_revoked_certificate_says_when_a_new_version_is_made(visitor, certificate):
    CertificateVersion.objects.update(**REVOKED)
    words = words_of(visitor.get(f"/certificates/{certificate.pk}"))
    assert f"A new version is made at {certificate.renew_at:%Y-%m-%d %H:%M} UTC" in words
    assert "“Renew now” makes it at once." in words
    assert "It renews at" not in words


def test_a_revoked_certificate_that_is_not_renewed_says_so(visitor, certificate):
    services.update_certificate(certificate, {"auto_renew": False})
    CertificateVersion.objects.update(**REVOKED)
    words = words_of(visitor.get(f"/certificates/{certificate.pk}"))
    assert "No new version is planned, so nothing replaces it. “Renew now” makes one." in words


def test_a_revoked_certificate_says_that_an_attempt_replaces_it(visitor, certificate, world):
    CertificateVersion.objects.update(**REVOKED)
    services.issue(certificate)
    words = words_of(visitor.get(f"/certificates/{certificate.pk}"))
    assert "The attempt in progress makes the version that replaces it." in words
    assert "planned" not in words
    world.deliver()
    certificate.refresh_from_db()
    assert certificate.current.revoke_asked_at is None
    assert "It renews at" in words_of(visitor.get(f"/certificates/{certificate.pk}"))


def test_reasons_for_a_revocation_have_plain_words(visitor, certificate):
    form = {"do": "revoke", "id": [certificate.pk]}
    for page in (
        visitor.get(f"/certificates/{certificate.pk}"),
        visitor.post("/certificates/bulk", form),
    ):
        options = re.findall(r'<option value="(\w+)"[^>]*>([^<]+)</option>', page.content.decode())
        assert dict(options)["keyCompromise"] == "keyCompromise: somebody else may have the key"
        assert set(REASONS) <= set(dict(options))
    for each in REASONS:
        assert each in services.REASONS


def test_a_window_after_the_last_sixth_is_named_as_too_late(visitor, certificate):
    version = certificate.current
    window = {"window_start": version.not_after, "window_end": version.not_after}
    RenewalInfo.objects.update_or_create(version=version, defaults=window)
    page = visitor.get(f"/certificates/{certificate.pk}")
    assert page.context["why_then"].startswith("when a sixth of the life is left")


def test_renew_starts_one_attempt_however_often_it_is_sent(visitor, certificate, world):
    address = f"/certificates/{certificate.pk}/renew"
    first = visitor.post(address, {"form_key": "k"}).headers["Location"]
    world.deliver()
    world.settle()
    assert visitor.post(address, {"form_key": "k"}).headers["Location"] == first
    assert certificate.issuances.count() == 2
    assert visitor.post(address, {"form_key": "another"}).headers["Location"] != first


def test_cancel_ends_the_open_attempt(visitor, certificate):
    visitor.post(f"/certificates/{certificate.pk}/renew")
    visitor.post(f"/certificates/{certificate.pk}/cancel")
    assert certificate.issuances.order_by("pk").last().state == Issuance.State.CANCELED
    again = visitor.post(f"/certificates/{certificate.pk}/cancel")
    assert again.status_code == 409
    assert 'role="alert"' in again.content.decode()


def test_revoke_and_delete_want_the_name(visitor, certificate):
    for action in ("revoke", "delete"):
        address = f"/certificates/{certificate.pk}/{action}"
        form = {"name": "example.org", "reason": "superseded"}
        assert visitor.post(address, form).status_code == 400
    certificate.refresh_from_db()
    assert certificate.retired_at is None
    assert certificate.current.revoke_asked_at is None
    form = {"name": " WWW.example.com", "reason": "superseded"}
    visitor.post(f"/certificates/{certificate.pk}/revoke", form)
    assert CertificateVersion.objects.get().revoke_asked_at
    visitor.post(f"/certificates/{certificate.pk}/delete", form)
    certificate.refresh_from_db()
    assert certificate.retired_at
    assert visitor.get(f"/certificates/{certificate.pk}").status_code == 404


def test_a_refused_form_stays_open(visitor, certificate):
    assert b'class="fold" open' not in visitor.get(f"/certificates/{certificate.pk}").content
    for action in ("revoke", "delete", "replace_key"):
        page = visitor.post(f"/certificates/{certificate.pk}/{action}", {"name": "example.org"})
        assert page.content.count(b'class="fold" open') == 1


def test_a_reason_of_revocation_that_is_none_is_refused(visitor, certificate):
    form = {"name": certificate.domain, "reason": "<i>boredom</i>"}
    assert visitor.post(f"/certificates/{certificate.pk}/revoke", form).status_code == 400


def test_the_key_is_downloaded_only_where_export_is_allowed(visitor, certificate):
    address = f"/certificates/{certificate.pk}/export"
    assert visitor.post(address).status_code == 403
    visitor.post(f"/certificates/{certificate.pk}/export_on")
    answer = visitor.post(address)
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert {"private.key", "bundle.pfx", "bundle-password.txt"} <= set(names)
    assert answer.headers["Cache-Control"] == "no-store"
    visitor.post(f"/certificates/{certificate.pk}/export_off")
    assert visitor.post(address).status_code == 403


def test_an_old_login_neither_exports_nor_allows_it(visitor, certificate, settings):
    session = visitor.session
    session["auth_time"] = int(clock.now().timestamp()) - settings.EXPORT_LOGIN_AGE - 60
    session.save()
    for action in ("export_on", "export", "policy"):
        address = f"/certificates/{certificate.pk}/{action}"
        answer = visitor.post(address, {"policy": "MASTER_ONLY"})
        assert answer.headers["Location"] == f"/confirm?next={address.replace('/', '%2F')}"
    certificate.refresh_from_db()
    assert (certificate.server_decrypt_export, certificate.key_policy) == (False, "HYBRID")


@pytest.mark.parametrize("name", ["fullchain.pem", "certificate.pem", "certificate.der"])
def test_the_public_files_can_be_downloaded(visitor, certificate, name):
    answer = visitor.get(f"/certificates/{certificate.pk}/files/{name}")
    assert answer.status_code == 200
    assert name in answer.headers["Content-Disposition"]
    assert visitor.get(f"/certificates/{certificate.pk}/files/private.key").status_code == 404


def test_a_failure_for_good_needs_a_person_and_says_why(visitor, certificate, world):
    try_again(world, FOR_GOOD)
    for address in ("/", "/certificates?chip=you", f"/certificates/{certificate.pk}"):
        text = visitor.get(address).content.decode()
        assert FOR_GOOD.what in text, address
        assert "needs a person" in text.lower() or "waits for a person" in text


def test_words_of_a_ca_are_not_markup(visitor, certificate):
    attempt = certificate.issuances.get()
    what = "The CA says: <img src=x onerror=alert(1)>"
    Issuance.objects.update(state=Issuance.State.FAILED, error_what=what, error_code="ca_refused")
    attempt.events.create(at=clock.now(), step="order", outcome="failed", what=what)
    certificate.failures = 1
    certificate.renew_at = None
    certificate.save()
    for address in (
        "/",
        "/certificates",
        f"/certificates/{certificate.pk}",
        f"/certificates/{certificate.pk}/attempts/{attempt.pk}",
    ):
        text = visitor.get(address).content.decode()
        assert "<img" not in text
        assert "&lt;img" in text, address


def test_an_expired_certificate_is_the_answer_of_the_overview(visitor, certificate, world):
    world.advance((certificate.expires_at - world.time).total_seconds() + 60)
    assert "1 certificate has expired" in visitor.get("/").content.decode()


def test_the_page_of_one_that_was_never_issued_opens(visitor, world, account, credential):
    made, attempt = world.create(account, credential, "new.example.com")
    assert visitor.get(f"/certificates/{made.pk}").status_code == 200
    assert visitor.get(f"/certificates/{made.pk}/attempts/{attempt.pk}").status_code == 200
    assert visitor.get(f"/certificates/{made.pk}/files/chain.pem").status_code == 404


def test_a_replaced_key_is_revoked_and_never_used_again(visitor, certificate, world):
    address = f"/certificates/{certificate.pk}/replace_key"
    assert visitor.post(address, {"name": "x", "form_key": "k"}).status_code == 400
    assert not CertificateVersion.objects.exclude(revoke_asked_at=None).exists()
    form = {"name": certificate.domain, "form_key": "k"}
    first = visitor.post(address, form).headers["Location"]
    world.deliver()
    world.settle()
    old, new = CertificateVersion.objects.order_by("pk")
    assert old.revoke_reason == 1
    assert new.key_id != old.key_id
    assert visitor.post(address, form).headers["Location"] == first
    certificate.refresh_from_db()
    assert (certificate.issuances.count(), certificate.current) == (2, new)


def test_labels_are_changed_and_lead_to_their_list(visitor, certificate):
    address = f"/certificates/{certificate.pk}"
    visitor.post(f"{address}/labels", {"labels": "prod, <b>x,, \N{FULLWIDTH COMMA}web"})
    assert certificate.labels.filter(name="web").exists()
    text = visitor.get(address).content.decode()
    assert "?label=%3Cb%3Ex" in text
    assert "<b>x" not in text
    assert visitor.post(f"{address}/labels", {"labels": "x" * 33}).status_code == 400


def test_labels_that_were_added_elsewhere_stay(visitor, certificate):
    services.set_labels(certificate, ["prod", "team b"])
    form = {"shown": "prod", "labels": "web"}
    visitor.post(f"/certificates/{certificate.pk}/labels", form)
    assert sorted(certificate.labels.values_list("name", flat=True)) == ["team b", "web"]


def test_the_page_says_why_each_attempt_was_made(visitor, certificate):
    visitor.post(f"/certificates/{certificate.pk}/renew")
    rows = visitor.get(f"/certificates/{certificate.pk}").context["attempts"]
    assert [row["reason"] for row in rows] == ["by hand", "the first"]
