"""Names are proved by the agent of a device, which confirms before the CA is told."""

import hashlib
from typing import Any

import pytest
from cryptography import x509

from accounts.models import User
from certctrl import clock
from devices import agentchallenges
from devices.models import AgentChallenge, Device
from dnsclient import survey
from dnsclient.survey import CnamePath, Survey
from dnsproviders.base import ProviderError
from issuance import preflight, services
from issuance.challenges import agents
from issuance.models import Authorization, Issuance
from issuance.ratelimits import charges
from keystore.recipients import recipient_key
from tests.issuance.api.calling import Caller, refused

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]
State = Issuance.State
METHODS = ["http-01", "tls-alpn-01"]


def enrolled(owner: User, name: str = "edge 1") -> Device:
    now = clock.now()
    key = recipient_key(owner, bytes(range(1, 33)))
    return Device.objects.create(
        owner=owner, name=name, public_id=name, key=key, enrolled_at=now, last_seen_at=now
    )


@pytest.fixture
def device(owner) -> Device:
    return enrolled(owner)


class Agent:
    """The agent of a connected device, and the web process that it is connected to."""

    def __init__(self, world: Any, device: Device) -> None:
        self.world = world
        self.device = device
        self.heard: list[dict[str, Any]] = []

    def hear(self) -> list[dict[str, Any]]:
        """Take what is due, confirm it, and answer the CA from now on."""
        new = agentchallenges.due([self.device.pk])
        for sending in new:
            shown = sending.line.shown
            self.heard.append(shown)
            if sending.is_start:
                ref = shown["ref"]
                for name in ref.get("domains", [ref.get("domain")]):
                    self.world.ca.proofs[name] = ref["key_authorization"]
            agentchallenges.ack(sending)
        return [each.line.shown for each in new]

    @property
    def types(self) -> list[str]:
        return [each["type"] for each in self.heard]


@pytest.fixture
def agent(world, device) -> Agent:
    return Agent(world, device)


@pytest.fixture
def ask(world, account, device):
    """`ask("http-01", "example.com")` starts an attempt, and runs it until it must wait."""

    def create(method: str, *names: str) -> Issuance:
        world.ca.offers = method
        _, issuance = world.create(
            account, None, *names, verify_method=method, verify_device_id=device.pk
        )
        world.deliver()
        issuance.refresh_from_db()
        return issuance

    return create


def after(world, seconds: float, issuance: Issuance) -> Issuance:
    world.advance(seconds)
    world.sweep()
    issuance.refresh_from_db()
    return issuance


@pytest.mark.parametrize("method", METHODS)
def test_a_certificate_is_issued_once_the_device_has_confirmed(world, ask, agent, method):
    issuance = ask(method, "example.com", "www.example.com")
    assert issuance.state == State.PRESENTED
    assert "edge 1 confirms that it serves 2" in issuance.waits_for
    assert not [each for each in world.outside.calls if "answer" in each]
    starts = agent.hear()
    assert after(world, 1, issuance).state == State.ISSUED
    agent.hear()
    kind = method.replace("-", "")
    assert agent.types == [f"acme.{kind}.start"] * 2 + [f"acme.{kind}.stop"] * 2
    ids = [each["ref"]["challenge_id"] for each in starts]
    assert [each["ref"] for each in agent.heard[2:]] == [{"challenge_id": each} for each in ids]
    moments = [each["ts_ms"] for each in agent.heard]
    assert len(set(moments)) == 4
    assert not AgentChallenge.objects.exists()
    assert world.zone.txt() == []


def test_an_http_01_start_has_what_the_agent_needs(ask, agent):
    ask("http-01", "example.com")
    (start,) = agent.hear()
    ref = start["ref"]
    assert ref.pop("challenge_id")
    token = ref.pop("token")
    assert ref.pop("key_authorization").startswith(f"{token}.")
    assert ref == {
        "listen": {"http": {"bind": "0.0.0.0", "port": 80}, "https": {"enabled": False}},
        "ttl_seconds": 300,
        "domains": ["example.com"],
    }


def test_a_tls_alpn_01_start_has_the_certificate_of_rfc_8737(ask, agent):
    ask("tls-alpn-01", "example.com")
    (start,) = agent.hear()
    ref = start["ref"]
    assert (ref["domain"], ref["listen"]) == ("example.com", {"bind": "0.0.0.0", "port": 443})
    shown = x509.load_pem_x509_certificate(ref["certificate"]["cert_pem"].encode())
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["example.com"]
    proof = shown.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert proof.critical
    digest = hashlib.sha256(ref["key_authorization"].encode()).digest()
    assert proof.value.value == b"\x04\x20" + digest
    assert "PRIVATE KEY" in ref["certificate"]["key_pem"]


@pytest.mark.parametrize(
    ("address", "server_name", "bind"),
    [
        ("127.0.0.1", "1.0.0.127.in-addr.arpa", "0.0.0.0"),
        ("2001:db8::1", "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa", "::"),
    ],
)
def test_an_address_is_proved_under_its_reverse_name(world, ask, agent, address, server_name, bind):
    issuance = ask("tls-alpn-01", address)
    (start,) = agent.hear()
    ref = start["ref"]
    assert (ref["domain"], ref["listen"]["bind"]) == (server_name, bind)
    shown = x509.load_pem_x509_certificate(ref["certificate"]["cert_pem"].encode())
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [str(each) for each in names.value.get_values_for_type(x509.IPAddress)] == [address]
    world.ca.proofs[address] = ref["key_authorization"]
    assert after(world, 1, issuance).state == State.ISSUED


@pytest.mark.parametrize("method", METHODS)
def test_a_device_that_does_not_confirm_fails_the_attempt_before_the_ca(world, ask, method):
    issuance = after(world, 9, ask(method, "example.com"))
    assert issuance.state == State.PRESENTED
    issuance = after(world, 2, issuance)
    assert (issuance.state, issuance.error_code) == (State.FAILED, "device_no_answer")
    assert "edge 1 did not confirm within 10 seconds" in issuance.error_what
    assert issuance.failure == "transient"
    assert not [each for each in world.outside.calls if "answer" in each]
    assert AgentChallenge.objects.get().stop_ms


def test_a_confirmation_that_is_seen_late_still_counts(world, ask, agent):
    issuance = ask("http-01", "example.com")
    agent.hear()
    assert after(world, 60, issuance).state == State.ISSUED


def test_an_attempt_that_is_canceled_stops_the_device(ask, agent):
    issuance = ask("http-01", "example.com")
    agent.hear()
    services.cancel(issuance.certificate)
    agent.hear()
    assert agent.types == ["acme.http01.start", "acme.http01.stop"]


def test_a_device_that_is_away_gets_no_old_signal(world, ask, agent):
    issuance = ask("http-01", "example.com")
    services.cancel(issuance.certificate)
    world.advance(agentchallenges.TTL.total_seconds() + 1)
    assert agent.hear() == []
    world.advance(agentchallenges.KEPT.total_seconds())
    agentchallenges.prune()
    assert not AgentChallenge.objects.exists()


def test_a_device_that_was_revoked_meanwhile_is_named(world, account, device):
    world.ca.offers = "http-01"
    world.create(account, None, "example.com", verify_method="http-01", verify_device_id=device.pk)
    Device.objects.update(status="REVOKED", revoked_at=clock.now())
    world.deliver()
    issuance = Issuance.objects.get()
    assert (issuance.state, issuance.error_code) == (State.FAILED, "device_revoked")
    assert issuance.failure == "permanent"
    assert not AgentChallenge.objects.exists()


def test_a_ca_without_the_challenge_is_named(world, account, device):
    world.create(account, None, "example.com", verify_method="http-01", verify_device_id=device.pk)
    world.deliver()
    assert Issuance.objects.get().error_code == "ca_no_challenge"


def test_other_certificates_cost_no_statement_more(
    world, account, credential, django_assert_max_num_queries
):
    world.create(account, credential, "example.com")
    world.deliver()
    issuance = Issuance.objects.select_related("certificate").get()
    with django_assert_max_num_queries(0):
        agents.Http01().release(issuance)
    assert Authorization.objects.get().agent_challenge_id is None


def test_the_preflight_of_a_device_asks_nothing_about_a_zone_record(
    world, account, device, monkeypatch
):
    loop = CnamePath(("_acme-challenge.example.com",), ProviderError("dns_cname_loop", "A loop."))
    seen = Survey(paths={"example.com": loop})
    monkeypatch.setattr(survey, "survey", lambda names, seconds: seen)
    certificate, _ = world.create(
        account, None, "example.com", verify_method="http-01", verify_device_id=device.pk
    )
    assert preflight.run(certificate) == []


def test_the_preflight_asks_dns_nothing_about_addresses(world, account, device, monkeypatch):
    asked: list[Any] = []

    def noted(names: Any, seconds: float) -> Survey:
        asked.append(list(names))
        return Survey()

    monkeypatch.setattr(survey, "survey", noted)
    method = {"verify_method": "http-01", "verify_device_id": device.pk}
    alone, _ = world.create(account, None, "192.0.2.1", **method)
    mixed, _ = world.create(account, None, "example.com", "192.0.2.2", **method)
    assert preflight.run(alone) == []
    assert preflight.run(mixed) == []
    assert asked == [["example.com"]]


def test_an_address_counts_as_itself_or_as_its_network(account):
    found = charges.of_names(account, ["192.0.2.1", "2001:db8::1", "2001:db8::2"])
    domains = [each.subject for each in found if each.kind == "domain"]
    assert domains == ["192.0.2.1", "2001:db8::/64"]


# --- Requests ---


@pytest.fixture
def api(client_of, owner) -> Caller:
    return Caller(client_of(owner))


def request(account, **members: Any) -> dict[str, Any]:
    body = {"domain": "example.com", "acme_account_id": account.pk, "verify_method": "http-01"}
    return {name: value for name, value in (body | members).items() if value is not None}


def test_a_request_names_the_method_and_the_device(api, account, device):
    answer = api.post("certificates", request(account, verify_device_id=device.pk))
    assert answer.status_code == 201, answer.content
    shown = api.get(f"certificates/{answer.data_member['id']}").data_member
    assert (shown["verify_method"], shown["verify_device_id"]) == ("http-01", device.pk)
    assert shown["dns_provider_id"] is None


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"verify_device_id": None}, "verify_device_id"),
        ({"verify_device_id": 10**9}, "verify_device_id"),
        ({"domain": "*.example.com"}, "verify_method"),
        ({"verify_method": "http"}, "verify_method"),
        ({"verify_method": "dns-01", "domain": "192.0.2.1"}, "domain"),
    ],
)
def test_a_request_that_cannot_be_proved_is_refused(api, account, device, members, field):
    refused(
        api.post("certificates", request(account, **{"verify_device_id": device.pk} | members)),
        400,
        field,
    )


def test_a_device_of_another_owner_is_refused(api, account, bob):
    other = enrolled(bob, "bobs")
    refused(
        api.post("certificates", request(account, verify_device_id=other.pk)),
        400,
        "verify_device_id",
    )


def test_an_address_needs_a_ca_and_a_profile_that_have_them(api, world, owner, account, device):
    body = {"domain": "192.0.2.1", "verify_device_id": device.pk}
    assert api.post("certificates", request(account, **body)).status_code == 201
    encrypt = world.account(owner, ca_provider="letsencrypt")
    refused(api.post("certificates", request(encrypt, **body)), 400, "profile")
    answer = api.post("certificates", request(encrypt, **body, profile="shortlived"))
    assert answer.status_code == 201, answer.content
    other = world.account(owner, ca_provider="zerossl")
    refused(api.post("certificates", request(other, **body)), 400, "domain")


def test_the_method_of_a_certificate_can_change(api, account, credential, device):
    made = api.post(
        "certificates",
        {
            "domain_name": "example.com",
            "acct_id": account.pk,
            "dns_provider_id": credential.pk,
        },
    ).data_member
    path = f"certificates/{made['id']}"
    assert made["verify_method"] == "dns-01"
    refused(api.put(path, {"verify_method": "tls-alpn-01"}), 400, "verify_device_id")
    changed = api.put(path, {"verify_method": "tls-alpn-01", "verify_device_id": device.pk})
    assert changed.data_member["verify_method"] == "tls-alpn-01"
