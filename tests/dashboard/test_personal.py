"""The pages of a person's own account."""

import re
from html import unescape

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from accounts import links, services
from accounts.models import User
from signin import secondfactor
from signin.models import SecondFactor
from tests.factories import PASSWORD
from tests.signin.conftest import NEW_PASSWORD, code_now

pytestmark = pytest.mark.django_db
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


def signed_in(user, password=PASSWORD, **headers) -> Client:
    client = Client(headers=headers)
    form = {"email": user.email, "password": password}
    assert client.post("/sign-in", form).status_code == 302
    return client


def age(client, seconds=86400):
    session = client.session
    session["auth_time"] -= seconds
    session.save()


@pytest.fixture
def person(alice) -> Client:
    return signed_in(alice)


@pytest.fixture
def with_factor(person, alice):
    """Alice has added an app on the pages. Return her recovery codes."""
    with time_machine.travel(timezone.now(), tick=False) as at:
        assert person.post("/settings/second-factor").status_code == 302
        page = person.post("/settings/second-factor", {"code": code_now(alice)})
        assert page.headers["Cache-Control"] == "no-store"
        at.shift(60)
        alice.refresh_from_db()
        yield re.findall(r"\b(?:[a-z2-7]{4}-){3}[a-z2-7]{4}\b", page.content.decode())


def test_a_changed_password_ends_the_other_sessions_and_says_so(person, alice):
    other = signed_in(alice)
    form = {"password": PASSWORD, "new_password": NEW_PASSWORD}
    page = person.post("/settings/password", form, follow=True)
    assert "1 other session has ended" in page.content.decode()
    assert person.get("/").status_code == 200
    assert other.get("/").status_code == 302
    assert signed_in(alice, NEW_PASSWORD).get("/").status_code == 200


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"password": "Wrong-horse-1", "new_password": NEW_PASSWORD}, 401),
        ({"password": PASSWORD, "new_password": "weak"}, 400),
        ({}, 400),
    ],
)
def test_a_refused_password_changes_nothing(person, alice, form, status):
    page = person.post("/settings/password", form)
    assert page.status_code == status
    assert 'role="alert"' in page.content.decode()
    assert NEW_PASSWORD not in page.content.decode()
    assert User.objects.get(pk=alice.pk).check_password(PASSWORD)


def test_sessions_are_listed_and_ended_one_by_one(person, alice, bob):
    other = signed_in(alice, **{"user-agent": FIREFOX})
    assert "Firefox on Linux" in person.get("/settings").content.decode()
    stranger = signed_in(bob)
    for session in [*bob.sessions.all(), *alice.sessions.filter(agent=FIREFOX)]:
        person.post("/settings/end_session", {"session": session.public_id})
    assert other.get("/").status_code == 302
    assert stranger.get("/").status_code == 200
    assert person.get("/").status_code == 200


def test_all_other_sessions_are_ended_at_once(person, alice):
    others = [signed_in(alice), signed_in(alice)]
    page = person.post("/settings/end_sessions", follow=True)
    assert "2 other sessions have ended" in page.content.decode()
    assert [each.get("/").status_code for each in others] == [302, 302]
    assert person.get("/").status_code == 200


def test_the_name_is_changed(person, alice):
    person.post("/settings/name", {"name": "al.ice", "country_of_residence": "ch"})
    alice.refresh_from_db()
    assert (alice.name, alice.country_of_residence) == ("al.ice", "CH")
    assert person.post("/settings/name", {"name": "a b"}).status_code == 400


def test_an_unknown_action_is_404(person):
    assert person.post("/settings/page").status_code == 404


# --- The second factor ---


def test_an_app_is_added_with_its_first_code(person, with_factor, alice):
    assert secondfactor.is_on(alice)
    assert len(with_factor) == secondfactor.RECOVERY_CODES
    assert person.get("/settings/second-factor").headers["Location"] == "/settings"


def test_the_drawing_of_the_secret_needs_no_inline_style(person, alice):
    person.post("/settings/second-factor")
    page = person.get("/settings/second-factor")
    text = unescape(page.content.decode())
    assert secondfactor.secret_of(SecondFactor.objects.get()) in text
    assert "<svg" in text.split('class="qr"')[1]
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*src)", text)
    assert page.headers["Cache-Control"] == "no-store"


def test_the_sign_in_page_asks_for_the_code(with_factor, alice):
    client = Client()
    form = {"email": alice.email, "password": PASSWORD, "next": "/certificates"}
    asked = client.post("/sign-in", form)
    assert asked.status_code == 200
    assert client.get("/").status_code == 302
    sent = {name: asked.context[name] for name in ("proof", "next", "kept")}
    assert client.post("/sign-in", sent | {"code": "000000"}).status_code == 401
    done = client.post("/sign-in", sent | {"code": code_now(alice)})
    assert done.headers["Location"] == "/certificates"
    assert client.get("/").status_code == 200


def test_a_proof_works_once_and_for_ten_minutes(with_factor, alice):
    form = {"email": alice.email, "password": PASSWORD}
    proof = Client().post("/sign-in", form).context["proof"]
    assert Client().post("/sign-in", {"proof": proof, "code": with_factor[0]}).status_code == 302
    assert Client().post("/sign-in", {"proof": proof, "code": with_factor[1]}).status_code == 401
    proof = Client().post("/sign-in", form).context["proof"]
    with time_machine.travel(timezone.now() + timezone.timedelta(minutes=11)):
        late = Client().post("/sign-in", {"proof": proof, "code": with_factor[2]})
    assert late.status_code == 401
    assert secondfactor.recovery_codes_left(alice) == secondfactor.RECOVERY_CODES - 1


@pytest.mark.parametrize("proof", ["x", "a:b:c", "\x01"])
def test_a_forged_proof_is_refused(db, proof):
    assert Client().post("/sign-in", {"proof": proof, "code": "123456"}).status_code == 401


def test_a_sign_in_link_asks_for_the_code_too(with_factor, alice):
    address = f"/sign-in/link?token={links.token_for(alice)}"
    client = Client()
    assert "authenticator app" in client.get(address).content.decode()
    asked = client.post(address)
    assert asked.status_code == 200
    assert client.get("/").status_code == 302
    form = {"proof": asked.context["proof"], "code": with_factor[0]}
    assert client.post("/sign-in", form).status_code == 302
    assert client.get("/").status_code == 200


def test_the_approval_of_a_device_asks_for_the_code_too(with_factor, alice):
    form = {"user_code": "WXYZ-1234", "email": alice.email, "password": PASSWORD}
    client = Client()
    asked = client.post("/device", form | {"decision": "approve"})
    assert asked.status_code == 401
    assert 'name="code"' in asked.content.decode()
    assert client.get("/").status_code == 302
    answer = client.post("/device", form | {"decision": "approve", "code": with_factor[0]})
    assert answer.status_code == 404  # there is no such device, but the sign-in was right


def test_the_admin_uses_the_same_sign_in(with_factor, alice):
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    client = Client()
    asked = client.get("/admin/", follow=True)
    assert asked.redirect_chain[-1][0] == "/sign-in?next=%2Fadmin%2F"
    form = {"username": alice.email, "email": alice.email, "password": PASSWORD}
    assert client.post("/admin/login/", form).status_code == 405
    client.post("/sign-in", form)
    assert client.get("/admin/").status_code == 302


def test_the_admin_is_closed_to_others_without_a_loop(person):
    assert person.get("/admin/", follow=True).status_code == 403


# --- Fresh sign-in ---


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/settings/remove_factor", {}),
        ("/settings/address", {"email": "new@example.org"}),
        ("/settings/second-factor", {}),
        ("/api-keys", {"name": "ci", "may": "read", "days": "9"}),
    ],
)
def test_an_old_sign_in_is_asked_again(person, settings, path, form):
    settings.MAIL_IS_SET_UP = True
    age(person)
    asked = person.post(path, form)
    assert asked.headers["Location"].startswith("/confirm?next=")
    asked = person.get(asked.headers["Location"])
    back = asked.context["next"]
    assert person.post("/confirm", {"next": back, "password": "wrong"}).status_code == 401
    assert person.post(path, form).status_code == 303
    done = person.post("/confirm", {"next": back, "password": PASSWORD})
    assert (done.status_code, done.headers["Location"]) == (302, path)
    assert not person.post(path, form).headers.get("Location", "").startswith("/confirm")


def test_the_form_is_kept_while_the_password_is_asked(person):
    age(person)
    person.post("/api-keys", {"name": "kept-name", "may": "read", "days": "9"})
    person.post("/confirm", {"next": "/api-keys", "password": PASSWORD})
    assert 'value="kept-name"' in person.get("/api-keys").content.decode()


def test_a_second_factor_is_asked_for_again_too(person, with_factor, alice):
    age(person)
    assert person.post("/settings/remove_factor").status_code == 303
    right = {"password": PASSWORD, "code": code_now(alice)}
    for wrong in ({"code": ""}, {"code": "000000"}, {"password": ""}, {"password": "Wrong-1"}):
        assert person.post("/confirm", right | wrong).status_code in (400, 401), wrong
        assert person.post("/settings/remove_factor").status_code == 303
    assert person.post("/confirm", right).status_code == 302
    person.post("/settings/remove_factor")
    assert not secondfactor.is_on(alice)


def test_a_recovery_code_makes_the_sign_in_fresh_once(person, with_factor):
    age(person)
    form = {"password": PASSWORD, "code": with_factor[0]}
    assert person.post("/confirm", form).status_code == 302
    age(person)
    assert person.post("/confirm", form).status_code == 401


def test_codes_are_not_guessed_at_the_fresh_sign_in(person, with_factor, alice):
    age(person)
    form = {"password": PASSWORD, "code": "000000"}
    answers = [person.post("/confirm", form).status_code for _try in range(7)]
    assert answers[-1] == 429
    assert person.post("/confirm", form | {"code": code_now(alice)}).status_code == 429


def test_a_wrong_password_uses_no_code_up(person, with_factor):
    age(person)
    form = {"password": "Wrong-horse-1", "code": with_factor[0]}
    assert person.post("/confirm", form).status_code == 401
    assert person.post("/confirm", form | {"password": PASSWORD}).status_code == 302


def test_without_a_password_the_code_alone_is_asked_for(person, with_factor, alice):
    alice.set_unusable_password()
    alice.save()
    person.force_login(alice)
    page = person.get("/confirm")
    assert 'type="password"' not in page.content.decode()
    assert person.post("/confirm", {"code": "000000"}).status_code == 401
    assert person.post("/confirm", {"code": code_now(alice)}).status_code == 302


# --- By mail ---


def test_a_new_address_is_confirmed_with_a_code(person, alice, mailbox, sent_code):
    page = person.post("/settings/address", {"email": "new@example.org"})
    assert page.status_code == 200
    form = {"new_email": "new@example.org", "verify_code": "00000000"}
    assert person.post("/settings/new_address", form).status_code == 400
    person.post("/settings/new_address", form | {"verify_code": sent_code()})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"
    assert person.get("/").status_code == 200


def test_an_address_that_another_user_took_meanwhile_is_refused(
    person, alice, bob, mailbox, sent_code
):
    person.post("/settings/address", {"email": "new@example.org"})
    form = {"new_email": "new@example.org", "verify_code": sent_code()}
    User.objects.filter(pk=bob.pk).update(email="new@example.org")
    page = person.post("/settings/new_address", form)
    assert page.status_code == 409
    assert "Another user has this address by now" in page.content.decode()
    alice.refresh_from_db()
    assert alice.email != "new@example.org"


def test_wrong_codes_of_a_new_address_use_up_nothing(
    person, alice, mailbox, sent_code, monkeypatch
):
    monkeypatch.setattr(services, "MAX_FAILURES", 1)
    person.post("/settings/address", {"email": "new@example.org"})
    form = {"new_email": "new@example.org", "verify_code": "aaaa-aaaa-aaaa-aaaa"}
    for _try in range(3):
        assert person.post("/settings/new_address", form).status_code == 400
    person.post("/settings/new_address", form | {"verify_code": sent_code()})
    alice.refresh_from_db()
    assert alice.email == "new@example.org"


def test_the_address_of_another_user_reads_like_a_free_one(person, alice, bob, mailbox):
    pages = [
        person.post("/settings/address", {"email": email})
        for email in ("new@example.org", bob.email)
    ]
    assert [each.status_code for each in pages] == [200, 200]
    assert ["is on its way to" in each.content.decode() for each in pages] == [True, True]


def test_a_person_registers_on_the_pages(db, mailbox, settings, sent_code):
    settings.REGISTRATION = "open"
    client = Client()
    form = {"email": "carol@example.org", "name": "carol", "password": PASSWORD}
    asked = client.post("/register", form)
    assert asked.headers["Location"] == "/register/code?email=carol%40example.org"
    assert 'value="carol@example.org"' in client.get(asked.headers["Location"]).content.decode()
    code = sent_code()
    wrong = client.post("/register/code", form | {"verify_code": "00000000"})
    assert wrong.status_code == 400
    assert PASSWORD not in wrong.content.decode()
    assert client.post("/register/code", form | {"verify_code": code}).status_code == 302
    assert client.get("/").status_code == 200


def test_the_register_page_is_closed_by_default(db):
    assert Client().get("/register").status_code == 403
    assert "/register" not in Client().get("/sign-in").content.decode()


def test_a_person_resets_the_password_on_the_pages(alice, mailbox, sent_code):
    client = Client()
    assert client.post("/reset", {"email": alice.email}).status_code == 302
    form = {"email": alice.email, "verify_code": sent_code(), "password": NEW_PASSWORD}
    page = client.post("/reset/code", form, follow=True)
    assert "All other sessions have ended" in page.content.decode()
    assert client.get("/").status_code == 200


def test_a_malformed_address_is_refused(db, mailbox, settings):
    settings.REGISTRATION = "open"
    form = {"email": "x", "name": "carol", "password": PASSWORD}
    assert Client().post("/reset", form).status_code == 400
    assert Client().post("/register", form).status_code == 400


def test_only_staff_invite(person, alice, mailbox, settings):
    settings.REGISTRATION = "invitation"
    form = {"invited": "dave@example.org"}
    assert person.post("/settings/invite", form).status_code == 403
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    page = person.post("/settings/invite", form, follow=True)
    assert "dave@example.org" in page.content.decode()


def test_the_language_of_the_pages_is_that_of_the_mails(visitor, alice):
    visitor.post("/language", {"language": "zh-hans", "next": "/settings"})
    alice.refresh_from_db()
    assert alice.language == "zh-hans"
    assert "设置" in visitor.get("/settings").content.decode()
    assert visitor.post("/language", {"language": "xx"}).status_code == 400
    alice.refresh_from_db()
    assert alice.language == "zh-hans"
    assert visitor.get("/language").status_code == 405
