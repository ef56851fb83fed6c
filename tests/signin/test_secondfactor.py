"""Codes of an authenticator app, and recovery codes."""

from contextlib import nullcontext

import pytest
from django.core.management import CommandError, call_command

from accounts.models import AuditEvent
from certctrl import errors
from keystore import envelope
from keystore.models import Envelope
from signin import secondfactor
from signin.models import RecoveryCode, SecondFactor
from tests.factories import PASSWORD
from tests.signin.conftest import code_now

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


def test_a_started_factor_does_not_count_before_its_first_code(alice, at, rf):
    secondfactor.start(alice)
    assert not secondfactor.is_on(alice)
    with pytest.raises(errors.Invalid):
        secondfactor.confirm(alice, "000000", rf.post("/"))
    secondfactor.confirm(alice, code_now(alice), rf.post("/"))
    assert secondfactor.is_on(alice)


def test_a_new_start_replaces_the_secret_that_does_not_count(alice):
    first = secondfactor.secret_of(secondfactor.start(alice))
    assert secondfactor.secret_of(secondfactor.start(alice)) != first
    assert Envelope.objects.filter(purpose=secondfactor.PURPOSE).count() == 1


def test_a_factor_that_counts_is_not_replaced(recovery_codes, alice):
    with pytest.raises(errors.Conflict):
        secondfactor.start(alice)


def test_the_secret_and_the_codes_are_not_in_the_tables(recovery_codes, alice):
    factor = SecondFactor.objects.get()
    assert envelope.unseal(factor.secret) not in bytes(factor.secret.ciphertext)
    plain = {code.replace("-", "") for code in recovery_codes}
    assert not plain & set(RecoveryCode.objects.values_list("digest", flat=True))
    assert len(set(recovery_codes)) == secondfactor.RECOVERY_CODES


def test_a_code_is_accepted_once(recovery_codes, alice, rf):
    code = code_now(alice)
    secondfactor.check(rf.post("/"), alice, f" {code[:3]} {code[3:]} ")
    with pytest.raises(errors.Unauthorized):
        secondfactor.check(rf.post("/"), alice, code)


def test_the_code_that_confirms_a_factor_is_not_accepted_again(alice, at, rf):
    secondfactor.start(alice)
    code = code_now(alice)
    secondfactor.confirm(alice, code, rf.post("/"))
    with pytest.raises(errors.Unauthorized):
        secondfactor.check(rf.post("/"), alice, code)


@pytest.mark.parametrize(
    ("seconds", "accepted"), [(-60, False), (-30, True), (30, True), (60, False)]
)
def test_a_clock_may_differ_by_one_step(recovery_codes, alice, rf, at, seconds, accepted):
    at.shift(300)
    code = code_now(alice)
    at.shift(-seconds)
    expected = nullcontext() if accepted else pytest.raises(errors.Unauthorized)
    with expected:
        secondfactor.check(rf.post("/"), alice, code)


def test_a_recovery_code_is_accepted_once_in_any_spelling(recovery_codes, alice, rf):
    code = recovery_codes[0]
    secondfactor.check(rf.post("/"), alice, code.upper().replace("-", " "))
    assert secondfactor.recovery_codes_left(alice) == secondfactor.RECOVERY_CODES - 1
    with pytest.raises(errors.Unauthorized):
        secondfactor.check(rf.post("/"), alice, code)
    assert AuditEvent.objects.filter(action="second_factor.recovery_code_used").count() == 1


def test_a_recovery_code_of_another_user_is_wrong(recovery_codes, bob, rf):
    secondfactor.start(bob)
    secondfactor.confirm(bob, code_now(bob), rf.post("/"))
    with pytest.raises(errors.Unauthorized):
        secondfactor.check(rf.post("/"), bob, recovery_codes[0])


@pytest.mark.parametrize("code", ["", "12345", "abcdef", "١٢٣٤٥٦", "0" * 64, "\0"])
def test_a_malformed_code_is_wrong(recovery_codes, alice, rf, code):
    with pytest.raises(errors.Unauthorized):
        secondfactor.check(rf.post("/"), alice, code)


def test_after_wrong_codes_the_right_one_has_to_wait(recovery_codes, alice, rf, at):
    def check(code):
        secondfactor.check(rf.post("/"), alice, code)

    for _ in range(secondfactor.FREE_FAILURES + 1):
        with pytest.raises(errors.Unauthorized):
            check("wrong")
    with pytest.raises(errors.RateLimited) as refused:
        check(code_now(alice))
    pause = refused.value.params["retry_after"]
    assert secondfactor.FIRST_PAUSE <= pause <= secondfactor.FIRST_PAUSE + 1
    at.shift(pause)
    with pytest.raises(errors.Unauthorized):
        check("wrong")
    at.shift(pause)
    with pytest.raises(errors.RateLimited):
        check(code_now(alice))
    at.shift(pause)
    check(code_now(alice))
    assert SecondFactor.objects.get().failures == 0


def test_a_recovery_code_waits_for_no_pause(recovery_codes, alice, rf, at):
    for _ in range(secondfactor.FREE_FAILURES + 1):
        with pytest.raises(errors.Unauthorized):
            secondfactor.check(rf.post("/"), alice, "000000")
    for wrong in ("000000", "aaaa-aaaa-aaaa-aaaa"):
        with pytest.raises(errors.RateLimited):
            secondfactor.check(rf.post("/"), alice, wrong)
    secondfactor.check(rf.post("/"), alice, recovery_codes[0])
    assert SecondFactor.objects.get().failures == 0


def test_the_pause_has_an_end(recovery_codes, alice):
    assert secondfactor._pause(1000).total_seconds() == secondfactor.LONGEST_PAUSE


def test_a_removed_factor_leaves_no_secret(recovery_codes, alice, rf):
    secondfactor.remove(alice)
    assert not Envelope.objects.filter(purpose=secondfactor.PURPOSE).exists()
    assert not RecoveryCode.objects.exists()
    with pytest.raises(errors.Conflict):
        secondfactor.remove(alice)


def test_the_operator_removes_the_factor_of_a_user(recovery_codes, alice, capsys):
    call_command("remove_second_factor", alice.email.upper())
    assert not secondfactor.is_on(alice)
    assert AuditEvent.objects.get(action="second_factor.removed").actor == "certctrl"
    for email in (alice.email, "nobody@example.org"):
        with pytest.raises(CommandError, match=email):
            call_command("remove_second_factor", email)


def test_the_api_asks_for_the_code_too(client_of, recovery_codes, alice):
    client = client_of()
    body = {"email": alice.email, "password": PASSWORD}
    refused = client.post("/auth/general", body)
    assert (refused.status_code, refused.error["code"]) == (401, 20022)
    assert refused.error["params"] == {"field": "code"}
    assert client.get("/auth/profile").status_code == 401
    refused = client.post("/auth/general", body | {"code": "123456"})
    assert (refused.error["code"], refused.error["params"]) == (5018, {"field": "code"})
    assert client.post("/auth/general", body | {"code": code_now(alice)}).status_code == 200
    status = client.get("/auth/status").data_member
    assert (status["amr"], status["acr"], status["mfa"]) == (["pwd", "otp", "mfa"], "aal2", True)


def test_a_wrong_password_does_not_ask_for_the_code(client_of, recovery_codes, alice):
    body = {"email": alice.email, "password": "Wrong-horse-1", "code": code_now(alice)}
    assert client_of().post("/auth/general", body).error["code"] == 5018
    assert SecondFactor.objects.get().failures == 0
