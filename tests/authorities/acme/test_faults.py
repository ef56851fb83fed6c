"""Refusals of a CA, its malformed responses, and a CA that does not respond."""

import base64
import hmac
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests
from cryptography.hazmat.primitives import serialization

from authorities import acme, base, pki, privateca
from authorities.acme import words_of
from authorities.base import NotYet
from authorities.errors import Refused
from certctrl import clock
from certctrl.turns import Trouble, Wait
from issuance.models import Issuance
from tests.authorities import stub as stubs
from tests.authorities.stub import Reply, problem

CSR = pki.csr(pki.new_key("ecdsa", 256), ["example.com"])
PERMANENT = {
    "badCSR": "ca_bad_csr",
    "badPublicKey": "ca_bad_public_key",
    "badSignatureAlgorithm": "ca_bad_signature_algorithm",
    "externalAccountRequired": "ca_external_account_required",
    "invalidContact": "ca_invalid_contact",
    "rejectedIdentifier": "ca_rejected_identifier",
    "unsupportedContact": "ca_unsupported_contact",
    "unsupportedIdentifier": "ca_unsupported_identifier",
    "userActionRequired": "ca_user_action_required",
}
ATTEMPT_ENDS = {
    "caa": "ca_caa",
    "connection": "ca_connection",
    "dns": "ca_dns",
    "dnssec": "ca_dnssec",
    "incorrectResponse": "ca_incorrect_response",
    "malformed": "ca_malformed",
    "tls": "ca_tls",
    "unauthorized": "ca_unauthorized",
    "somethingNew": "ca_something_new",
}


def trouble(call, *args) -> Trouble:
    with pytest.raises(Trouble) as caught:
        call(*args)
    assert caught.value.what.isprintable()
    return caught.value


# --- the table ---


@pytest.mark.parametrize(("kind", "code"), PERMANENT.items())
def test_an_error_that_only_a_person_can_fix_is_permanent(ca, stub, kind, code):
    stub.tell("/newOrder", problem(kind, "Go and mend it.", 403))
    refused = trouble(ca.new_order, ["example.com"])
    assert isinstance(refused, Refused)
    assert (refused.code, refused.permanent) == (code, True)
    assert "Go and mend it." in refused.what
    assert "example.com" in refused.what


@pytest.mark.parametrize(("kind", "code"), ATTEMPT_ENDS.items())
def test_an_error_that_may_be_gone_tomorrow_ends_the_attempt_only(ca, stub, kind, code):
    stub.tell("/newOrder", problem(kind, status=403))
    refused = trouble(ca.new_order, ["example.com"])
    assert isinstance(refused, Refused)
    assert (refused.code, refused.permanent) == (code, False)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (problem("serverInternal", status=500), "ca_error"),
        (problem("accountDoesNotExist", status=400), "ca_account_unknown"),
        (Reply(500, b"<html>oops</html>"), "ca_error"),
        (Reply(502, b""), "ca_error"),
        (Reply(200, b"<html>log in first</html>"), "ca_error"),
        (Reply(200, ["a", "list"]), "ca_error"),
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}), "ca_error"),
        (Reply(201, {"status": "pending"}), "ca_error"),
        (Reply(drop=True), "ca_unreachable"),
    ],
)
def test_an_error_that_may_pass_in_a_moment_is_retried(ca, stub, reply, code):
    stub.tell("/newOrder", reply)
    again = trouble(ca.new_order, ["example.com"])
    assert not isinstance(again, Refused)
    assert (again.code, again.permanent) == (code, False)
    assert "127.0.0.1" in again.what
    assert "<html>" not in again.what


@pytest.mark.parametrize(
    "document",
    [
        {"status": "sideways"},
        {"status": "pending", "finalize": 7},
        {"status": "pending", "finalize": "https://x", "authorizations": "https://x"},
        {"status": "pending", "finalize": "https://x", "authorizations": [None]},
        {"status": "pending", "finalize": "https://x", "identifiers": 5},
        {"status": "pending", "finalize": "https://x", "authorizations": ["https://x/\0"]},
        {"status": "pending", "finalize": "https://x", "expires": "soon"},
        {"status": "pending", "finalize": "https://x", "expires": "0001-01-01T00:00:00+12:00"},
        {"status": "pending", "finalize": "https://x", "expires": "9999-12-31T23:00:00-12:00"},
        {},
    ],
)
def test_an_order_that_is_none_is_trouble_and_no_crash(ca, stub, document):
    stub.tell("/order/1", Reply(body=document))
    assert trouble(ca.read_order, f"{stub.url}/order/1").code == "ca_error"


LONG = f"http://127.0.0.1/{'x' * 500}"
ORDER = {"status": "pending", "finalize": "https://x", "authorizations": ["https://x"]}


@pytest.mark.parametrize(
    "member", [{"authorizations": [LONG]}, {"certificate": LONG}, {"finalize": LONG}]
)
def test_an_order_with_a_url_that_no_row_holds_is_refused(ca, stub, member):
    stub.tell("/order/1", Reply(body=ORDER | member))
    refused = trouble(ca.read_order, f"{stub.url}/order/1")
    assert isinstance(refused, Refused)
    assert (refused.code, refused.permanent) == ("ca_bad_url", False)
    assert "517 characters" in refused.what


@pytest.mark.parametrize(
    "call", [lambda ca: ca.register(), lambda ca: ca.new_order(["example.com"])]
)
def test_a_new_resource_at_a_url_that_no_row_holds_is_refused(ca, stub, call):
    stub.tell("/newAccount", Reply(201, {"status": "valid"}, {"Location": LONG}))
    stub.tell("/newOrder", Reply(201, ORDER, {"Location": LONG}))
    assert trouble(call, ca).code == "ca_bad_url"


@pytest.mark.parametrize(
    ("member", "code"),
    [
        ({"identifier": {"type": "dns", "value": "a." * 126 + "test"}}, "ca_wrong_identifier"),
        ({"challenges": [{"type": "dns-01", "url": LONG, "token": "t" * 43}]}, "ca_bad_url"),
    ],
)
def test_an_authorization_that_no_row_holds_is_refused(ca, stub, member, code):
    stub.tell("/authz/1", Reply(body=stub.usual("/authz/1").body | member))
    found = trouble(lambda: ca.read_authorization(f"{stub.url}/authz/1").choosing("dns-01"))
    assert found.code == code


def test_the_code_of_any_type_fits_its_column(ca, stub):
    stub.tell("/newOrder", problem("aB" * 24, status=403))
    code = trouble(ca.new_order, ["example.com"]).code
    assert code.startswith("ca_a_b")
    assert len(code) == Issuance._meta.get_field("error_code").max_length


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"status": "pending"},
        {"status": 5, "identifier": {"type": "dns", "value": "example.com"}},
        {"status": "pending", "identifier": {"type": "dns", "value": 3}},
        {"status": "pending", "identifier": {"type": "dns", "value": "a.test"}, "challenges": 5},
        {
            "status": "pending",
            "identifier": {"type": "dns", "value": "a.test"},
            "challenges": [{"type": "dns-01"}],
        },
        {
            "status": "pending",
            "identifier": {"type": "dns", "value": "a.test"},
            "challenges": ["dns-01"],
        },
    ],
)
def test_an_authorization_that_is_none_is_trouble_and_no_crash(ca, stub, document):
    stub.tell("/authz/1", Reply(body=document))
    found = trouble(lambda: ca.read_authorization(f"{stub.url}/authz/1").choosing("dns-01"))
    assert found.code == "ca_error"


def test_an_order_that_is_not_there_is_asked_for_again(ca, stub):
    not_yet = trouble(ca.read_order, f"{stub.url}/order/9")
    assert isinstance(not_yet, NotYet)
    assert (not_yet.code, not_yet.permanent) == ("ca_not_found", False)


@pytest.mark.parametrize(
    "words",
    [
        "Order does not exist",
        "The order doesn't exist",
        "The order doesn\u2019t exist yet",
        "order couldn't be found",
        "We can't find this order",
        "The order could not be found",
    ],
)
def test_an_order_is_absent_in_any_of_these_words(ca, stub, words):
    stub.tell("/order/1", problem("malformed", words, 400))
    assert isinstance(trouble(ca.read_order, f"{stub.url}/order/1"), NotYet)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(410, b"gone"),
        problem("malformed", "Expired authorization", 404),
        problem("malformed", "The JWS is broken", 400),
        problem("unauthorized", "Certificate is not yours", 403),
        problem("userActionRequired", "Agree first", 404),
    ],
)
def test_other_refusals_end_the_attempt(ca, stub, reply):
    stub.tell("/order/1", reply)
    assert isinstance(trouble(ca.read_order, f"{stub.url}/order/1"), Refused)


def test_order_not_ready_is_to_wait(ca, stub):
    order = ca.new_order(["example.com"])
    stub.tell("/finalize/1", problem("orderNotReady", status=403))
    with pytest.raises(Wait) as caught:
        ca.finalize(order, CSR)
    assert caught.value.seconds == 2


@pytest.mark.parametrize(
    "words", ['Account is not valid, has status "deactivated"', "The account has been deactivated."]
)
def test_a_deactivated_account_differs_from_other_refusals(ca, stub, words):
    stub.tell("/newOrder", problem("unauthorized", words, 403))
    refused = trouble(ca.new_order, ["example.com"])
    assert (refused.code, refused.permanent) == ("ca_account_deactivated", True)


@pytest.mark.parametrize(
    "words",
    [
        'Incorrect TXT record "your account was deactivated" found at _acme-challenge.example.com',
        "No TXT record found at _acme-challenge.account.revoked.example.com",
    ],
)
def test_an_error_of_a_challenge_or_order_never_disables_the_account(ca, stub, words):
    error = {"type": stubs.PREFIX + "unauthorized", "detail": words, "status": 403}
    challenge = {
        "type": "dns-01",
        "url": f"{stub.url}/chall/1",
        "status": "invalid",
        "token": "t" * 43,
        "error": error,
    }
    identifier = {"type": "dns", "value": "example.com"}
    stub.tell(
        "/authz/1",
        Reply(body={"status": "invalid", "identifier": identifier, "challenges": [challenge]}),
    )
    stub.tell(
        "/order/1", Reply(body=stub.usual("/order/1").body | {"status": "invalid", "error": error})
    )
    found = [
        ca.read_authorization(f"{stub.url}/authz/1").problem,
        ca.read_order(f"{stub.url}/order/1").problem,
    ]
    assert [(each.code, each.permanent) for each in found] == [("ca_unauthorized", False)] * 2


@pytest.mark.parametrize(
    "reply",
    [
        problem("malformed", "Unable to update challenge", 400),
        problem("malformed", "Expired authorization", 404),
        problem("incorrectResponse", "No TXT record found", 403),
        problem("unauthorized", "The authorization is not pending", 403),
    ],
)
def test_an_error_on_answering_a_challenge_is_left_to_the_order(ca, stub, reply):
    stub.tell("/chall/1", reply)
    assert ca.answer(f"{stub.url}/chall/1") == ""
    assert stub.asked[-1].payload == {}


@pytest.mark.parametrize("reply", [Reply(403, b"<html>"), Reply(404, b"<html>"), Reply(409, b"")])
def test_a_refusal_by_a_proxy_says_that_the_ca_may_not_have_the_answer(ca, stub, reply):
    stub.tell("/chall/1", reply)
    assert f"refused the answer to the challenge (HTTP {reply.status})." in ca.answer(
        f"{stub.url}/chall/1"
    )


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (
            problem("unauthorized", "The account has been deactivated.", 403),
            "ca_account_deactivated",
        ),
        (problem("userActionRequired", "Agree to the new terms", 403), "ca_user_action_required"),
        (problem("accountDoesNotExist", status=400), "ca_account_unknown"),
        (problem("rateLimited", "slowly", 429), "ca_rate_limited"),
        (Reply(503, b""), "ca_error"),
    ],
)
def test_an_answer_that_the_ca_did_not_take_is_given_again(ca, stub, reply, code):
    stub.tell("/chall/1", reply)
    assert trouble(ca.answer, f"{stub.url}/chall/1").code == code


def test_the_certificate_that_was_revoked_before_is_no_trouble(ca, stub):
    stub.tell("/revokeCert", problem("alreadyRevoked"))
    ca.revoke(self_signed(), 1)
    assert stub.asked[-1].payload["reason"] == 1


def self_signed() -> str:
    own = pki.new_key("ecdsa", 256)
    certificate = privateca.self_signed(
        own, pki.subject_name({"common_name": "any"}), 9, 0, {"key_cert_sign"}
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def test_a_download_without_a_chain_is_trouble(ca, stub):
    stub.tell("/cert/1", Reply(body=b"<html>"), Reply(body=b"-----BEGIN CERTIFICATE-----\nAA==\n"))
    assert trouble(ca.download, f"{stub.url}/cert/1").code == "ca_error"
    assert "BEGIN" in ca.download(f"{stub.url}/cert/1")
    assert stub.asked[-1].headers["accept"] == "application/pem-certificate-chain"
    assert stub.asked[-1].payload is None


def test_a_paused_name_needs_a_person(ca, stub):
    page = "https://ca.example/unpause?jwt=token"
    words = (
        "Your account is temporarily prevented from requesting certificates for example.com and"
        f" possibly others. Please visit: {page}"
    )
    stub.tell("/newOrder", problem("rateLimited", words, 429, headers={"Retry-After": "90"}))
    refused = trouble(ca.new_order, ["example.com"])
    assert (refused.code, refused.permanent) == ("ca_paused", True)
    assert page in refused.what


def test_a_prepared_request_is_one_exchange(ca, stub):
    ca.prepare()
    count = len(stub.asked)
    ca.new_order(["example.com"])
    assert len(stub.asked) == count + 1


# --- how long ---


def test_a_rate_limit_has_the_time_that_the_ca_says(ca, stub):
    at = clock.now() + timedelta(minutes=30)
    later = clock.now() + timedelta(hours=2)
    words = f"too many certificates, retry after {later:%Y-%m-%d %H:%M:%S} UTC: see the docs"
    stub.tell(
        "/newOrder",
        problem("rateLimited", "slowly", 429, headers={"Retry-After": "90"}),
        problem(
            "rateLimited",
            "slowly",
            429,
            headers={"Retry-After": format_datetime(at.astimezone(UTC), usegmt=True)},
        ),
        problem("rateLimited", words, 429),
        problem("rateLimited", "slowly", 429),
        Reply(429, b"slowly", {"Retry-After": "5"}),
    )
    limits = [trouble(ca.new_order, ["example.com"]) for _ in range(5)]
    assert {each.code for each in limits} == {"ca_rate_limited"}
    pauses = [each.retry_after for each in limits]
    assert pauses == [90, pytest.approx(1800, abs=5), pytest.approx(7200, abs=5), 300, 5]
    assert "slowly" in limits[0].what


@pytest.mark.parametrize(
    "reply",
    [
        Reply(503, b"busy", {"Retry-After": "17"}),
        problem("serverInternal", status=503, headers={"Retry-After": "17"}),
    ],
)
def test_a_busy_ca_says_when_to_come_back(ca, stub, reply):
    stub.tell("/order/1", reply)
    busy = trouble(ca.read_order, f"{stub.url}/order/1")
    assert (busy.code, busy.retry_after) == ("ca_error", 17)


def test_the_orders_own_retry_after_is_handed_on(ca):
    order = ca.new_order(["example.com"])
    assert ca.finalize(order, CSR).retry_after == 7


# --- nonces ---


def test_five_bad_nonces_are_survived_with_the_nonces_that_came_with_them(ca, stub):
    stub.tell("/newOrder", *[problem("badNonce")] * 5)
    assert ca.new_order(["example.com"]).status == "pending"
    used = [each.protected["nonce"] for each in stub.asked if each.method == "POST"]
    assert len(used) == len(set(used)) == 6
    assert stub.paths().count("HEAD /newNonce") == 1


def test_the_sixth_bad_nonce_is_trouble_that_passes(ca, stub):
    stub.tell("/newOrder", *[problem("badNonce")] * 6)
    storm = trouble(ca.new_order, ["example.com"])
    assert storm.code == "ca_bad_nonce"
    assert not isinstance(storm, Refused)
    assert stub.paths().count("POST /newOrder") == 6


def test_a_bad_nonce_without_another_one_asks_for_one(ca, stub):
    bad = problem("badNonce")
    bad.nonce = False
    stub.tell("/newOrder", bad)
    ca.new_order(["example.com"])
    assert stub.paths().count("HEAD /newNonce") == 2


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_nonce_that_is_refused_is_trouble_that_passes(ca, stub, status):
    stub.tell("/newNonce", Reply(status))
    missing = trouble(ca.new_order, ["example.com"])
    assert missing.code == "ca_error"
    assert not isinstance(missing, Refused)
    assert "POST /newOrder" not in stub.paths()
    assert ca.new_order(["example.com"]).status == "pending"


def test_old_nonces_are_not_tried_one_after_the_other(ca, stub):
    ca.new_order(["example.com"])
    acme.connection_to(stub.directory_url).nonces[:0] = ["old"] * 20
    stub.tell("/order/1", problem("badNonce"))
    ca.read_order(f"{stub.url}/order/1")
    assert len(acme.connection_to(stub.directory_url).nonces) == 1


def test_nonces_that_come_with_gets_are_kept_up_to_a_few_the_newest(ca, stub):
    stub.sends_nonces_on_get = True
    for _ in range(50):
        ca.network.read_directory()
    assert acme.connection_to(stub.directory_url).nonces == stub.issued_nonces[-32:]
    ca.read_order(f"{stub.url}/order/1")
    assert nonces_used(stub) == [stub.issued_nonces[49]], "the newest at that time"


PAGE = Reply(500, b"<html>Internal Server Error</html>", nonce=False)


def nonces_used(stub) -> list[str]:
    return [each.protected["nonce"] for each in stub.asked if each.method == "POST"]


@pytest.mark.parametrize(
    "reply",
    [
        PAGE,
        Reply(400, b"", nonce=False),
        Reply(404, b"<html>", nonce=False),
        replace(problem("malformed", status=400), nonce=False),
        replace(problem("serverInternal", status=500), nonce=False),
    ],
)
def test_a_refusal_without_a_nonce_is_met_once_with_a_fresh_one_at_once(ca, stub, reply):
    ca.new_order(["example.com"])
    acme.connection_to(stub.directory_url).nonces[:0] = ["old"] * 20
    stub.tell("/order/1", reply)
    assert ca.read_order(f"{stub.url}/order/1").status == "pending"
    assert stub.paths()[-3:] == ["POST /order/1", "HEAD /newNonce", "POST /order/1"]
    assert "old" not in nonces_used(stub)


def test_errors_without_a_nonce_are_retried_once_only(ca, stub):
    ca.new_order(["example.com"])
    stub.tell("/order/1", *[PAGE] * 9)
    again = trouble(ca.read_order, f"{stub.url}/order/1")
    assert (again.code, stub.paths().count("POST /order/1")) == ("ca_error", 2)
    assert "html" not in again.what
    assert acme.connection_to(stub.directory_url).nonces == []
    trouble(ca.read_order, f"{stub.url}/order/1")
    assert stub.paths().count("POST /order/1") == 3  # the nonce was fresh: it is not to blame


@pytest.mark.parametrize(
    ("reply", "pause"),
    [
        (Reply(503, b"busy", {"Retry-After": "9"}, nonce=False), 9),
        (replace(problem("rateLimited", status=429), nonce=False), 300),
    ],
)
def test_a_ca_that_asks_for_a_pause_gets_it(ca, stub, reply, pause):
    ca.new_order(["example.com"])
    stub.tell("/order/1", reply)
    assert trouble(ca.read_order, f"{stub.url}/order/1").retry_after == pause
    assert stub.paths().count("POST /order/1") == 1


def test_the_kept_nonces_are_thrown_away_when_no_answer_comes(ca, stub):
    ca.new_order(["example.com"])
    stub.tell("/order/1", Reply(drop=True))
    assert trouble(ca.read_order, f"{stub.url}/order/1").code == "ca_unreachable"
    assert acme.connection_to(stub.directory_url).nonces == []


def test_a_bad_nonce_without_a_fresh_one_throws_all_kept_ones_away(ca, stub):
    ca.new_order(["example.com"])
    acme.connection_to(stub.directory_url).nonces[:0] = ["old"] * 20
    stub.tell("/order/1", replace(problem("badNonce"), nonce=False))
    ca.read_order(f"{stub.url}/order/1")
    assert "old" not in nonces_used(stub)


@pytest.mark.parametrize(
    "reply",
    [
        problem("malformed", "JWS has an invalid anti-replay nonce", 400),
        problem("malformed", "The nonce is expired", 400),
        problem("serverInternal", "unknown nonce", 500),
    ],
)
def test_an_old_nonce_may_be_refused_in_words(ca, stub, reply):
    stub.tell("/newOrder", reply)
    assert ca.new_order(["example.com"]).status == "pending"


@pytest.mark.parametrize(
    "nonce", ["AAAB", "AB", "a-b_c", "YWJj=", "a+b/c==", "42", "{fe12-34}", "x" * 300]
)
def test_a_nonce_is_sent_back_as_it_came(ca, stub, nonce):
    """The nonce may be non-canonical base64url, or not base64url at all."""
    stub.tell("/newNonce", Reply(headers={"Replay-Nonce": nonce}, nonce=False))
    ca.new_order(["example.com"])
    assert nonces_used(stub) == [nonce]


@pytest.mark.parametrize("nonce", ["", "two words", "ü", "x" * 2000])
def test_an_invalid_nonce_is_not_used(ca, stub, nonce):
    stub.tell("/newNonce", Reply(headers={"Replay-Nonce": nonce}, nonce=False))
    assert "no nonces" in trouble(ca.new_order, ["example.com"]).what


def test_a_ca_without_nonces_is_trouble(ca, stub):
    stub.tell("/newNonce", Reply(nonce=False))
    assert "no nonces" in trouble(ca.new_order, ["example.com"]).what


# --- few messages ---


def test_an_issuance_costs_one_message_for_each_call_and_two_to_begin(ca, stub):
    ca.register()
    order = ca.new_order(["example.com"])
    authorization = ca.read_authorization(order.authorizations[0])
    ca.answer(authorization.choosing("dns-01").challenge.url)
    order = ca.read_order(order.url)
    ca.finalize(order, CSR)
    assert stub.paths() == [
        "GET /dir",
        "HEAD /newNonce",
        "POST /newAccount",
        "POST /newOrder",
        "POST /authz/1",
        "POST /chall/1",
        "POST /order/1",
        "POST /finalize/1",
    ]
    assert stub.connections == 1


def test_two_accounts_of_a_thread_share_directory_and_nonces(ca, stub):
    ca.new_order(["example.com"])
    acme.AcmeCA(stub.directory_url, acme.new_account_key(), url=f"{stub.url}/account/2").new_order(
        ["example.com"]
    )
    assert stub.paths() == ["GET /dir", "HEAD /newNonce", "POST /newOrder", "POST /newOrder"]
    assert [each.protected["kid"][-1] for each in stub.asked[2:]] == ["1", "2"]


def test_the_directory_is_read_again_after_an_hour_and_after_an_error(ca, stub, monkeypatch):
    ca.new_order(["example.com"])
    stub.tell("/newOrder", Reply(503, b""))
    trouble(ca.new_order, ["example.com"])
    ca.new_order(["example.com"])
    assert stub.paths().count("GET /dir") == 2
    ahead = clock.monotonic() + 3601
    monkeypatch.setattr(clock, "monotonic", lambda: ahead)
    ca.new_order(["example.com"])
    assert stub.paths().count("GET /dir") == 3


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Cache-Control": "public, max-age=600"}, 595, 600),
        ({"Cache-Control": "max-age=600", "Expires": "0"}, 595, 600),
        ({"Cache-Control": "public, max-age=0, no-cache"}, 55, 60),
        ({"Cache-Control": "no-store, max-age=600"}, 55, 60),
        ({"Cache-Control": "max-age=86400"}, 3595, 3600),
        ({"Cache-Control": "s-maxage=600"}, 3595, 3600),
        ({"Expires": "0"}, 55, 60),
        ({}, 3595, 3600),
    ],
)
def test_the_directory_is_kept_as_its_headers_say(ca, stub, headers, least, most):
    stub.tell("/dir", Reply(body=stub.usual("/dir").body, headers=headers))
    ca.profiles()
    left = acme.connection_to(stub.directory_url).good_until - clock.monotonic()
    assert least <= left <= most


def test_the_directory_is_kept_until_its_header_expires_says(ca, stub):
    ends = format_datetime(clock.now() + timedelta(minutes=30), usegmt=True)
    stub.tell("/dir", Reply(body=stub.usual("/dir").body, headers={"Expires": ends}))
    ca.profiles()
    left = acme.connection_to(stub.directory_url).good_until - clock.monotonic()
    assert 1700 <= left <= 1800


def test_threads_use_no_nonce_twice(stub):
    accounts = [
        acme.AcmeCA(stub.directory_url, acme.new_account_key(), url=f"{stub.url}/account/{number}")
        for number in range(4)
    ]
    with ThreadPoolExecutor(len(accounts)) as threads:
        list(
            threads.map(
                lambda ca: [ca.read_order(f"{stub.url}/order/1") for _ in range(10)], accounts
            )
        )
    used = nonces_used(stub)
    assert len(set(used)) == len(used)


@pytest.mark.parametrize(
    "reply",
    [Reply(body={"hello": "there"}), Reply(body=b"<html>"), Reply(404, b"no"), Reply(500, b"")],
)
def test_a_directory_that_is_none_is_said_to_be_none(ca, stub, reply):
    stub.tell("/dir", reply)
    none = trouble(ca.register)
    assert none.code == "ca_error"
    assert stub.paths() == ["GET /dir"]


# --- what is sent ---


def test_requests_are_signed_by_es256_with_the_accounts_url(ca, stub):
    ca.register()
    ca.new_order(["example.com", "*.example.com"])
    register, order = stub.asked[-2:]
    assert register.protected["alg"] == "ES256"
    assert register.protected["jwk"]["crv"] == "P-256"
    assert "kid" not in register.protected
    assert register.payload["termsOfServiceAgreed"] is True
    assert order.protected["kid"] == ca.url
    assert "jwk" not in order.protected
    assert order.protected["url"] == f"{stub.url}/newOrder"
    assert [each["value"] for each in order.payload["identifiers"]] == [
        "example.com",
        "*.example.com",
    ]
    assert order.headers["user-agent"].startswith("certctrl/")


def test_every_url_of_an_answer_is_resolved_against_that_of_the_request(stub):
    """RFC 9110, section 10.2.2, and RFC 3986."""
    stub.tell("/dir", Reply(body={name: f"/{name}" for name in stub.directory}))
    stub.tell("/newAccount", Reply(201, {"status": "valid"}, {"Location": "account/7"}))
    order = {
        "status": "valid",
        "finalize": "finalize/1",
        "authorizations": ["/authz/1"],
        "certificate": "../cert/1",
    }
    stub.tell(
        "/newOrder",
        Reply(201, order, {"Location": f"//{stub.url.removeprefix('http://')}/order/1"}),
    )
    challenge = {"type": "dns-01", "url": "../chall/1", "status": "pending", "token": "t" * 43}
    stub.tell("/authz/1", Reply(body=stub.usual("/authz/1").body | {"challenges": [challenge]}))
    ca = acme.AcmeCA(stub.directory_url, acme.new_account_key())
    assert ca.register().url == f"{stub.url}/account/7"
    order = ca.new_order(["example.com"])
    assert (order.url, order.authorizations) == (f"{stub.url}/order/1", (f"{stub.url}/authz/1",))
    assert (order.finalize_url, order.certificate_url) == (
        f"{stub.url}/finalize/1",
        f"{stub.url}/cert/1",
    )
    (read,) = ca.read_authorization(order.authorizations[0]).challenges
    assert read.url == f"{stub.url}/chall/1"


@pytest.mark.parametrize(
    "location", ["", " ", "mailto:ca@example.com", "http://[", "javascript:alert(1)"]
)
def test_a_location_that_leads_nowhere_is_trouble(ca, stub, location):
    stub.tell("/newOrder", Reply(201, stub.usual("/order/1").body, {"Location": location}))
    assert trouble(ca.new_order, ["example.com"]).code == "ca_error"


def test_the_renewal_information_may_be_a_path(ca, stub):
    stub.tell("/dir", Reply(body=stub.usual("/dir").body | {"renewalInfo": "/ari/"}))
    window = {"start": "2030-01-01T00:00:00Z", "end": "2030-01-02T00:00:00Z"}
    stub.tell("/ari/a.b", Reply(body={"suggestedWindow": window}))
    assert ca.renewal_info("a.b").window_start == datetime(2030, 1, 1, tzinfo=UTC)


def test_the_page_that_a_person_must_visit_may_be_a_path(ca, stub):
    stub.tell(
        "/newOrder",
        problem("userActionRequired", "Agree to the new terms", 403, instance="/agree/7"),
    )
    assert f"see {stub.url}/agree/7" in trouble(ca.new_order, ["example.com"]).what


@pytest.mark.parametrize(
    "written",
    ["c2VjcmV0-_-_aG1hYy1rZXk", "c2VjcmV0+/+/aG1hYy1rZXk=", " c2VjcmV0-_-_\naG1hYy1rZXk==\r\n"],
)
def test_the_key_of_a_binding_may_be_written_in_any_base64(stub, written):
    acme.AcmeCA(
        stub.directory_url, acme.new_account_key(), external=acme.ExternalAccount("kid-1", written)
    ).register()
    binding = stub.asked[-1].payload["externalAccountBinding"]
    key = base64.urlsafe_b64decode("c2VjcmV0-_-_aG1hYy1rZXk=")
    signed = f"{binding['protected']}.{binding['payload']}".encode()
    expected = base64.urlsafe_b64encode(hmac.digest(key, signed, "sha256")).decode().rstrip("=")
    assert binding["signature"] == expected


def test_a_contact_is_sent_only_when_there_is_one(stub):
    for email in ("", "owner@example.com"):
        acme.AcmeCA(stub.directory_url, acme.new_account_key(), email=email).register()
    without, with_one = (each.payload for each in stub.asked if each.path == "/newAccount")
    assert "contact" not in without
    assert with_one["contact"] == ["mailto:owner@example.com"]


def test_a_key_authorization_is_the_token_and_the_thumbprint(ca, stub):
    key = acme.new_account_key()
    found = acme.AcmeCA(stub.directory_url, key, url=ca.url).read_authorization(
        f"{stub.url}/authz/1"
    )
    (challenge,) = found.challenges
    assert challenge.key_authorization == f"{'t' * 43}.{acme.thumbprint(key)}"
    assert (challenge.url, challenge.status) == (f"{stub.url}/chall/1", "pending")


def test_wildcards_expired_ones_and_unknown_challenges_are_read(ca, stub):
    base = {"identifier": {"type": "dns", "value": "example.com"}, "wildcard": True}
    persist = {"type": "dns-persist-01", "url": f"{stub.url}/chall/2", "status": "pending"}
    stub.tell(
        "/authz/1",
        Reply(body=base | {"status": "expired", "challenges": []}),
        Reply(body=base | {"status": "pending", "challenges": [persist]}),
    )
    first, second = (ca.read_authorization(f"{stub.url}/authz/1") for _ in range(2))
    assert (first.status, first.wildcard) == ("expired", True)
    (challenge,) = second.challenges
    assert (challenge.type, challenge.key_authorization) == ("dns-persist-01", "")
    assert second.choosing("dns-01").challenge is None


def test_why_a_challenge_failed_and_why_an_order_is_invalid_are_handed_on(ca, stub):
    error = {"type": stubs.PREFIX + "caa", "detail": "CAA forbids it", "status": 403}
    challenge = {
        "type": "dns-01",
        "url": f"{stub.url}/chall/1",
        "status": "invalid",
        "token": "t" * 43,
        "error": error,
    }
    identifier = {"type": "dns", "value": "example.com"}
    stub.tell(
        "/authz/1",
        Reply(body={"status": "invalid", "identifier": identifier, "challenges": [challenge]}),
    )
    found = ca.read_authorization(f"{stub.url}/authz/1").problem
    assert (found.type, found.code, found.permanent) == ("caa", "ca_caa", False)
    assert str(found) == "CAA forbids it (caa)"
    order = stub.usual("/order/1").body | {
        "status": "invalid",
        "error": error | {"type": stubs.PREFIX + "rejectedIdentifier"},
    }
    stub.tell("/order/1", Reply(body=order))
    found = ca.read_order(f"{stub.url}/order/1").problem
    assert (found.code, found.permanent) == ("ca_rejected_identifier", True)


# --- words ---


def test_every_subproblem_is_reported_with_its_name(ca, stub):
    subproblems = [
        {
            "type": stubs.PREFIX + "caa",
            "detail": "CAA forbids it",
            "identifier": {"type": "dns", "value": "a.example.com"},
        },
        {
            "type": stubs.PREFIX + "rejectedIdentifier",
            "detail": "never",
            "identifier": {"type": "dns", "value": "b.example.com"},
        },
        "nonsense",
    ]
    stub.tell("/newOrder", problem("compound", "Two problems", 403, subproblems=subproblems))
    refused = trouble(ca.new_order, ["a.example.com", "b.example.com"])
    assert "Two problems; a.example.com: CAA forbids it; b.example.com: never" in refused.what
    assert (refused.code, refused.permanent) == ("ca_rejected_identifier", True)


def test_the_page_that_a_person_must_visit_is_named(ca, stub):
    reply = problem(
        "userActionRequired", "Agree to the new terms", 403, instance="https://ca.example/agree/7"
    )
    stub.tell("/newOrder", reply)
    assert "see https://ca.example/agree/7" in trouble(ca.new_order, ["example.com"]).what


def test_words_are_one_printable_line_of_at_most_a_thousand_characters():
    words = words_of({"detail": "a\x1b[31m\r\nb\x00" + "c" * 5000})
    assert words.startswith("a [31m b c")
    assert words.isprintable()
    assert len(words) == 1000


@pytest.mark.parametrize(
    "document",
    [{"type": 5, "detail": ["x"]}, {"subproblems": {"a": 1}}, {"type": "https://x/y z"}, []],
)
def test_a_problem_document_of_any_shape_is_survived(ca, stub, document):
    stub.tell("/newOrder", Reply(400, document))
    assert trouble(ca.new_order, ["example.com"]).code == "ca_refused"


def test_a_ca_that_is_not_there_is_unreachable():
    nowhere = acme.AcmeCA("http://127.0.0.1:1/dir", acme.new_account_key())
    assert trouble(nowhere.register).code == "ca_unreachable"


def test_a_url_that_the_ca_hands_out_is_guarded_too(ca, stub, settings):
    settings.ALLOW_PRIVATE = ["127.0.0.1"]
    ca.reach = base.Reach(hosts=("169.254.169.254",))
    order = stub.usual("/newOrder").body | {
        "authorizations": ["http://169.254.169.254/latest/meta-data"]
    }
    stub.tell("/newOrder", Reply(201, order, {"Location": f"{stub.url}/order/1"}))
    order = ca.new_order(["example.com"])
    refused = trouble(ca.read_authorization, order.authorizations[0])
    assert refused.code == "ca_unreachable"
    assert "169.254.169.254 is not a public address" in refused.what


@pytest.mark.parametrize("host", ["inside.corp.example", "127.0.0.2", "localhost", "2130706433"])
def test_an_address_that_is_not_the_cas_own_is_not_called(ca, stub, host):
    elsewhere = stub.url.replace("127.0.0.1", host)
    order = stub.usual("/newOrder").body | {
        "authorizations": [f"{elsewhere}/authz/1"],
        "finalize": f"{elsewhere}/end",
    }
    stub.tell("/newOrder", Reply(201, order, {"Location": f"{stub.url}/order/1"}))
    order = ca.new_order(["example.com"])
    asked = len(stub.asked)
    refused = trouble(ca.read_authorization, order.authorizations[0])
    assert refused.code == "ca_bad_url"
    assert f"sent an address at {host}, which is not in the domain of its directory" in refused.what
    assert "ACME_CAS" in refused.what
    assert len(stub.asked) == asked


@pytest.mark.parametrize(
    ("directory", "url", "called"),
    [
        ("https://acme.ca.example/dir", "https://acme.ca.example:8443/order/1", True),
        ("https://acme.ca.example/dir", "https://ACME.ca.example./order/1", True),
        ("https://acme.ca.example/dir", "https://certs.ca.example/1", True),
        ("https://acme.ca.example/dir", "https://certs.ca-example.net/1", True),
        ("https://acme.ca.example/dir", "https://ca.example.evil.example/1", False),
        ("https://acme.ca.co.uk/dir", "https://acme.evil.co.uk/1", False),
        ("https://me.github.io/dir", "https://you.github.io/1", False),
        ("https://pebble:14000/dir", "https://pebble:15000/1", True),
        ("https://pebble:14000/dir", "https://redis/1", False),
        ("https://10.0.0.5/dir", "https://10.0.0.6/1", False),
        ("https://10.0.0.5/dir", "https://169.254.169.254/1", False),
    ],
)
def test_urls_of_a_ca_stay_in_its_domain_or_its_listed_hosts(directory, url, called, monkeypatch):
    ca = acme.AcmeCA(
        directory, acme.new_account_key(), reach=base.Reach(hosts=("certs.ca-example.net",))
    )
    sent = []

    def send(self, method, url, **kwargs):
        sent.append(url)
        raise requests.ConnectionError("nobody is there")

    monkeypatch.setattr("certctrl.outgoing.OutgoingSession.request", send)
    code = trouble(ca.network._send_request, "GET", url).code
    assert (code, sent) == (("ca_unreachable", [url]) if called else ("ca_bad_url", []))


def redirect_to(url: str) -> Reply:
    return Reply(302, b"", {"Location": url})


def test_a_redirect_out_of_the_cas_domain_is_not_followed(ca, stub):
    stub.tell("/dir", redirect_to(f"{stub.url.replace('127.0.0.1', 'localhost')}/elsewhere"))
    refused = trouble(ca.network.read_directory)
    assert refused.code == "ca_bad_url"
    assert "sent an address at localhost" in refused.what
    assert stub.paths() == ["GET /dir"]


def test_every_hop_of_a_redirect_is_checked(ca, stub):
    """The second hop leaves the domain, and the third would lead back into it."""
    stub.tell("/ari", redirect_to("/ari/2"))
    stub.tell("/ari/2", redirect_to(f"{stub.url.replace('127.0.0.1', 'localhost')}/ari/3"))
    stub.tell("/ari/3", redirect_to(f"{stub.url}/ari/4"))
    assert trouble(ca.network.read_renewal_info, f"{stub.url}/ari").code == "ca_bad_url"
    assert stub.paths() == ["GET /ari", "GET /ari/2"]


def test_a_redirect_to_a_host_of_the_list_is_followed(ca, stub, settings):
    settings.ALLOW_PRIVATE = ["127.0.0.1", "localhost"]
    ca.network.reach = base.Reach(hosts=("localhost",))
    stub.tell("/dir", redirect_to(f"{stub.url.replace('127.0.0.1', 'localhost')}/moved"))
    stub.tell("/moved", stub.usual("/dir"))
    assert ca.network.read_directory()["newOrder"] == f"{stub.url}/newOrder"


@pytest.mark.parametrize(
    ("directory", "url", "called"),
    [
        ("https://acme.ca.example/dir", "http://acme.ca.example/order/1", False),
        ("https://acme.ca.example/dir", "HTTP://certs.ca.example/order/1", False),
        ("http://acme.ca.example/dir", "http://acme.ca.example/order/1", True),
        ("http://acme.ca.example/dir", "https://acme.ca.example/order/1", True),
    ],
)
def test_an_https_ca_is_not_called_by_http(directory, url, called, monkeypatch):
    ca = acme.AcmeCA(directory, acme.new_account_key())
    sent = []

    def call(method, url, body, headers):
        sent.append(url)
        raise requests.ConnectionError("nobody is there")

    monkeypatch.setattr("certctrl.outgoing.call", call)
    refused = trouble(ca.network._send_request, "POST", url)
    assert (refused.code, sent) == (("ca_unreachable", [url]) if called else ("ca_bad_url", []))
    assert called or "http address" in refused.what


def test_no_secret_is_in_a_repr_or_a_message(stub):
    external = acme.ExternalAccount("kid-1", "c2VjcmV0LWhtYWMta2V5LXNlY3JldC1obWFjLWtleQ")
    ca = acme.AcmeCA(stub.directory_url, acme.new_account_key(), external=external)
    stub.tell("/newAccount", problem("unauthorized", "wrong EAB", 403))
    refused = trouble(ca.register)
    assert refused.code == "ca_bad_eab"
    for text in (repr(external), repr(ca), refused.what):
        assert external.hmac_key not in text


def test_dates_are_aware_and_in_utc(ca):
    assert ca.new_order(["example.com"]).expires_at == datetime(2030, 1, 1, tzinfo=UTC)
