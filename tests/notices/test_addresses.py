"""A new address gets only a code by mail, until the code is confirmed."""

import json
import re
from typing import Any

import pytest
from django.db import connection

from accounts.models import User
from certctrl.state import StateFile
from notices import addresses, raising
from notices.models import Delivery, Notice
from standalone import administrator
from tests.issuance.api.calling import Caller, refused

pytestmark = [pytest.mark.postgres, pytest.mark.django_db]
OPS = "ops@example.net"
HOUR = 3600


@pytest.fixture
def api(client_of: Any, alice: User) -> Caller:
    return Caller(client_of(alice))


@pytest.fixture
def wish(api: Caller, world: Any, mailbox: Any) -> Any:
    """`wish("ops@example.net")` sets alice's new address, and returns the code that was mailed."""

    def ask(email: str = OPS) -> str:
        assert api.put("notice-settings", {"email": email}).status_code == 200
        world.sweep()
        assert mailbox.recipients[-1] == email
        return code_in(mailbox.texts()[-1])

    return ask


def code_in(text: str) -> str:
    return re.search(r"\b\d{8}\b", text)[0]  # type: ignore[index]


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**8:08d}"


def test_notices_go_to_the_owner_until_the_address_is_confirmed(api, world, mailbox, wish, tell):
    code = wish()
    assert mailbox.subjects == ["A code for notices of certctrl"]
    shown = api.get("notice-settings").data_member
    assert (shown["email"], shown["email_confirmed"], shown["mails_go_to"]) == (
        OPS,
        False,
        "alice@example.org",
    )
    assert shown["note"].startswith(f"A code was mailed to {OPS}.")
    tell("before.example.com")
    world.sweep()
    assert mailbox.recipients == [OPS, "alice@example.org"]
    confirmed = api.post("notice-settings/confirm", {"code": f" {code[:4]} {code[4:]} "})
    assert confirmed.status_code == 200
    assert {
        "email": OPS,
        "email_confirmed": True,
        "mails_go_to": OPS,
        "note": "",
    }.items() <= confirmed.data_member.items()
    tell("after.example.com")
    world.sweep()
    assert mailbox.recipients[2:] == [OPS]


def test_the_mail_with_the_code_has_no_words_of_a_stranger(world, mailbox, wish):
    wish()
    assert mailbox.texts()[-1].startswith("alice@example.org wants to receive notices of certctrl")
    assert "://" not in mailbox.texts()[-1]


def test_the_code_is_nowhere_but_in_the_mail(api, wish, hook, receiver, world, caplog):
    code = wish()
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            assert code not in json.dumps(cursor.fetchall(), default=str)
    shown = [api.get(path).content.decode() for path in ("notices", "notice-settings")]
    assert code not in "".join(shown) + caplog.text
    assert not receiver.posted


def test_a_wrong_code_is_counted_and_five_end_it(api, wish):
    code = wish()
    for left in (4, 3, 2, 1):
        what = refused(api.post("notice-settings/confirm", {"code": wrong(code)}), 400, "code")
        assert f"{left} more tries" in what
    refused(api.post("notice-settings/confirm", {"code": wrong(code)}), 400, "code")
    assert "5 wrong codes" in refused(
        api.post("notice-settings/confirm", {"code": code}), 400, "code"
    )
    assert not api.get("notice-settings").data_member["email_confirmed"]


def test_another_code_counts_instead_of_the_one_before(api, world, mailbox, wish):
    first = wish()
    assert api.post("notice-settings/code").status_code == 200
    world.sweep()
    second = code_in(mailbox.texts()[-1])
    assert second != first
    refused(api.post("notice-settings/confirm", {"code": first}), 400, "code")
    assert api.post("notice-settings/confirm", {"code": second}).status_code == 200
    refused(api.post("notice-settings/confirm", {"code": second}), 409)
    refused(api.post("notice-settings/code"), 409)


def test_a_code_counts_for_a_day_and_for_its_address_only(api, world, wish):
    code = wish()
    api.put("notice-settings", {"email": "other@example.net"})
    refused(api.post("notice-settings/confirm", {"code": code}), 400, "code")
    code = wish("third@example.net")
    world.advance(24 * HOUR)
    assert "no valid code" in refused(
        api.post("notice-settings/confirm", {"code": code}), 400, "code"
    )
    assert "POST …/notice-settings/code" in api.get("notice-settings").data_member["note"]


def test_a_code_whose_mail_comes_too_late_is_not_sent(api, world, mailbox):
    api.put("notice-settings", {"email": OPS})
    api.put("notice-settings", {"email": "other@example.net"})
    world.sweep()
    assert mailbox.recipients == ["other@example.net"]
    assert Delivery.objects.order_by("pk")[0].state == "given_up"


def test_putting_the_same_settings_again_mails_no_other_code(api, world, mailbox, wish):
    wish()
    shown = api.get("notice-settings").data_member
    assert api.put("notice-settings", shown).data_member == shown
    assert api.put("notice-settings", {"email": OPS.upper(), "digest_over": 5}).status_code == 200
    world.sweep()
    assert len(mailbox.mails) == 1


def test_the_owners_own_address_and_the_confirmed_one_need_no_code(api, world, mailbox, wish):
    api.post("notice-settings/confirm", {"code": wish()})
    for email in ("Alice@example.org", OPS, "", OPS):
        assert api.put("notice-settings", {"email": email}).data_member["email_confirmed"]
    assert len(mailbox.mails) == 1


def test_an_address_before_stays_in_use_until_the_next_is_confirmed(
    api, wish, tell, world, mailbox
):
    api.post("notice-settings/confirm", {"code": wish()})
    wish("next@example.net")
    tell()
    world.sweep()
    assert mailbox.recipients[-1] == OPS


def test_codes_are_limited_for_each_owner_and_each_address(api, world, wish, client_of, bob):
    for number in range(addresses.CODES_A_DAY):
        wish(f"victim{number}@example.net")
    limited = api.put("notice-settings", {"email": "one@example.net", "digest_over": 3})
    refused(limited, 429)
    assert 0 < int(limited.headers["Retry-After"]) <= 24 * HOUR
    shown = api.get("notice-settings").data_member
    assert (shown["email"], shown["digest_over"]) == ("victim4@example.net", 20)
    assert (
        Caller(client_of(bob)).put("notice-settings", {"email": "one@example.net"}).status_code
        == 200
    )
    world.advance(25 * HOUR)
    assert api.post("notice-settings/code").status_code == 200


def test_many_owners_do_not_mail_one_victim_all_day(world, mailbox, client_of):
    answers = []
    for number in range(addresses.CODES_A_DAY + 1):
        owner = User.objects.create_user(f"owner{number}@example.org")
        spelled = OPS.upper() if number % 2 else OPS
        answers.append(
            Caller(client_of(owner)).put("notice-settings", {"email": spelled}).status_code
        )
    assert answers == [200] * addresses.CODES_A_DAY + [429]


def test_a_key_confirms_only_with_its_permission(key_client, alice, wish):
    code = wish()
    refused(
        Caller(key_client(alice, "notices:*[read]")).post(
            "notice-settings/confirm", {"code": code}
        ),
        403,
    )
    refused(Caller(key_client(alice, "notices:*[read]")).post("notice-settings/code"), 403)
    writer = Caller(key_client(alice, "notices:*[write]"))
    assert writer.post("notice-settings/confirm", {"code": code}).status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"code": ""}, {"code": None}, {"code": "1" * 33}, {"code": []}]
)
def test_an_invalid_code_is_refused_by_name(api, wish, body):
    wish()
    refused(api.post("notice-settings/confirm", body), 400, "code")


def test_without_a_mail_server_no_code_is_promised(api, settings):
    assert "sends no mails" in api.put("notice-settings", {"email": OPS}).data_member["note"]
    assert not Notice.objects.exists()
    refused(api.post("notice-settings/code"), 409)


def test_the_administrator_gets_mails_only_at_an_address_the_operator_set(world, mailbox, tmp_path):
    made_up = administrator.first_user(StateFile(tmp_path / "a"), "", "")
    user = User.objects.get(email=made_up.email)
    raising.raise_test(user)
    world.sweep()
    assert mailbox.mails == []
    assert "admin@lab.test is not confirmed" in Delivery.objects.get().error_what
    user.email = "ops@example.com"  # on the admin's page
    user.save()
    raising.raise_test(user)
    world.sweep()
    assert mailbox.recipients == ["ops@example.com"]
    User.objects.exclude(pk=user.pk).delete()
    given = administrator.first_user(StateFile(tmp_path / "b"), "root@example.com", "")
    raising.raise_test(User.objects.get(email=given.email))
    world.sweep()
    assert mailbox.recipients[1:] == ["root@example.com"]


@pytest.mark.parametrize(("email", "is_own"), [(OPS, False), ("", True)])
def test_a_code_confirms_a_made_up_address_only_if_it_went_there(
    world, mailbox, tmp_path, email, is_own
):
    made_up = administrator.first_user(StateFile(tmp_path / "a"), "", "")
    user = User.objects.get(email=made_up.email)
    addresses.change(user, {"email": email})
    if not email:
        addresses.send_code(user)
    world.sweep()
    addresses.confirm(user, code_in(mailbox.texts()[-1]))
    wanted = addresses.change(user, {"email": ""})
    assert (wanted.own_email == user.email) is is_own
    assert bool(wanted.unconfirmed) is not is_own


# --- how many ---


def test_mails_over_the_operators_bound_go_into_the_digest(api, world, mailbox, tell, settings):
    settings.MAILS_A_DAY = 3
    note = api.put("notice-settings", {"digest_over": 1000}).data_member["note"]
    assert "mails at most 3 notices a day" in note
    for number in range(6):
        tell(f"host{number}.example.com")
    for _ in range(3):
        assert api.post("notice-settings/test").status_code == 202
    for _ in range(4):
        world.sweep()
    assert len(mailbox.mails) == 3
    world.advance(HOUR)
    world.sweep()
    assert mailbox.subjects[3:] == ["6 notices of certctrl"]


# --- words of others ---


SAID = (
    "The CA refused: go to https://evil.example/login or www.evil.example, mail help@evil.example "
    + "x" * 2000
)


def test_words_of_a_third_party_are_a_quotation_cut_off_and_without_links(world, mailbox, alice):
    body = (
        f"The certificate for example.com could not be renewed. {SAID}"
        "\n\nIt failed for the first time."
    )
    raising.raise_once(
        alice, "renewal_failed", "a", "example.com could not be renewed", body, {"what": SAID}
    )
    world.sweep()
    (text,) = mailbox.texts()
    assert "\n> The CA refused: go to https[:]//evil.example[/]login or www[.]evil.example" in text
    assert "help[at]evil.example" in text.replace("\n> ", " ")
    quoted = [line for line in text.splitlines() if line.startswith("> ")]
    assert len(" ".join(line.removeprefix("> ") for line in quoted)) <= 400
    assert "x" * 400 not in text
    assert "\nIt failed for the first time." in text
    assert Notice.objects.get().body == body
