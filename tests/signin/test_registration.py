"""Register, confirm the address, reset the password, change the address."""

from datetime import timedelta

import pytest
from django.contrib.auth import hashers
from django.utils import translation

from accounts import services
from accounts.models import AuditEvent, User
from certctrl import errors
from signin import mailedcodes, registration
from signin.models import MailedCode
from tests.factories import PASSWORD
from tests.signin.conftest import NEW_PASSWORD, codes_of

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
BODY = {
    "action": "register",
    "email": "Carol@Example.org",
    "password": PASSWORD,
    "name": "carol",
    "country_of_residence": "de",
}


@pytest.fixture
def ask(client_of):
    def post(action, ip="203.0.113.9", **body):
        return client_of().post("/auth/general", {"action": action, **body}, REMOTE_ADDR=ip)

    return post


def register(ask, **changed):
    return ask(**BODY | changed)


def test_registration_is_closed_until_the_operator_opens_it(ask, mailbox):
    refused = register(ask)
    assert (refused.status_code, refused.error["code"]) == (403, 5022)
    assert not MailedCode.objects.exists()


def test_a_code_by_mail_makes_the_user(ask, is_open, mailed_code, client_of):
    email = BODY["email"]
    waiting = {"email": email, "status": "waiting_for_verification"}
    assert register(ask).data_member == waiting
    assert not User.objects.exists()
    done = ask("activate-user", email=email, verify_code=mailed_code())
    assert done.data_member == {"email": email, "status": "activation_successful"}
    user = User.objects.get()
    assert (user.email, user.name, user.country_of_residence) == (
        "Carol@example.org",
        "carol",
        "DE",
    )
    assert (user.is_staff, user.is_superuser, user.is_active) == (False, False, True)
    login = {"email": email, "password": PASSWORD}
    assert client_of().post("/auth/general", login).status_code == 200
    assert AuditEvent.objects.filter(action="user.registered", owner=user).count() == 1


def test_the_language_of_a_registration_is_that_of_the_mails(client_of, is_open, mailbox):
    said = {"HTTP_ACCEPT_LANGUAGE": "zh-CN"}
    assert client_of().post("/auth/general", BODY, **said).status_code == 200
    (code,) = codes_of(mailbox)
    body = {"action": "activate-user", "email": BODY["email"], "verify_code": code}
    assert client_of().post("/auth/general", body).status_code == 200
    user = User.objects.get()
    assert user.language == "zh-hans"
    assert client_of(user).get("/auth/profile").data_member["language"] == "zh-hans"


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"email": "carol"}, "email"),
        ({"password": "short-1A"}, "password"),
        ({"password": "all-lower-case-1"}, "password"),
        ({"password": "ALL-UPPER-CASE-1"}, "password"),
        ({"password": "No-digit-is-here"}, "password"),
        ({"password": "NothingButLetters1"}, "password"),
        ({"name": "ab"}, "name"),
        ({"name": "with space"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"country_of_residence": "1x"}, "country_of_residence"),
    ],
)
def test_bad_input_is_400_and_leaves_nothing(ask, is_open, changed, field):
    refused = register(ask, **changed)
    assert (refused.status_code, refused.error["params"]["field"]) == (400, field)
    assert not MailedCode.objects.exists()


def test_a_taken_address_reads_like_a_free_one(ask, is_open, alice, sent):
    free = register(ask)
    taken = register(ask, email=alice.email, password=NEW_PASSWORD)
    assert (taken.status_code, taken.data_member["status"]) == (
        free.status_code,
        free.data_member["status"],
    )
    to_free, to_taken = sent()
    assert "This code registers" in to_free
    assert "has an account already" in to_taken


@pytest.fixture
def hashed(monkeypatch):
    """Has an entry for each password that was hashed."""
    found = []
    real = hashers.MD5PasswordHasher.encode
    monkeypatch.setattr(
        hashers.MD5PasswordHasher,
        "encode",
        lambda self, *args: found.append(1) or real(self, *args),
    )
    return found


@pytest.mark.parametrize("action", ["register", "request-reset-password"])
def test_each_address_costs_the_same_work(
    ask, is_open, alice, bob, hashed, action, django_assert_num_queries
):
    User.objects.filter(pk=bob.pk).update(is_active=False)
    work = []
    for email in ("nobody@example.org", alice.email, bob.email):
        del hashed[:]
        before = MailedCode.objects.count()
        with django_assert_num_queries(6 if action == "register" else 4):
            register(ask, action=action, email=email, password=NEW_PASSWORD)
        work.append((len(hashed), MailedCode.objects.count() - before))
    assert work == [(1 if action == "register" else 0, 1)] * 3


def test_an_address_that_grows_too_long_is_refused(ask, is_open):
    label = "\N{SQUARE APAATO}" * 9  # each is four characters in the canonical form
    email = f"a@{'.'.join([label] * 12)}.example.org"
    for action in ("register", "request-reset-password"):
        refused = register(ask, action=action, email=email)
        assert (refused.status_code, refused.error["params"]["field"]) == (400, "email")
    assert not MailedCode.objects.exists()


def test_the_owner_who_registers_again_hears_that(ask, is_open, alice):
    assert register(ask, email=alice.email).status_code == 409
    assert not MailedCode.objects.exists()


def test_registering_counts_as_a_try_of_the_password(ask, is_open, alice):
    for _ in range(services.MAX_FAILURES):
        register(ask, email=alice.email, password=NEW_PASSWORD)
    assert register(ask, email=alice.email).status_code == 429


@pytest.mark.parametrize("code", ["00000000", "", "x", "1" * 32])
def test_a_wrong_code_makes_no_user(ask, is_open, mailed_code, code):
    register(ask)
    assert mailed_code() != code
    refused = ask("activate-user", email=BODY["email"], verify_code=code)
    assert refused.status_code == 400
    assert not User.objects.exists()


def test_a_wrong_code_reads_the_same_for_an_unknown_address(ask, is_open, mailed_code):
    register(ask)
    mailed_code()
    known, unknown = (
        ask("activate-user", email=email, verify_code="00000000")
        for email in (BODY["email"], "nobody@example.org")
    )
    assert known.error == unknown.error


def test_a_code_counts_in_any_spelling(ask, is_open, mailed_code):
    register(ask)
    code = mailed_code().upper().replace("-", " ")
    assert ask("activate-user", email=BODY["email"], verify_code=f" {code} ").status_code == 200


def test_wrong_codes_of_a_stranger_use_up_nothing(ask, is_open, mailed_code, monkeypatch):
    monkeypatch.setattr(services, "MAX_FAILURES_ANYWHERE", 3)
    register(ask)
    code = mailed_code()
    for number in range(10):
        body = {"email": BODY["email"], "verify_code": "aaaa-aaaa-aaaa-aaaa"}
        assert ask("activate-user", ip=f"192.0.2.{number}", **body).status_code == 400
        assert ask("activate-user", **body).status_code == 400
    assert ask("activate-user", email=BODY["email"], verify_code=code).status_code == 200


def test_a_code_ends_after_an_hour_and_after_its_use(ask, is_open, mailed_code, at):
    register(ask)
    code = mailed_code()
    at.shift(mailedcodes.VALID_FOR)
    assert ask("activate-user", email=BODY["email"], verify_code=code).status_code == 400
    register(ask)
    code = mailed_code()
    assert ask("activate-user", email=BODY["email"], verify_code=code).status_code == 200
    assert ask("activate-user", email=BODY["email"], verify_code=code).status_code == 400
    assert MailedCode.objects.exclude(password="").count() == 1  # of the one that was not used


def test_a_code_of_another_purpose_is_wrong(ask, is_open, alice, mailed_code):
    ask("request-reset-password", email=alice.email)
    code = mailed_code()
    assert ask("activate-user", email=alice.email, verify_code=code).status_code == 400


def test_nobody_gets_a_user_with_the_password_of_a_stranger(ask, is_open, sent, at):
    register(ask)
    register(ask, ip="198.51.100.7", password=NEW_PASSWORD)
    sent()
    codes = [mailedcodes.code_of(each) for each in MailedCode.objects.order_by("pk")]
    email = BODY["email"]
    for code in codes:
        refused = ask("activate-user", ip="192.0.2.9", email=email, verify_code=code)
        assert refused.status_code == 409
    assert ask("activate-user", email=email, verify_code=codes[1]).status_code == 400
    other = {"email": email, "verify_code": codes[1], "password": PASSWORD}
    assert ask("activate-user", **other).status_code == 400
    assert not User.objects.exists()


def test_a_stranger_who_registers_too_stops_nobody(ask, is_open, sent):
    register(ask)
    register(ask, ip="198.51.100.7", password=NEW_PASSWORD)
    sent()
    code = mailedcodes.code_of(MailedCode.objects.earliest("pk"))
    assert ask("activate-user", email=BODY["email"], verify_code=code).status_code == 200
    assert User.objects.get().check_password(PASSWORD)
    assert not mailedcodes.open_codes("register", BODY["email"]).exists()


def test_a_code_that_was_used_meanwhile_ends_no_newer_one(alice, rf, is_open):
    mailedcodes.request_code(rf.get("/"), MailedCode.Purpose.RESET, alice.email, user=alice)
    row = MailedCode.objects.get()
    mailedcodes.spend(row)
    mailedcodes.request_code(rf.get("/"), MailedCode.Purpose.RESET, alice.email, user=alice)
    with pytest.raises(errors.Invalid):
        mailedcodes.spend(row)
    assert mailedcodes.open_codes(MailedCode.Purpose.RESET, alice.email).count() == 1


def test_the_older_code_counts_beside_the_newer(ask, is_open, mailed_code):
    register(ask)
    first = mailed_code()
    register(ask)
    assert mailed_code() != first
    assert ask("activate-user", email=BODY["email"], verify_code=first).status_code == 200


def test_an_address_gets_few_mails_a_day(ask, is_open, at):
    for _ in range(mailedcodes.MAILS_A_DAY):
        assert ask("request-reset-password", email="x@example.org").status_code == 200
    refused = ask("request-reset-password", email=" X@Example.org ".strip())
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "86400")
    at.shift(timedelta(days=1))
    assert ask("request-reset-password", email="x@example.org").status_code == 200


def test_a_stranger_uses_up_no_mails_of_a_person(ask, is_open, alice, mailed_code):
    for _ in range(mailedcodes.MAILS_A_DAY):
        register(ask, email=alice.email, password=NEW_PASSWORD, ip="192.0.2.1")
        ask("request-reset-password", email=alice.email, ip="192.0.2.1")
    refused = ask("request-reset-password", email=alice.email, ip="192.0.2.1")
    assert refused.status_code == 429
    mailed = ask("request-reset-password", email=alice.email, ip="198.51.100.1")
    assert mailed.status_code == 200


def test_registrations_use_up_no_resets(ask, is_open, alice):
    for _ in range(mailedcodes.MAILS_A_DAY):
        register(ask, email=alice.email, password=NEW_PASSWORD)
    assert register(ask, email=alice.email, password=NEW_PASSWORD).status_code == 429
    assert ask("request-reset-password", email=alice.email).status_code == 200


def test_many_networks_together_fill_no_mailbox(ask, is_open, alice, at):
    def asked(number):
        return ask("request-reset-password", email=alice.email, ip=f"198.51.100.{number}")

    answers = [asked(number).status_code for number in range(mailedcodes.MAILS_AN_HOUR + 1)]
    assert answers == [200] * mailedcodes.MAILS_AN_HOUR + [429]
    assert mailedcodes.open_codes("reset", alice.email).count() == mailedcodes.MAILS_AN_HOUR
    at.shift(timedelta(hours=1))
    assert asked(200).status_code == 200


def test_a_network_gets_few_mails_an_hour(ask, is_open, monkeypatch):
    monkeypatch.setattr(mailedcodes, "MAILS_OF_NETWORK", 2)
    answers = [
        ask("request-reset-password", email=f"x{number}@example.org", ip=f"2001:db8::{number}")
        for number in range(1, 4)
    ]
    assert [each.status_code for each in answers] == [200, 200, 429]


def test_a_server_without_mail_says_so(ask, settings):
    settings.MAIL_IS_SET_UP = False
    refused = ask("request-reset-password", email="x@example.org")
    assert refused.status_code == 409
    assert "sends no mails" in refused.error["what"]


# --- By invitation ---


def test_only_invited_addresses_get_a_code(ask, is_open, settings, sent, alice, rf):
    settings.REGISTRATION = "invitation"
    register(ask)
    assert sent() == []
    mailedcodes.invite(rf.post("/"), alice, BODY["email"])
    (invitation,) = sent()
    assert alice.email in invitation
    register(ask)
    assert "This code registers" in sent()[0]


# --- The password ---


def test_a_weak_password_is_refused_in_the_language_of_the_reader():
    with pytest.raises(errors.Invalid) as refused:
        registration.refuse_weak("short")
    assert refused.value.what == (
        "A password has at least 12 characters. "
        "A password has upper-case and lower-case letters, digits and another character."
    )
    with translation.override("zh-hans"):
        refusal = str(refused.value.what)
    assert refusal == "密码至少须有 12 个字符。密码须包含大写字母、小写字母、数字和其他字符。"


def test_a_code_by_mail_sets_a_new_password(ask, is_open, alice, mailed_code, visitor, client_of):
    sent = ask("request-reset-password", email=alice.email.upper())
    assert sent.data_member == {"email": alice.email.upper(), "status": "reset_code_sent"}
    body = {"email": alice.email, "verify_code": mailed_code()}
    refused = ask("reset-password", **body, new_password="weak")
    assert refused.status_code == 400
    assert refused.error["what"].startswith("A password has at least 12 characters. ")
    done = ask("reset-password", **body, new_password=NEW_PASSWORD)
    assert done.data_member == {"email": alice.email, "status": "password_reset_success"}
    assert visitor.get("/auth/profile").status_code == 401
    assert not alice.sessions.exists()
    login = {"email": alice.email, "password": NEW_PASSWORD}
    assert client_of().post("/auth/general", login).status_code == 200


def test_a_wrong_code_hashes_no_password(ask, is_open, alice, hashed):
    ask("request-reset-password", email=alice.email)
    body = {"verify_code": "aaaa-aaaa-aaaa-aaaa", "new_password": NEW_PASSWORD}
    for email in (alice.email, "nobody@example.org"):
        assert ask("reset-password", email=email, **body).status_code == 400
    assert hashed == []


def test_a_code_resets_once(ask, is_open, alice, mailed_code):
    ask("request-reset-password", email=alice.email)
    body = {"email": alice.email, "verify_code": mailed_code(), "new_password": NEW_PASSWORD}
    assert ask("reset-password", **body).status_code == 200
    assert ask("reset-password", **body).status_code == 400


def test_a_code_that_another_request_spends_meanwhile_is_refused(ask, is_open, alice, mailed_code):
    ask("request-reset-password", email=alice.email)
    row = mailedcodes.find("reset", alice.email, mailed_code())
    mailedcodes.spend(row)
    with pytest.raises(errors.Invalid):
        mailedcodes.spend(row)


def test_no_stranger_stops_the_reset_of_an_owner(ask, is_open, alice, mailed_code, monkeypatch):
    monkeypatch.setattr(services, "MAX_FAILURES_ANYWHERE", 3)
    wrong = {"email": alice.email, "verify_code": "aaaa-aaaa-aaaa-aaaa"}
    ask("request-reset-password", email=alice.email)
    code = mailed_code()
    for number in range(services.MAX_FAILURES_ANYWHERE + 1):
        ip = f"192.0.2.{number}"
        ask("reset-password", ip=ip, **wrong, new_password=NEW_PASSWORD)
        ask("login", ip=ip, email=alice.email, password="Wrong-horse-1")
    right = {"email": alice.email, "password": NEW_PASSWORD}
    assert ask("login", **right).status_code == 429
    done = ask("reset-password", email=alice.email, verify_code=code, new_password=NEW_PASSWORD)
    assert done.status_code == 200
    assert ask("login", **right).status_code == 200


def test_the_codes_that_a_stranger_requests_count_for_the_owner(ask, is_open, alice, sent):
    for number in range(mailedcodes.MAILS_AN_HOUR):
        ask("request-reset-password", email=alice.email, ip=f"192.0.2.{number}")
    assert ask("request-reset-password", email=alice.email).status_code == 429
    sent()
    code = mailedcodes.code_of(MailedCode.objects.earliest("pk"))
    body = {"email": alice.email, "verify_code": code, "new_password": NEW_PASSWORD}
    assert ask("reset-password", **body).status_code == 200


def test_an_unknown_or_inactive_address_gets_no_mail(ask, is_open, alice, sent):
    alice.is_active = False
    alice.save()
    for email in (alice.email, "nobody@example.org"):
        assert ask("request-reset-password", email=email).status_code == 200
    assert sent() == []


def test_a_new_password_leaves_the_second_factor(
    ask, is_open, recovery_codes, alice, mailed_code, client_of
):
    ask("request-reset-password", email=alice.email)
    body = {"email": alice.email, "verify_code": mailed_code(), "new_password": NEW_PASSWORD}
    assert ask("reset-password", **body).status_code == 200
    login = {"email": alice.email, "password": NEW_PASSWORD}
    assert client_of().post("/auth/general", login).error["code"] == 20022


def test_every_valid_name_is_available_because_names_are_not_unique(client_of, alice):
    assert client_of().get("/auth/general?name=alice").data_member == {"available": True}
    assert client_of().get("/auth/general?name=a b").status_code == 400
    assert client_of().get("/auth/general").status_code == 400


# --- The mails ---


def test_a_mail_speaks_the_language_of_its_request(client_of, is_open, mailbox, sent):
    client_of().post("/auth/general", BODY, headers={"Accept-Language": "zh-hans"})
    (text,) = sent()
    assert "验证码" in text
    assert mailbox.mails[0]["Subject"] == "您的 certctrl 验证码"
    assert mailbox.mails[0]["To"] == "carol@example.org"


def test_a_mail_server_that_is_away_is_tried_again(ask, is_open, mailbox, sent, at):
    mailbox.answers = ["451 try later"]
    register(ask)
    assert sent() == []
    at.shift(5)
    assert len(sent()) == 1
    row = MailedCode.objects.get()
    assert (row.wake_at, row.sent_at is not None) == (None, True)


def test_the_sweep_sends_the_mail(ask, is_open, mailbox, world):
    register(ask)
    world.sweep()
    assert mailbox.recipients == ["carol@example.org"]


def test_the_code_is_not_stored(ask, is_open, mailed_code):
    register(ask)
    assert mailed_code() not in str(list(MailedCode.objects.values()))


def test_old_rows_are_deleted(ask, is_open, at):
    register(ask)
    at.shift(mailedcodes.VALID_FOR + mailedcodes.KEPT_FOR)
    mailedcodes.prune()
    assert MailedCode.objects.exists()
    at.shift(1)
    mailedcodes.prune()
    assert not MailedCode.objects.exists()
