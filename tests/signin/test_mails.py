"""The mails that say what was changed in an account."""

import io

import pytest
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command

from notices.models import NoticeSettings
from signin import mailedcodes, registration, secondfactor
from signin.models import MailedCode
from tests.signin.conftest import NEW_PASSWORD, code_now

pytestmark = pytest.mark.django_db


@pytest.fixture
def request_of(rf, alice, is_open):
    """Return a request of alice, who is signed in."""

    def make(language="en"):
        request = rf.post("/settings", REMOTE_ADDR="192.0.2.1", HTTP_ACCEPT_LANGUAGE=language)
        request.user = alice
        request.session = SessionStore()
        return request

    return make


@pytest.fixture
def factor(alice, request_of, at, sent):
    secondfactor.start(alice)
    secondfactor.confirm(alice, code_now(alice), request_of())
    return sent()


def test_a_reset_password_is_told(request_of, alice, sent, mailed_code):
    registration.request_reset(request_of(), alice.email)
    registration.reset_password(request_of(), alice.email, mailed_code(), NEW_PASSWORD)
    (mail,) = sent()
    assert "password of the account alice@example.org was changed" in mail
    assert "from 192.0.2.1" in mail
    assert NEW_PASSWORD not in mail


def test_the_old_address_is_told_of_the_new_one(request_of, alice, sent, mailed_code, mailbox):
    registration.request_new_address(request_of(), alice, "new@example.org")
    registration.confirm_new_address(request_of(), alice, "new@example.org", mailed_code())
    (mail,) = sent()
    assert mailbox.mails[-1]["To"] == "alice@example.org"
    assert "the address new@example.org" in " ".join(mail.split())
    assert "cannot reset the password" in " ".join(mail.split())


def test_a_second_factor_is_told_when_it_comes_and_goes(request_of, alice, factor, sent):
    assert "signs in with a code of an app too" in " ".join(factor[0].split())
    secondfactor.remove(alice, request_of())
    (mail,) = sent()
    assert "without a second factor" in " ".join(mail.split())
    assert "http://testserver/sign-in" in mail


def test_a_factor_that_never_counted_is_not_told(request_of, alice, sent):
    secondfactor.start(alice)
    secondfactor.remove(alice, request_of())
    assert sent() == []


def test_new_recovery_codes_are_told_and_not_shown(request_of, alice, factor, sent):
    codes = secondfactor.renew_codes(alice, request_of())
    (mail,) = sent()
    assert "new recovery codes" in mail
    assert not any(code in mail for code in codes)


def test_an_operators_change_is_told_as_one(alice, factor, sent):
    call_command("remove_second_factor", alice.email, stdout=io.StringIO())
    (mail,) = sent()
    assert "An operator of this server did it" in mail


def test_a_mail_about_a_change_is_in_the_language_of_its_user(request_of, alice, factor, sent):
    alice.language = "zh-hans"
    secondfactor.remove(alice, request_of("en"))
    (mail,) = sent()
    assert "\N{IDEOGRAPHIC FULL STOP}" in mail


def test_no_mail_goes_to_an_address_that_was_made_up(request_of, alice, sent):
    NoticeSettings.objects.create(owner=alice, made_up_email="Alice@example.org")
    mailedcodes.tell(alice, MailedCode.Purpose.PASSWORD, request_of())
    assert not MailedCode.objects.exists()


def test_a_server_without_mail_says_nothing_of_a_change(request_of, alice, settings):
    settings.MAIL_IS_SET_UP = False
    mailedcodes.tell(alice, MailedCode.Purpose.PASSWORD, request_of())
    assert not MailedCode.objects.exists()
