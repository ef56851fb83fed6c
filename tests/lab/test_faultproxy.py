"""The fault proxy: its record of responses, its refusals, and its faults."""

import json
from datetime import datetime
from urllib.parse import urlsplit

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from lab.faultproxy import Config, FaultProxy
from lab.renewalinfo import ari_id
from lab.upstream import Request, json_answer
from tests.lab.tinyca import ACCOUNT, HERE, HOST, TinyCA, new_order, signed

LIMITS = {"account": [10, 60], "domain": [3, 600], "set": [2, 6000], "failures": [1, 60]}
CERTIFICATE = "/certificate/1"
AUTHORIZATION = "/authorization/1"
PAST = ["2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"]


@pytest.fixture
def ca():
    return TinyCA()


@pytest.fixture
def proxy_of(ca):
    """A proxy in front of the tiny CA; `config` as in the file."""

    def build(**config):
        proxy = FaultProxy(
            Config("", "", f"{HERE}/dir", "", "", **{"suffixes": ["test"], **config})
        )
        proxy.upstream = ca
        return proxy

    return build


def get(path):
    return Request("GET", path, {"Host": HOST})


def accepted(answer):
    assert answer.status == 201, answer.body
    return answer


def refused(answer, status, kind):
    assert (answer.status, answer.document["type"]) == (
        status,
        f"urn:ietf:params:acme:error:{kind}",
    )
    assert answer.document["status"] == status
    return answer


def of(proxy, path=""):
    return proxy.control(Request("GET", f"/_faults{path}", {})).document


def change(proxy, **document):
    answer = proxy.control(Request("POST", "/_faults", {}, json.dumps(document).encode()))
    assert answer.status == 200, answer.body


# --- Limits ---


def test_an_order_over_a_limit_is_refused_and_never_reaches_the_ca(proxy_of, ca):
    proxy = proxy_of(limits=LIMITS)
    with time_machine.travel("2026-11-25T10:00:00Z", tick=False):
        for _ in range(2):
            accepted(proxy.answer(new_order("a.one.test")))
        answer = refused(proxy.answer(new_order("A.one.test")), 429, "rateLimited")
    assert answer.headers["Retry-After"] == "6000"
    assert "already issued for this exact set of identifiers" in answer.document["detail"]
    assert "retry after 2026-11-25 11:40:00 UTC: see https://" in answer.document["detail"]
    assert answer.headers["Replay-Nonce"].startswith("nonce-")
    assert ca.paths() == ["/order", "/order"]
    assert of(proxy)["tally"]["refused"] == {"set": 1}
    charged = [["account", ACCOUNT], ["domain", "one.test"], ["set", "a.one.test"]]
    orders = of(proxy, "/orders")["orders"]
    assert [(each["charged"], each["refused"]) for each in orders] == [
        (charged, ""),
        (charged, ""),
        ([], "set"),
    ]


def test_an_order_that_the_ca_refuses_costs_nothing(proxy_of, ca):
    proxy = proxy_of(limits={"set": [1, 6000]})
    ca.refuses("/order", 400, "badNonce")
    for _ in range(3):
        refused(proxy.answer(new_order("a.one.test")), 400, "badNonce")
    del ca.answers["/order"]
    accepted(proxy.answer(new_order("a.one.test")))
    assert of(proxy)["tally"]["orders"] == 1


@pytest.mark.parametrize(("cost", "orders"), [(True, 2), (False, 5)])
def test_an_order_returned_again_costs_what_the_configuration_says(proxy_of, ca, cost, orders):
    proxy = proxy_of(limits={"set": [2, 6000]}, reused_orders_cost=cost)
    again = json_answer(ca.order("pending"), Location=f"{HERE}/orders/1")
    ca.answers["/order"] = again
    statuses = [proxy.answer(new_order("a.one.test")).status for _ in range(5)]
    assert statuses.count(200) == orders


def test_an_order_that_is_never_issued_can_cost_only_its_account(proxy_of):
    proxy = proxy_of(limits=LIMITS | {"set": [1, 6000]}, names_cost_when_issued=True)
    for _ in range(2):
        accepted(proxy.answer(new_order("a.one.test")))
    kinds = [[kind for kind, _ in each["charged"]] for each in of(proxy, "/orders")["orders"]]
    assert kinds == [["account"], ["account"]]


def test_names_are_charged_once_when_the_order_is_issued(proxy_of, ca):
    proxy = proxy_of(limits={"domain": [2, 6000], "set": [1, 6000]}, names_cost_when_issued=True)
    url = accepted(proxy.answer(new_order("a.one.test"))).headers["Location"]
    accepted(proxy.answer(new_order("b.one.test")))
    ca.shows(urlsplit(url).path, ca.order("valid", url))
    for _ in range(2):
        proxy.answer(signed(urlsplit(url).path))
    refused(proxy.answer(new_order("a.one.test")), 429, "rateLimited")
    accepted(proxy.answer(new_order("b.one.test")))
    assert of(proxy)["tally"]["overdrawn"] == {}
    issued = [each["issued_at"] > 0 for each in of(proxy, "/orders")["orders"]]
    assert issued == [True, False, False, False]


def test_more_issued_orders_than_tokens_are_tallied(proxy_of, ca):
    proxy = proxy_of(limits={"set": [1, 6000]}, names_cost_when_issued=True)
    answers = [accepted(proxy.answer(new_order("a.one.test"))) for _ in range(3)]
    for url in [answer.headers["Location"] for answer in answers]:
        ca.shows(urlsplit(url).path, ca.order("valid", url))
        proxy.answer(signed(urlsplit(url).path))
    assert of(proxy)["tally"]["overdrawn"] == {"set": 2}


def test_renewals_cost_neither_the_account_nor_the_domain_limit(proxy_of, ca):
    proxy = proxy_of(limits=LIMITS | {"set": [9, 60]})
    ca.issues(CERTIFICATE, "a.one.test")
    accepted(proxy.answer(new_order("a.one.test")))
    proxy.answer(signed(CERTIFICATE))
    accepted(proxy.answer(new_order("a.one.test", account=f"{HERE}/account/2")))
    kinds = [[kind for kind, _ in each["charged"]] for each in of(proxy, "/orders")["orders"]]
    assert kinds == [["account", "domain", "set"], ["set"]]


def test_a_failed_validation_counts_once_and_refuses_the_next_order(proxy_of, ca):
    proxy = proxy_of(limits=LIMITS)
    invalid = {
        "status": "invalid",
        "identifier": {"type": "dns", "value": "a.one.test"},
        "challenges": [],
    }
    ca.shows(AUTHORIZATION, invalid | {"status": "pending"})
    proxy.answer(signed(AUTHORIZATION))
    accepted(proxy.answer(new_order("a.one.test")))
    ca.shows(AUTHORIZATION, invalid)
    for _ in range(3):
        proxy.answer(signed(AUTHORIZATION))
    answer = refused(proxy.answer(new_order("a.one.test")), 429, "rateLimited")
    assert 55 <= int(answer.headers["Retry-After"]) <= 60
    accepted(proxy.answer(new_order("a.one.test", account=f"{HERE}/account/2")))
    assert of(proxy)["tally"]["failed_validations"] == 1


def test_limits_can_be_changed_while_it_runs(proxy_of):
    proxy = proxy_of()
    change(proxy, limits={"account": [1, 60]})
    accepted(proxy.answer(new_order("a.one.test")))
    refused(proxy.answer(new_order("b.one.test")), 429, "rateLimited")


# --- Renewal information ---


@pytest.fixture
def issued(proxy_of, ca):
    """A proxy through which a certificate went, and its identifier."""
    proxy = proxy_of(limits={"account": [1, 6000], "set": [1, 6000]})
    leaf = ca.issues(CERTIFICATE, "a.one.test", "b.one.test")
    accepted(proxy.answer(new_order("a.one.test", "b.one.test")))
    proxy.answer(signed(CERTIFICATE))
    return proxy, ari_id(leaf), leaf


def test_the_directory_offers_renewal_info_and_profiles_at_the_proxys_url(
    proxy_of,
):
    document = proxy_of(profiles={"short": "six days"}).answer(get("/dir")).document
    assert document["renewalInfo"] == f"{HERE}/renewal-info"
    assert document["meta"] == {"website": HERE, "profiles": {"short": "six days"}}
    assert document["newOrder"] == f"{HERE}/order"


def test_a_ca_without_renewal_information_stays_without(proxy_of):
    proxy = proxy_of(ari=False)
    assert "renewalInfo" not in proxy.answer(get("/dir")).document
    assert proxy.answer(get("/renewal-info/x.y")).status == 404


def test_the_identifier_is_that_of_the_rfc(ca):
    """The example of RFC 9773, section 4.1: its key identifier, and a serial number whose first bit
    is set.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a.one.test")])
    issuer = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
    leaf = (
        x509.CertificateBuilder(name, name, key.public_key(), 0x87654321)
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2027, 1, 1))
        .add_extension(x509.AuthorityKeyIdentifier(issuer, None, None), critical=False)
        .sign(key, hashes.SHA256())
    )
    assert ari_id(leaf) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_a_window_begins_with_a_third_of_the_life_left_and_a_retry_time(issued):
    proxy, certificate, leaf = issued
    answer = proxy.answer(get(f"/renewal-info/{certificate}"))
    window = answer.document["suggestedWindow"]
    third = leaf.not_valid_after_utc - (leaf.not_valid_after_utc - leaf.not_valid_before_utc) / 3
    assert window["start"] == third.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert window["end"] > window["start"]
    assert answer.headers["Retry-After"] == "21600"
    change(proxy, ari_retry_after=60)
    assert proxy.answer(get(f"/renewal-info/{certificate}")).headers["Retry-After"] == "60"


def test_a_certificate_that_never_passed_has_no_window(issued):
    refused(issued[0].answer(get("/renewal-info/AAAA.AAAA")), 404, "malformed")


@pytest.mark.parametrize("which", ["*", "itself"])
def test_windows_can_be_moved_and_put_back(issued, which):
    proxy, certificate, _ = issued

    def window():
        return proxy.answer(get(f"/renewal-info/{certificate}")).document["suggestedWindow"]

    before = window()
    key = certificate if which == "itself" else which
    change(proxy, windows={key: PAST})
    assert window() == {"start": PAST[0], "end": PAST[1]}
    change(proxy, windows={key: None})
    assert window() == before


def test_moving_every_window_leaves_certificates_that_come_later_alone(issued, ca):
    proxy, _, _ = issued
    change(proxy, windows={"*": PAST})
    later = ari_id(ca.issues(CERTIFICATE, "c.one.test"))
    proxy.answer(signed(CERTIFICATE))
    assert (
        proxy.answer(get(f"/renewal-info/{later}")).document["suggestedWindow"]["start"] != PAST[0]
    )


def test_an_order_that_replaces_costs_nothing_and_the_second_is_refused(issued):
    proxy, certificate, _ = issued
    accepted(proxy.answer(new_order("a.one.test", replaces=certificate)))
    answer = refused(
        proxy.answer(new_order("a.one.test", replaces=certificate)), 409, "alreadyReplaced"
    )
    assert "Replay-Nonce" in answer.headers
    tally = of(proxy)["tally"]
    assert (tally["orders"], tally["with_replaces"], tally["replaced"]) == (2, 1, 1)
    assert (tally["refused"], tally["objected"]) == ({}, {"alreadyReplaced": 1})


def test_an_order_that_the_ca_refuses_replaces_nothing(issued, ca):
    proxy, certificate, _ = issued
    ca.refuses("/order", 400, "badNonce")
    refused(proxy.answer(new_order("a.one.test", replaces=certificate)), 400, "badNonce")
    del ca.answers["/order"]
    accepted(proxy.answer(new_order("a.one.test", replaces=certificate)))


def test_when_the_order_that_replaces_becomes_invalid_another_may_replace(issued, ca):
    proxy, certificate, _ = issued
    order = accepted(proxy.answer(new_order("a.one.test", replaces=certificate))).headers[
        "Location"
    ]
    path = order.removeprefix(HERE)
    ca.shows(path, ca.order("pending", order))
    proxy.answer(signed(path))
    refused(proxy.answer(new_order("a.one.test", replaces=certificate)), 409, "alreadyReplaced")
    ca.shows(path, ca.order("invalid", order))
    proxy.answer(signed(path))
    accepted(proxy.answer(new_order("a.one.test", replaces=certificate)))


def test_replaces_is_refused_for_unknown_foreign_or_unrelated_certificates(issued):
    proxy, certificate, _ = issued
    refused(proxy.answer(new_order("a.one.test", replaces="AAAA.AAAA")), 404, "malformed")
    other = new_order("a.one.test", replaces=certificate, account=f"{HERE}/account/2")
    refused(proxy.answer(other), 403, "unauthorized")
    refused(proxy.answer(new_order("z.one.test", replaces=certificate)), 400, "malformed")
    assert of(proxy)["tally"]["with_replaces"] == 0


def test_a_profile_that_the_ca_does_not_have_is_refused(proxy_of):
    proxy = proxy_of(profiles={"short": "six days"})
    refused(proxy.answer(new_order("a.one.test", profile="long")), 400, "invalidProfile")
    accepted(proxy.answer(new_order("a.one.test", profile="short")))


# --- Faults ---


def test_a_server_that_sheds_load_answers_instead_of_the_ca(proxy_of, ca):
    rules = [
        {"do": "answer", "status": 429, "retry_after": 7, "times": 1},
        {"do": "answer", "times": 1},
    ]
    proxy = proxy_of(faults=rules)
    first, second, third = (proxy.answer(get("/x")) for _ in range(3))
    refused(first, 429, "rateLimited")
    assert first.headers["Retry-After"] == "7"
    assert (second.status, second.document, "Retry-After" in second.headers) == (503, {}, False)
    assert third.status == 404
    assert ca.paths() == ["/x"]
    assert of(proxy)["tally"]["faults"] == {"429": 1, "503": 1}


def test_a_connection_may_be_dropped_before_or_after_the_ca_acts(proxy_of, ca):
    proxy = proxy_of(faults=[{"do": "drop_before", "times": 1}, {"do": "drop_after", "times": 1}])
    assert proxy.answer(new_order("a.one.test")) is None
    assert (ca.paths(), of(proxy)["tally"]["orders"]) == ([], 0)
    assert proxy.answer(new_order("a.one.test")) is None
    assert (ca.paths(), of(proxy)["tally"]["orders"]) == (["/order"], 1)
    accepted(proxy.answer(new_order("a.one.test")))


def test_bad_nonce_faults_bring_fresh_nonces_to_signed_requests_only(proxy_of, ca):
    proxy = proxy_of(faults=[{"do": "bad_nonce", "times": 1, "run": 3}])
    assert proxy.answer(get("/dir")).status == 200
    nonces = {
        refused(proxy.answer(new_order("a.one.test")), 400, "badNonce").headers["Replay-Nonce"]
        for _ in "123"
    }
    assert len(nonces) == 3
    accepted(proxy.answer(new_order("a.one.test")))
    assert ca.paths() == ["/order"]


def test_a_valid_order_looks_as_if_it_were_processing_for_so_many_reads(proxy_of, ca):
    proxy = proxy_of(faults=[{"do": "processing", "reads": 2, "times": 1}])
    ca.shows("/orders/1", ca.order("ready"))
    assert proxy.answer(signed("/orders/1")).document["status"] == "ready"
    ca.shows("/orders/1", ca.order("valid"))
    for _ in range(2):
        answer = proxy.answer(signed("/orders/1"))
        assert (answer.document["status"], answer.headers["Retry-After"]) == ("processing", "1")
        assert "certificate" not in answer.document
    assert proxy.answer(signed("/orders/1")).document == ca.order("valid")
    ca.shows("/orders/2", ca.order("valid", f"{HERE}/orders/2"))
    assert proxy.answer(signed("/orders/2")).document["status"] == "valid"


def test_a_valid_order_looks_as_if_it_were_processing_for_so_many_seconds(proxy_of, ca):
    proxy = proxy_of(faults=[{"do": "processing", "seconds": 30}])
    ca.shows("/orders/1", ca.order("valid"))
    with time_machine.travel("2026-11-25T10:00:00Z", tick=False) as clock:
        for seconds, status in ((0, "processing"), (29, "processing"), (1, "valid")):
            clock.shift(seconds)
            assert proxy.answer(signed("/orders/1")).document["status"] == status


def test_a_ca_may_say_that_a_certificate_was_replaced_already(issued):
    proxy, certificate, _ = issued
    change(proxy, faults=[{"do": "already_replaced", "times": 1}], limits={})
    accepted(proxy.answer(new_order("a.one.test")))
    refused(proxy.answer(new_order("a.one.test", replaces=certificate)), 409, "alreadyReplaced")
    accepted(proxy.answer(new_order("a.one.test", replaces=certificate)))


@pytest.mark.parametrize("path", ["newOrder", "/order"])
def test_a_fault_is_for_the_paths_that_it_names_and_for_no_other(proxy_of, path):
    proxy = proxy_of(faults=[{"do": "answer", "paths": [path]}])
    assert proxy.answer(get("/dir")).status == 200
    assert proxy.answer(new_order("a.one.test")).status == 503


def test_a_fault_hits_as_often_as_its_probability_says(proxy_of):
    proxy = proxy_of(faults=[{"do": "answer", "probability": 0.1}], seed=7)
    statuses = [proxy.answer(get("/dir")).status for _ in range(2000)]
    assert 150 < statuses.count(503) < 250


def test_rules_can_be_replaced_while_it_runs_and_are_shown(proxy_of):
    proxy = proxy_of(faults=[{"do": "answer"}])
    change(proxy, faults=[{"do": "drop_before", "times": 2}])
    assert proxy.answer(get("/dir")) is None
    assert [(each["do"], each["times"]) for each in of(proxy)["faults"]] == [("drop_before", 1)]


@pytest.mark.parametrize(
    "document",
    [
        {"faults": [{"do": "explode"}]},
        {"faults": [{"do": "answer", "how": "loud"}]},
        {"flaws": []},
        [1],
    ],
)
def test_an_invalid_control_request_changes_nothing(proxy_of, document):
    proxy = proxy_of(faults=[{"do": "answer"}])
    answer = proxy.control(Request("POST", "/_faults", {}, json.dumps(document).encode()))
    assert answer.status == 400
    assert [each["do"] for each in of(proxy)["faults"]] == ["answer"]
