"""Debug mode keeps every exchange with a CA for its owner, without secrets."""

import json
from datetime import timedelta
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from django.conf import settings as django_settings
from josepy.json_util import encode_b64jose

from authorities import acme, clients, exchanges, registration
from authorities.models import AcmeAccount, Exchange
from certctrl import clock, outgoing, retention
from certctrl.sentences import MOST_SAID
from certctrl.turns import Trouble
from dnsclient import cnames
from dnsproviders.models import DnsCredential
from issuance import services, workflow
from issuance.beat import pruning
from issuance.challenges.base import Known
from issuance.models import Certificate, CertificateVersion, Issuance
from issuance.preflight import checks
from keystore import envelope
from tests.authorities import stub as stubs
from tests.authorities.stub import Reply, problem
from tests.fakes.ca import sign
from tests.fakes.outside import Died, Outside
from tests.fakes.zone import FakeZone

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]

HMAC_KEY = "aG1hYy1rZXktdGhhdC1ub2JvZHktbWF5LXJlYWQ"


@pytest.fixture
def stub():
    with stubs.running() as running:
        yield running


@pytest.fixture
def account(stub, owner) -> AcmeAccount:
    """An account at the stub, with debugging of requests."""
    return AcmeAccount.objects.create(
        owner=owner,
        name="an account",
        ca_provider="custom",
        directory_url=stub.directory_url,
        terms_accepted_at=clock.now(),
        key=envelope.seal(owner, "acme_account_key", acme.new_account_key()),
        url=f"{stub.url}/account/1",
        status=AcmeAccount.Status.VALID,
        log_level="debug",
        save_requests=True,
    )


@pytest.fixture
def issuance(account, owner, monkeypatch) -> Issuance:
    """An attempt at example.com before its first turn."""
    monkeypatch.setattr(cnames, "follow", FakeZone(Outside()).follow)
    # No zone is behind it.
    monkeypatch.setattr(checks, "check", lambda *args, **kwargs: ([], Known()))
    credential = DnsCredential.objects.create(owner=owner, name="a zone", provider="httpreq")
    spec = services.CertificateSpec(("example.com",), account, credential, "ecdsa", 256, {})
    certificate, _ = services.create_certificate(owner, spec, issue=False)
    return services.request_issuance(certificate)


def take(name: str, issuance: Issuance) -> Issuance:
    """Take one turn of the step, in any state of the attempt."""
    step = next(each for each in workflow.STEPS if each.name == name)
    Issuance.objects.filter(pk=issuance.pk).update(
        state=step.state, wake_at=clock.now() - timedelta(minutes=1)
    )
    workflow.take(step, issuance.pk)
    issuance.refresh_from_db()
    return issuance


def seen() -> list[tuple[str, str, str]]:
    """Return (step, method, path) of the stored exchanges."""
    rows = Exchange.objects.order_by("pk")
    return [
        (row.step, row.method, row.url.partition("/")[2].partition("/")[2].partition("/")[2])
        for row in rows
    ]


def everything() -> str:
    """Return all values of the rows as one text."""
    return json.dumps(list(Exchange.objects.values()), default=str)


def kept(path: str) -> Exchange:
    row = Exchange.objects.filter(url__endswith=path).order_by("pk").last()
    assert row, seen()
    return row


# --- what is kept ---


def test_an_attempts_exchanges_are_kept_with_the_step_that_made_them(stub, issuance):
    take("order", issuance)
    assert issuance.state == Issuance.State.ORDERED
    assert seen() == [
        ("order", "GET", "dir"),
        ("order", "HEAD", "newNonce"),
        ("order", "POST", "newOrder"),
        ("order", "POST", "authz/1"),
    ]
    assert set(Exchange.objects.values_list("attempt_id", "account")) == {
        (issuance.pk, issuance.account_id)
    }


def test_exchanges_name_the_step_that_talked_to_the_ca(stub, issuance):
    order = stub.usual("/order/1").body
    chain = sign(take("order", issuance).csr_pem, timedelta(days=90))
    stub.tell("/order/1", Reply(body=order), Reply(body=order | {"status": "ready"}))
    take("validate", issuance)
    take("finalize", issuance)
    Issuance.objects.update(certificate_url=f"{stub.url}/cert/1")
    stub.tell(
        "/cert/1",
        Reply(body=chain.encode(), headers={"Content-Type": "application/pem-certificate-chain"}),
    )
    assert take("download", issuance).state == Issuance.State.ISSUED
    assert seen()[4:] == [
        ("validate", "POST", "chall/1"),
        ("validate", "POST", "order/1"),
        ("validate", "POST", "authz/1"),
        ("finalize", "POST", "order/1"),
        ("finalize", "POST", "finalize/1"),
        ("download", "POST", "cert/1"),
    ]


def test_an_exchange_says_what_was_sent_and_what_came_back(stub, issuance):
    take("order", issuance)
    asked = kept("/newOrder")
    assert asked.request == {"identifiers": [{"type": "dns", "value": "example.com"}]}
    assert asked.status == 201
    assert asked.headers["Location"] == f"{stub.url}/order/1"
    assert json.loads(asked.body) == stub.usual("/newOrder").body
    assert (asked.problem, asked.error) == (None, "")
    assert clock.now() - timedelta(minutes=1) < asked.at <= clock.now()
    assert kept("/authz/1").request == "", "a POST-as-GET has an empty payload"
    assert (kept("/dir").request, kept("/newNonce").body) == (None, "")


def test_without_save_requests_only_answers_are_kept(issuance):
    AcmeAccount.objects.update(save_requests=False)
    take("order", issuance)
    assert len(seen()) == 4
    assert {row.request for row in Exchange.objects.all()} == {None}
    assert kept("/newOrder").body


def test_a_refusal_is_kept_with_its_problem_document(stub, issuance):
    stub.tell("/newOrder", problem("rateLimited", "Too many.", 429, headers={"Retry-After": "60"}))
    take("order", issuance)
    refused = kept("/newOrder")
    assert refused.problem == {"type": f"{stubs.PREFIX}rateLimited", "detail": "Too many."}
    assert (refused.status, refused.headers["Retry-After"]) == (429, "60")


def test_a_bad_nonce_is_kept_each_time_that_it_is_refused(stub, issuance):
    stub.tell("/newOrder", problem("badNonce"), problem("badNonce"))
    take("order", issuance)
    assert issuance.state == Issuance.State.ORDERED
    statuses = (
        Exchange.objects.filter(url__endswith="/newOrder")
        .order_by("pk")
        .values_list("status", flat=True)
    )
    assert list(statuses) == [400, 400, 201]


def test_where_no_answer_comes_a_sentence_says_why(stub, issuance):
    stub.tell("/newOrder", Reply(drop=True))
    take("order", issuance)
    lost = kept("/newOrder")
    assert (lost.status, lost.body, lost.headers) == (None, "", {})
    assert lost.error.startswith("The CA at 127.0.0.1")
    assert lost.error == issuance.waits_for
    assert lost.request


def test_headers_that_matter_are_kept_and_no_other(stub, issuance):
    headers = {
        "Boulder-Request-Id": "r1",
        "Link": '<https://ca.test/dir>;rel="index"',
        "Retry-After": "7",
    }
    stub.tell(
        "/authz/1",
        Reply(
            body=stub.usual("/authz/1").body, headers=headers | {"Set-Cookie": "a=b", "X-Odd": "1"}
        ),
    )
    take("order", issuance)
    shown = kept("/authz/1").headers
    assert headers.items() <= shown.items()
    assert set(shown) <= set(exchanges.HEADERS)
    assert not {"Replay-Nonce", "Set-Cookie", "X-Odd"} & set(shown)


@pytest.mark.parametrize(
    "body", [b"<html>" + b"x" * 200_000, {"detail": ["y" * 5000] * 40}], ids=["text", "json"]
)
def test_a_body_is_kept_up_to_64_kib(stub, issuance, body):
    stub.tell("/newOrder", Reply(500, body))
    take("order", issuance)
    assert 7000 < len(kept("/newOrder").body.encode()) <= 64 * 1024


@pytest.mark.parametrize(
    "document",
    [
        {"type": "urn:x", "detail": "no", "subproblems": [{"detail": "s" * 1000}] * 800},
        {"type": "urn:x", "detail": "no"}
        | {f"member {number}": "m" * 50 for number in range(9000)},
    ],
    ids=["subproblems", "members"],
)
def test_a_problem_is_kept_in_short_where_it_is_large(stub, issuance, document):
    stub.tell("/newOrder", Reply(400, document))
    take("order", issuance)
    found = kept("/newOrder")
    assert found.problem["type"] == "urn:x"
    assert found.problem["detail"][:2] == document["detail"][:2]
    assert found.problem["truncated"] is True
    row = (
        Exchange.objects.filter(pk=found.pk).values("problem", "headers", "error", "request").get()
    )
    assert len(json.dumps(row)) < 64 * 1024
    assert len(issuance.waits_for + issuance.error_what) < MOST_SAID + 100
    assert max(len(each.what) for each in issuance.events.all()) <= MOST_SAID


def test_a_header_is_kept_up_to_a_thousand_characters(stub, issuance):
    stub.tell("/newOrder", Reply(500, {"detail": "no"}, {"Via": "s " * 9000}))
    take("order", issuance)
    assert kept("/newOrder").headers["Via"] == "s " * 500


def test_of_one_account_only_the_newest_are_kept(stub, issuance, monkeypatch):
    monkeypatch.setattr(exchanges, "MOST_OF_ACCOUNT", 5)
    monkeypatch.setattr(exchanges, "ROOM_IS_MADE_EVERY", 1)
    attempt = Issuance.objects.select_related("account").get()
    client = clients.client_for(attempt.account)
    with exchanges.about(attempt.account, "order", attempt.pk):
        for _ in range(9):
            client.new_order(["example.com"])
    pks = list(Exchange.objects.order_by("pk").values_list("pk", flat=True))
    assert len(pks) == 5
    assert pks[-1] == max(pks)


def test_an_answer_that_a_database_cannot_hold_is_kept_all_the_same(stub, issuance):
    odd = b'{"detail": "nul \\u0000 half \\ud800 number", "n": [NaN, Infinity]}'
    stub.tell(
        "/newOrder",
        Reply(500, odd),
        Reply(500, b"nul \0 here"),
        Reply(500, b"[" * 900 + b"]" * 900),
    )
    for _ in range(3):
        take("order", issuance)
    bodies = list(
        Exchange.objects.filter(url__endswith="/newOrder")
        .order_by("pk")
        .values_list("body", flat=True)
    )
    assert len(bodies) == 3
    assert json.loads(bodies[0])["n"] == ["nan", "inf"]
    assert "here" in bodies[1]


# --- whose, and when ---


def test_nothing_is_kept_and_nothing_is_asked_while_debugging_is_off(
    account, issuance, django_assert_num_queries, settings
):
    AcmeAccount.objects.update(log_level="", save_requests=True)
    account.refresh_from_db()
    attempt = Issuance.objects.select_related("account").get()
    client = clients.client_for(attempt.account)
    with exchanges.about(attempt.account, "order", attempt.pk), django_assert_num_queries(0):
        client.new_order(["example.com"])
    assert not Exchange.objects.exists()


def test_an_exchange_costs_one_insert(account, issuance, django_assert_num_queries):
    attempt = Issuance.objects.select_related("account").get()
    client = clients.client_for(attempt.account)
    client.new_order(["example.com"])
    with (
        exchanges.about(attempt.account, "order", attempt.pk),
        django_assert_num_queries(1) as asked,
    ):
        client.new_order(["example.com"])
    assert asked.captured_queries[0]["sql"].startswith("INSERT")


def test_the_file_turns_debugging_on_for_every_account(issuance, settings):
    AcmeAccount.objects.update(log_level="", save_requests=False)
    settings.ACME_LOG_LEVEL = "debug"
    settings.ACME_SAVE_REQUESTS = True
    take("order", issuance)
    assert kept("/newOrder").request


def test_by_default_nothing_is_debugged():
    assert (django_settings.ACME_LOG_LEVEL, django_settings.ACME_SAVE_REQUESTS) == ("", False)
    assert (AcmeAccount().log_level, AcmeAccount().save_requests) == ("", False)


def test_registering_belongs_to_the_account_alone(stub, account):
    AcmeAccount.objects.update(url="", status="pending", wake_at=clock.now())
    registration.register(account.pk)
    assert seen() == [
        ("register", "GET", "dir"),
        ("register", "HEAD", "newNonce"),
        ("register", "POST", "newAccount"),
    ]
    assert set(Exchange.objects.values_list("account", "attempt_id")) == {(account.pk, None)}


def test_a_revocation_belongs_to_the_attempt_that_made_the_version(stub, issuance):
    certificate = Certificate.objects.get()
    version = CertificateVersion.objects.create(
        certificate=certificate,
        issuance=issuance,
        account=certificate.account,
        serial="01",
        not_before=clock.now(),
        not_after=clock.now() + timedelta(days=90),
        fingerprint="0" * 64,
        chain_pem=sign(take("order", issuance).csr_pem, timedelta(days=90)),
        key=certificate.account.key,
        revoke_asked_at=clock.now(),
        wake_at=clock.now(),
    )
    stub.tell("/revokeCert", Reply(200, b""))
    workflow.revoke(version.pk)
    revoked = kept("/revokeCert")
    assert (revoked.step, revoked.attempt_id) == ("revoke", issuance.pk)
    assert set(revoked.request) == {"certificate", "reason"}


def test_a_talk_that_is_about_nothing_is_not_kept(account):
    clients.client_for(account).new_order(["example.com"])
    assert not Exchange.objects.exists()


# --- it does no harm ---


def test_an_exchange_that_cannot_be_kept_goes_well(issuance, monkeypatch):
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(Exchange, "save", broken)
    assert take("order", issuance).state == Issuance.State.ORDERED


def test_a_worker_that_is_killed_before_the_insert_loses_the_line_alone(
    stub, issuance, monkeypatch
):
    with monkeypatch.context() as killing:
        killing.setattr(
            Exchange, "save", lambda *args, **kwargs: (_ for _ in ()).throw(Died("killed"))
        )
        with pytest.raises(Died):
            take("order", issuance)
    assert not Exchange.objects.exists()
    assert take("order", issuance).state == Issuance.State.ORDERED
    assert kept("/newOrder")


def test_exchanges_older_than_14_days_are_pruned_in_batches(
    account, monkeypatch, django_assert_max_num_queries
):
    monkeypatch.setattr(retention, "BATCH", 10)
    now = clock.now()
    for age in [13.9, *[14.1] * 25]:
        Exchange.objects.create(
            account=account, at=now - timedelta(days=age), method="GET", url="https://ca.test"
        )
    with django_assert_max_num_queries(18):
        exchanges.prune()
    assert Exchange.objects.get().at == now - timedelta(days=13.9)


def test_the_hourly_pruning_prunes_exchanges(account):
    Exchange.objects.create(
        account=account, at=clock.now() - timedelta(days=15), method="GET", url="https://ca.test"
    )
    pruning.prune.run()
    assert not Exchange.objects.exists()


# --- nothing is secret ---


def test_no_key_no_nonce_no_signature_and_no_binding_is_kept(stub, account, issuance, monkeypatch):
    sent: list[Any] = []
    call = outgoing.call

    def noted(method: str, url: str, body: str | None, headers: Any) -> requests.Response:
        sent.extend([json.loads(body)] if body else [])
        return call(method, url, body, headers)

    monkeypatch.setattr(outgoing, "call", noted)
    bound = {"eab_kid": "kid-1", "eab": envelope.seal(account.owner, "eab", HMAC_KEY.encode())}
    AcmeAccount.objects.update(url="", status="pending", wake_at=clock.now(), **bound)
    registration.register(account.pk)
    AcmeAccount.objects.update(url=f"{stub.url}/account/1")
    take("order", issuance)
    take("finalize", issuance)

    told = everything()
    assert kept("/newAccount").request["externalAccountBinding"] == "***"
    assert "termsOfServiceAgreed" in told
    assert "csr" in kept("/finalize/1").request
    assert len(sent) >= 4
    binding = next(each.payload for each in stub.asked if each.path == "/newAccount")[
        "externalAccountBinding"
    ]
    private = serialization.load_der_private_key(envelope.unseal(account.key), None)
    secret = [
        *stub.issued_nonces,
        *(each[part] for each in sent for part in ("signature", "protected")),
        *binding.values(),
        HMAC_KEY,
        encode_b64jose(private.private_numbers().private_value.to_bytes(32, "big")),
        "PRIVATE KEY",
        "Replay-Nonce",
    ]
    assert [each for each in secret if each in told] == []


def test_a_ca_that_quotes_what_it_was_sent_gives_nothing_away(stub, issuance, monkeypatch):
    """The CA quotes the message as JSON, as text, or the nonce alone."""
    quoted: list[str] = []

    def answer(method: str, url: str, body: str, headers: Any) -> requests.Response:
        message = json.loads(body)
        protected = exchanges._decoded(message["protected"])
        quoted.extend([message["signature"], message["protected"], protected["nonce"]])
        said = f"no: {body} has the nonce {protected['nonce']}"
        response = requests.Response()
        response.headers["Replay-Nonce"] = "another"
        response.status_code = 400
        response._content = json.dumps({"detail": said, "got": message}).encode()
        return response

    attempt = Issuance.objects.select_related("account").get()
    client = clients.client_for(attempt.account)
    client.new_order(["example.com"])
    monkeypatch.setattr(outgoing, "call", answer)
    with exchanges.about(attempt.account, "order", attempt.pk), pytest.raises(Trouble):
        client.new_order(["example.com"])
    assert "has the nonce ***" in Exchange.objects.get().body
    assert len(quoted) == 3
    assert [each for each in quoted if each in everything()] == []


def test_text_is_masked_as_in_the_log(stub, issuance):
    pem = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"
    said = f"{pem} Bearer abcdef0123456789"
    challenge = {"type": "dns-01", "keyAuthorization": "token.thumbprint"}
    stub.tell(
        "/newOrder", Reply(500, said.encode()), problem("malformed", said, challenges=[challenge])
    )
    for _ in range(2):
        take("order", issuance)
    for secret in ("MHcCAQEE", "abcdef0123456789", "token.thumbprint"):
        assert secret not in everything()
