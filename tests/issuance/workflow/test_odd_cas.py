"""CAs with lagging nodes, incomplete responses, and unusual URLs and chains.

Each case was reported for a real CA. The fake CA repeats it over HTTP.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authorities import acme, clients
from authorities.models import AcmeAccount
from issuance.beat import renewals
from issuance.models import Certificate, CertificateVersion, Issuance
from keystore import envelope
from tests.authorities.stub import Reply, problem
from tests.fakes import wireca
from tests.fakes.ca import authority
from tests.fakes.wireca import WireCA, with_, without
from tests.fakes.world import World

pytestmark = pytest.mark.django_db
State = Issuance.State
client_for = clients.client_for


@pytest.fixture
def wire(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[WireCA]:
    with wireca.running() as running:
        monkeypatch.setattr(clients, "client_for", client_for)
        # A kept client may have the key of an earlier test, whose CA had the same port.
        monkeypatch.setattr(clients, "_kept", threading.local())
        yield running


@pytest.fixture
def account(world: World, wire: WireCA, owner) -> AcmeAccount:
    key = acme.new_account_key()
    wire.serves(world.ca, key)
    sealed = envelope.seal(owner, "acme_account_key", key)
    return world.account(
        owner, directory_url=wire.directory_url, key=sealed, url=f"{wire.url}/account/1"
    )


def last() -> Issuance:
    return Issuance.objects.order_by("pk").last()


def pass_time(world: World, seconds: float, step: float = 5) -> None:
    """Sweep every few seconds until the attempt ends or the time is over."""
    until = world.passed + seconds
    while world.passed < until and last().is_open:
        world.advance(step)
        world.sweep()


def issue(world: World, account, credential, seconds: float = 0, *names: str) -> Issuance:
    world.create(account, credential, *(names or ("example.com",)))
    world.deliver()
    pass_time(world, seconds)
    return last()


def what(attempt: Issuance) -> str:
    return " ".join(attempt.events.values_list("what", flat=True))


def test_over_the_wire_it_issues(world, wire, account, credential):
    attempt = issue(world, account, credential, 0, "example.com", "*.example.com")
    assert (attempt.state, attempt.error_what) == (State.ISSUED, "")


def test_one_name_takes_six_requests_and_the_first_two_more(world, wire, account, credential):
    issue(world, account, credential)
    assert wire.paths() == [
        "GET /dir",
        "HEAD /newNonce",
        "POST /newOrder",
        "POST /order/0/authz/0",
        "POST /order/0/authz/0/chall",
        "POST /order/0",
        "POST /order/0/finalize",
        "POST /order/0/cert",
    ]
    wire.asked.clear()
    issue(world, account, credential, 0, "example.net")
    assert len(wire.asked) == 6


def test_a_ca_that_takes_its_time_gets_nine_requests(world, wire, account, credential):
    issue(world, account, credential)
    wire.asked.clear()
    world.ca.validation_reads = world.ca.processing_reads = 1
    attempt = issue(world, account, credential, 60, "example.net")
    assert attempt.state == State.ISSUED
    assert len(wire.asked) <= 9, wire.paths()


def test_a_ca_that_signs_in_the_background_is_asked_at_once(world, wire, account, credential):
    world.ca.processing_reads = 1
    assert issue(world, account, credential, 0).state == State.ISSUED
    assert wire.paths().count("POST /order/0") == 2


def test_a_ca_that_asks_for_a_pause_is_asked_after_it(world, wire, account, credential):
    world.ca.processing_reads = 1
    asks = {"Retry-After": "7"}
    wire.change("/order/0/finalize", lambda reply: replace(reply, headers=reply.headers | asks))
    attempt = issue(world, account, credential, 0)
    assert (attempt.state, attempt.waits_for) == (State.VALIDATED, "The CA is signing.")
    assert attempt.wake_at >= world.time + timedelta(seconds=7)
    assert wire.paths()[-1] == "POST /order/0/finalize"


def test_an_order_that_was_changed_before_the_csr_is_read(world, wire, account, credential):
    wire.tell("/order/0/finalize", problem("malformed", "The order is not open.", 400))
    wire.change("/order/0", lambda reply: reply, times=1)
    wire.change("/order/0", with_(status="processing"), times=1)
    issue(world, account, credential)
    assert wire.paths()[-2:] == ["POST /order/0/finalize", "POST /order/0"]
    assert (last().state, last().waits_for) == (State.VALIDATED, "The CA is signing.")


NOT_FOUND = problem("malformed", "No such resource", 404)
NOT_FOUNDS = (
    NOT_FOUND,
    Reply(404, b"<html>not found</html>"),
    problem("malformed", "Order does not exist", 400),
    problem("unauthorized", "authorization not found", 403),
    Reply(404, {"type": "about:blank"}),
)


# --- nodes that lag ---


@pytest.mark.parametrize(
    "path",
    [
        "/order/0",
        "/order/0/authz/0",
        "/order/0/authz/0/chall",
        "/order/0/finalize",
        "/order/0/cert",
    ],
)
def test_a_resource_that_the_ca_named_may_be_missing_for_a_while(
    world, wire, account, credential, path
):
    wire.tell(path, *NOT_FOUNDS)
    attempt = issue(world, account, credential, 300)
    assert (attempt.state, Issuance.objects.count(), len(world.ca.orders)) == (State.ISSUED, 1, 1)
    assert "It may not exist yet." in what(attempt)


def test_an_order_that_never_is_there_is_an_error_after_minutes(world, wire, account, credential):
    wire.tell("/order/0/authz/0", *[NOT_FOUND] * 1000)
    issue(world, account, credential)
    pass_time(world, 8 * 60, step=30)
    assert last().is_open
    pass_time(world, 20 * 60, step=60)
    assert (last().state, last().error_code) == (State.FAILED, "ca_not_found")
    assert "No such resource" in last().error_what


@pytest.mark.parametrize("path", ["/order/0", "/order/0/cert"])
def test_an_attempt_whose_csr_was_sent_does_not_end_for_it(world, wire, account, credential, path):
    wire.change("/order/0/finalize", lambda reply: Reply(500, b""))
    issue(world, account, credential)
    assert last().csr_sent_at
    wire.changes.clear()
    wire.tell(path, *[NOT_FOUND] * 1000)
    pass_time(world, 5 * 3600, step=600)
    assert last().is_open
    wire.told.clear()
    pass_time(world, 3600, step=600)
    assert (last().state, Issuance.objects.count(), len(world.ca.orders)) == (State.ISSUED, 1, 1)


def test_a_page_of_something_in_between_ends_no_attempt_whose_csr_was_sent(
    world, wire, account, credential
):
    wire.tell("/order/0/cert", *[Reply(403, b"<html>blocked</html>")] * 5)
    assert issue(world, account, credential, 600).state == State.ISSUED
    assert "<html>" not in what(last())


def test_an_order_that_expired_at_the_ca_is_not_waited_for(world, wire, account, credential):
    wire.tell("/order/0/authz/0", problem("malformed", "Expired authorization", 404))
    assert issue(world, account, credential).state == State.FAILED


def test_an_account_that_one_node_does_not_know_yet_is_kept(world, wire, account, credential):
    wire.tell("/newOrder", *[problem("accountDoesNotExist", "No such account", 400)] * 2)
    assert issue(world, account, credential, 120).state == State.ISSUED
    account.refresh_from_db()
    assert (account.status, account.url) == ("valid", f"{wire.url}/account/1")
    assert "POST /newAccount" not in wire.paths()


def test_an_order_that_reads_pending_again_is_waited_for(world, wire, account, credential):
    """It was ready a moment ago, and another node shows an older status."""
    wire.change("/order/0", with_stale(iter(["ready", "pending", "pending", "ready"])))
    assert issue(world, account, credential, 120).state == State.ISSUED


def with_stale(statuses: Iterator[str]) -> Callable[[Reply], Reply]:
    return lambda reply: (
        with_(status=next(statuses))(reply) if reply.body["status"] == "ready" else reply
    )


def test_an_order_ready_after_the_csr_survives_a_second_csr(world, wire, account, credential):
    world.ca.processing_reads = 3
    wire.change("/order/0", with_(status="ready"), times=2)
    wire.change("/order/0/finalize", lambda reply: reply, times=1)
    wire.change(
        "/order/0/finalize", lambda reply: problem("malformed", "The order is finalized", 403)
    )
    assert issue(world, account, credential, 300).state == State.ISSUED


# --- what an answer lacks ---


def test_a_valid_order_that_does_not_name_its_certificate_is_read_again(
    world, wire, account, credential
):
    wire.change("/order/0/finalize", without("certificate"))
    wire.change("/order/0", without("certificate"), times=5)
    attempt = issue(world, account, credential, 120)
    assert (attempt.state, attempt.certificate_url) == (State.ISSUED, f"{wire.url}/order/0/cert")
    assert "does not show the URL of the certificate yet" in what(attempt)


def test_an_attempt_that_has_no_certificate_url_asks_the_order_for_it(
    world, wire, account, credential
):
    wire.tell("/order/0/cert", Reply(500, b""))
    issue(world, account, credential)
    Issuance.objects.update(certificate_url="")
    pass_time(world, 60)
    assert (last().state, last().certificate_url) == (State.ISSUED, f"{wire.url}/order/0/cert")


def test_an_order_that_does_not_list_its_authorizations_is_read_again(
    world, wire, account, credential
):
    wire.change("/newOrder", without("authorizations"))
    wire.change("/order/0", without("authorizations"), times=2)
    assert issue(world, account, credential, 60).state == State.ISSUED
    assert wire.paths().count("POST /newOrder") == 1


def test_an_order_that_first_lists_some_authorizations_only_is_issued(
    world, wire, account, credential
):
    wire.change(
        "/newOrder",
        wireca.body(lambda order: order | {"authorizations": order["authorizations"][:1]}),
    )
    names = ("a.example.com", "b.example.com", "c.example.com")
    assert issue(world, account, credential, 60, *names).state == State.ISSUED


def test_authorizations_with_another_url_at_each_reading_lead_in_no_circle(
    world, wire, account, credential
):
    world.ca.validation_reads = 3
    numbers = count()

    def another(order: dict) -> dict:
        return order | {
            "authorizations": [f"{each}?{next(numbers)}" for each in order["authorizations"]]
        }

    wire.change("/order/0", wireca.body(another))
    assert issue(world, account, credential, 60).state == State.ISSUED
    assert last().events.filter(step="order").count() == 1


def test_an_order_without_its_own_url_is_asked_for_again(world, wire, account, credential):
    wire.change("/newOrder", lambda reply: Reply(reply.status, reply.body), times=2)
    assert issue(world, account, credential, 120).state == State.ISSUED
    assert len(world.ca.orders) == 1


def test_a_ready_order_without_a_place_for_the_csr_is_read_again(world, wire, account, credential):
    wire.change("/newOrder", without("finalize"))
    wire.change("/order/0", without("finalize"), times=4)
    assert issue(world, account, credential, 60).state == State.ISSUED


@pytest.mark.parametrize("member", ["token", "url"])
def test_a_challenge_that_lacks_something_is_read_again(world, wire, account, credential, member):
    def lacks(document: dict) -> dict:
        left = {name: value for name, value in document["challenges"][0].items() if name != member}
        return document | {"challenges": [left]}

    wire.change("/order/0/authz/0", wireca.body(lacks), times=2)
    assert issue(world, account, credential, 120).state == State.ISSUED


def test_an_authorization_without_challenges_is_read_again(world, wire, account, credential):
    wire.change("/order/0/authz/0", with_(challenges=[]), times=2)
    assert issue(world, account, credential, 60).state == State.ISSUED


def test_an_order_that_never_says_when_it_expires_is_issued(world, wire, account, credential):
    for path in ("/newOrder", "/order/0", "/order/0/finalize"):
        wire.change(path, without("expires"))
    assert issue(world, account, credential).state == State.ISSUED


# --- challenges that failed ---

REFUSAL = {
    "type": "urn:ietf:params:acme:error:incorrectResponse",
    "detail": "The record says something else.",
}


def challenge(**members) -> Callable[[Reply], Reply]:
    return wireca.body(
        lambda document: document | {"challenges": [document["challenges"][0] | members]}
    )


@pytest.mark.parametrize(
    "members",
    [
        {"status": "invalid", "error": REFUSAL},
        {"status": "invalid"},
        {"status": "pending", "error": REFUSAL},
    ],
)
def test_a_failed_challenge_ends_the_attempt_at_any_authorization_status(
    world, wire, account, credential, members
):
    world.ca.validation_reads = 10**6
    issue(world, account, credential)
    wire.change("/order/0/authz/0", challenge(**members))
    pass_time(world, 60)
    assert last().state == State.FAILED
    said = (
        "The record says something else."
        if "error" in members
        else "challenge for example.com is invalid"
    )
    assert said in last().error_what


def test_a_challenge_still_processing_is_waited_for_in_the_cas_words(
    world, wire, account, credential
):
    """RFC 8555, section 8.2: an error is added after each try, and the challenge stays
    `processing`.
    """
    world.ca.validation_reads = 40
    issue(world, account, credential)
    wire.change("/order/0/authz/0", challenge(status="processing", error=REFUSAL), times=5)
    pass_time(world, 10)
    assert last().is_open
    assert "The record says something else." in last().waits_for
    pass_time(world, 900)
    assert last().state == State.ISSUED


def test_a_challenge_that_failed_before_the_response_ends_the_attempt(
    world, wire, account, credential
):
    wire.change("/order/0/authz/0", challenge(status="invalid", error=REFUSAL))
    attempt = issue(world, account, credential)
    assert attempt.state == State.FAILED
    assert "The record says something else." in attempt.error_what
    assert world.zone.removed == [] == world.zone.txt()


def test_an_old_error_of_an_unanswered_challenge_ends_nothing(world, wire, account, credential):
    wire.change("/order/0/authz/0", challenge(error=REFUSAL), times=1)
    assert issue(world, account, credential).state == State.ISSUED


def test_an_error_in_a_pending_order_is_reported_while_it_waits(world, wire, account, credential):
    wire.change("/order/0", with_(status="processing", error=REFUSAL), times=1)
    wire.change("/order/0", with_(status="processing", error=REFUSAL), times=1)
    issue(world, account, credential)
    assert "The record says something else." in last().waits_for


# --- the old order again ---


@pytest.fixture
def two_names(world, account, credential) -> Certificate:
    """One name is never proved, and the CA keeps the order pending."""
    world.ca.keeps_pending = True
    certificate, _ = world.create(account, credential, "a.example.com", "b.example.com")
    return certificate


def fail_one(world: World) -> None:
    order = world.ca.orders[max(world.ca.orders)]
    order.authorizations[1].status = "invalid"


def next_attempt(world: World, certificate: Certificate) -> None:
    certificate.refresh_from_db()
    world.advance(max(0.0, (certificate.renew_at - world.time).total_seconds()) + 1)
    renewals.scan_renewals.run()
    world.sweep()


def test_an_attempt_that_fails_gives_up_what_is_pending_of_its_order(
    world, wire, account, two_names
):
    world.ca.validation_reads = 10**6
    world.deliver()
    fail_one(world)
    pass_time(world, 60)
    assert last().state == State.FAILED
    assert [each.status for each in world.ca.orders[max(world.ca.orders)].authorizations] == [
        "deactivated",
        "invalid",
    ]
    world.ca.validation_reads = 0
    next_attempt(world, two_names)
    pass_time(world, 60)
    assert (last().number, last().state, len(world.ca.orders)) == (2, State.ISSUED, 2)


def test_an_order_that_the_ca_hands_out_for_ever_is_said_to_be_the_old_one(
    world, wire, account, two_names
):
    world.ca.validation_reads = 10**6
    refuse_to_deactivate(world, wire)
    world.deliver()
    fail_one(world)
    pass_time(world, 60)
    next_attempt(world, two_names)
    pass_time(world, 120)
    attempt = last()
    assert (attempt.number, attempt.state, attempt.error_code) == (2, State.FAILED, "ca_old_order")
    assert "the order of attempt 1 again, in which b.example.com has failed" in attempt.error_what
    assert "until it expires at 2030-01-01 00:00 UTC" in attempt.error_what


def refuse_to_deactivate(world: World, wire: WireCA) -> None:
    real = world.ca.call

    def call(name, effect):
        return None if name == "deactivate" else real(name, effect)

    world.ca.call = call


def test_then_the_fallback_account_is_next(world, wire, account, owner, two_names):
    other = world.account(
        owner, name="other", ca_provider="zerossl", directory_url="https://other.test/dir"
    )
    Certificate.objects.update(fallback_account=other)
    refuse_to_deactivate(world, wire)
    world.ca.validation_reads = 10**6
    world.deliver()
    fail_one(world)
    pass_time(world, 60)
    next_attempt(world, two_names)
    pass_time(world, 120)
    assert last().error_code == "ca_old_order"
    next_attempt(world, two_names)
    assert last().account == other


def test_authorizations_that_another_open_attempt_has_are_left_alone(
    world, wire, account, credential
):
    world.ca.validation_reads = 10**6
    world.ca.reuses_authorizations = True
    world.create(account, credential, "a.example.com", "b.example.com")
    world.create(account, credential, "a.example.com", "c.example.com")
    world.deliver()
    first, second = world.ca.orders.values()
    first.authorizations[1].status = "invalid"
    for _ in range(12):
        world.advance(5)
        world.sweep()
    assert Issuance.objects.order_by("pk").first().state == State.FAILED
    assert second.authorizations[0].status == "pending"


def test_an_attempt_that_its_own_dns_failed_leaves_the_order_to_the_next(
    world, wire, account, owner
):
    world.zone.hides = True
    issue(world, account, world.credential(owner, propagation_timeout=60), 120)
    assert (last().state, last().error_code) == (State.FAILED, "propagate_timed_out")
    assert world.outside.calls.count("ca.deactivate") == 0


def test_a_ca_that_is_away_keeps_no_attempt_from_failing(world, wire, account, two_names):
    world.ca.validation_reads = 10**6
    world.deliver()
    fail_one(world)
    wire.change(
        "/order/0/authz/0",
        lambda reply: reply if wire.asked[-1].payload is None else Reply(drop=True),
    )
    pass_time(world, 60)
    assert last().state == State.FAILED


def test_an_order_that_is_ready_at_once_needs_no_authorization(world, wire, account, credential):
    wire.change("/newOrder", ready(world))
    wire.tell("/order/0/authz/0", *[NOT_FOUND] * 100)
    assert issue(world, account, credential).state == State.ISSUED
    assert "POST /order/0/authz/0" not in wire.paths()


@pytest.mark.parametrize(
    "reply", [NOT_FOUND, problem("unauthorized", "Not yours", 403), Reply(500, b"<html>")]
)
def test_an_order_that_became_ready_needs_none_that_cannot_be_shown(
    world, wire, account, credential, reply
):
    change = ready(world)
    wire.change("/newOrder", lambda answer: with_(status="pending")(change(answer)))
    wire.tell("/order/0/authz/0", *[reply] * 100)
    assert issue(world, account, credential, 30).state == State.ISSUED


def ready(world: World) -> Callable[[Reply], Reply]:
    def change(reply: Reply) -> Reply:
        for each in world.ca.authorizations():
            each.status = "valid"
        return with_(status="ready")(reply)

    return change


# --- names and chains ---


def test_a_name_that_the_ca_adds_is_accepted_and_reported(
    world, wire, account, credential, client_of
):
    world.ca.adds_names = ("www.example.com",)
    attempt = issue(world, account, credential)
    assert attempt.state == State.ISSUED
    assert "the CA added www.example.com" in what(attempt)
    shown = (
        client_of(account.owner)
        .get(f"/apiv1/me/certificates/{attempt.certificate_id}")
        .json()["data"]
    )
    assert "The CA added names that were not requested: www.example.com." in shown["note"]


def test_certificates_that_do_not_belong_to_the_chain_are_left_out(
    world, wire, account, credential
):
    key = ec.generate_private_key(ec.SECP256R1())
    other = authority("stranger", key, "stranger", key).public_bytes(serialization.Encoding.PEM)
    wire.change(
        "/order/0/cert", lambda reply: Reply(body=other + reply.body + other, headers=reply.headers)
    )
    attempt = issue(world, account, credential)
    assert attempt.state == State.ISSUED
    assert "certificates that do not belong to the chain were left out: CN=stranger" in what(
        attempt
    )
    assert CertificateVersion.objects.get().chain_pem.count("BEGIN") == 2


# --- URLs as paths ---


def test_every_url_may_be_a_path(world, wire, account, credential):
    def relative(value):
        if isinstance(value, str):
            return value.removeprefix(wire.url) if value.startswith(wire.url) else value
        if isinstance(value, list):
            return [relative(each) for each in value]
        return (
            {name: relative(each) for name, each in value.items()}
            if isinstance(value, dict)
            else value
        )

    def change(reply: Reply) -> Reply:
        body = reply.body if isinstance(reply.body, bytes) else relative(reply.body)
        return Reply(
            reply.status, body, {name: relative(value) for name, value in reply.headers.items()}
        )

    for path in ("", "/authz/0", "/authz/0/chall", "/finalize"):
        wire.change(f"/order/0{path}", change)
    for path in ("/dir", "/newOrder", "/newAccount"):
        wire.change(path, change)
    AcmeAccount.objects.update(url="", status="pending", wake_at=world.time)
    attempt = issue(world, AcmeAccount.objects.get(), credential, 60)
    assert attempt.state == State.ISSUED
    assert AcmeAccount.objects.get().url == f"{wire.url}/account/1"
    assert attempt.order_url == f"{wire.url}/order/0"
