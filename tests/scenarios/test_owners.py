"""Nobody healthy waits for an owner who asks for much, or whose parties are dead."""

from datetime import timedelta

import pytest

from certctrl import clock
from issuance import services
from issuance.models import Certificate, Issuance
from issuance.probes import Target, handshake
from notices.models import Delivery, Notice, Webhook
from notices.raising import raise_once
from tests.scenarios.outside import NEVER, slow
from tests.scenarios.runner import Scenario, numbered

pytestmark = pytest.mark.django_db
TEN_MINUTES = 600.0
UNNOTICED = 3.0  # seconds until a certificate is issued; alone it takes 1.5


def names_of(count: int) -> list[str]:
    return [f"www.greedy{number}.com" for number in range(count)]


@pytest.fixture
def greedy(scenario: Scenario):
    return scenario.someone("greedy")


def later(scenario: Scenario, account, credential, at: float, name: str) -> float:
    """Ask for a certificate at a time of the run. Return how long it takes."""
    scenario.run(at)
    names = scenario.due(account, credential, [name])
    scenario.run_until_issued(names, at + TEN_MINUTES)
    return scenario.longest(names, since=at)


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 30], ids=["before the first time-out", "after it"])
def test_another_owners_dead_endpoint(
    scenario: Scenario, greedy, account, credential, at: float
) -> None:
    """An owner has 120 certificates over a dead HTTP endpoint. Another owner notices nothing."""
    dead = scenario.credential(greedy)
    scenario.behave(NEVER, f"api {dead.pk}")
    scenario.due(scenario.account(greedy), dead, names_of(120))
    assert later(scenario, account, credential, at, "www.healthy.com") <= UNNOTICED


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 30], ids=["before the first time-out", "after it"])
def test_another_owners_many_dead_endpoints(
    scenario: Scenario, greedy, account, credential, at: float
) -> None:
    """The same, with twelve credentials and twelve accounts. More of them are no larger share."""
    for number in range(12):
        dead = scenario.credential(greedy, name=f"endpoint {number}")
        scenario.behave(NEVER, f"api {dead.pk}")
        names = [f"www.greedy{number}-{each}.com" for each in range(10)]
        scenario.due(scenario.account(greedy, name=f"account {number}"), dead, names)
    assert later(scenario, account, credential, at, "www.healthy.com") <= UNNOTICED


@pytest.mark.slow
def test_another_owner_who_deletes_everything(
    scenario: Scenario, greedy, account, credential
) -> None:
    """The endpoint dies, and its owner deletes 60 certificates. Their cleanups delay nobody."""
    dead = scenario.credential(greedy, propagation_timeout=3600)
    scenario.zone.hidden.add(dead.pk)
    scenario.due(scenario.account(greedy), dead, names_of(60))
    scenario.run(120)
    scenario.behave(NEVER, f"api {dead.pk}", begin=120)
    for certificate in Certificate.objects.filter(owner=greedy):
        services.retire(certificate)
    assert later(scenario, account, credential, 150, "www.healthy.com") <= UNNOTICED


@pytest.mark.slow
def test_another_owners_webhook(
    scenario: Scenario, greedy, account, credential, monkeypatch
) -> None:
    """Twelve owners' receivers of webhooks never answer. A certificate is issued at once."""

    def post(delivery: Delivery) -> None:
        scenario.outside.call("hook.post", lambda: None)

    monkeypatch.setattr("notices.posting.post", post)
    scenario.behave(NEVER, "hook")
    for number in range(12):
        each = scenario.someone(f"owner{number}")
        Webhook.objects.create(owner=each, name="dead", host="hooks.example.com")
        for count in range(20):
            raise_once(each, Notice.Kind.RENEWED, f"renewed:{count}", "renewed", "It was renewed.")
    assert later(scenario, account, credential, 30, "www.healthy.com") <= UNNOTICED


def test_other_owners_dead_addresses(
    scenario: Scenario, greedy, account, credential, monkeypatch
) -> None:
    """Sixty daily probes of five owners get no answer. A certificate is issued at once."""

    def look(target: Target) -> None:
        with clock.limit(handshake.SECONDS):
            scenario.outside.call("probe.look", lambda: None, str(target))

    monkeypatch.setattr(handshake, "look", look)
    for number in range(5):
        each = scenario.someone(f"owner{number}")
        [name] = scenario.due(scenario.account(each), scenario.credential(each), [f"o{number}.com"])
        certificate = Certificate.objects.get(domain=name)
        for port in range(1000, 1012):
            scenario.behave(NEVER, f"192.0.2.{number}:{port}")
            certificate.probes.create(
                address=f"192.0.2.{number}", port=port, wake_at=scenario.time + timedelta(minutes=1)
            )
    assert later(scenario, account, credential, 62, "www.healthy.com") <= UNNOTICED


def test_an_owner_whose_ca_checks_for_long(scenario: Scenario, greedy, account, credential) -> None:
    """A CA checks the challenges of 80 attempts for ever, and answers late.

    Reading their orders takes more threads than there are. New attempts are served all the same.
    """
    scenario.another_ca("late").validation_reads = 1_000_000
    scenario.behave(slow(2.5), "late.read_order", "late.read_authorization")
    at_late = scenario.account(greedy, directory_url="https://late.test/dir")
    scenario.due(at_late, scenario.credential(greedy), names_of(80))
    assert later(scenario, account, credential, 120, "www.healthy.com") <= 8
    assert not Issuance.objects.filter(state=Issuance.State.QUEUED).exists()


@pytest.mark.slow
def test_one_of_many_owners(scenario: Scenario, greedy) -> None:
    """An owner asks for 200 certificates. Ten others ask for one each, and are served in turn."""
    scenario.due(scenario.account(greedy), scenario.credential(greedy), names_of(200))
    scenario.run(5)
    small = []
    for number in range(10):
        each = scenario.someone(f"owner{number}")
        name = f"www.small{number}.com"
        small += scenario.due(scenario.account(each), scenario.credential(each), [name])
    scenario.run_until_issued(small, TEN_MINUTES)
    assert scenario.longest(small, since=5) <= 4


# --- names that belong to another ---


@pytest.fixture
def fakes_it(scenario: Scenario, greedy):
    """An endpoint that says yes and publishes nothing, with a time-out of a day."""
    made = scenario.credential(greedy, propagation_timeout=86400)
    scenario.zone.hidden.add(made.pk)
    return made


def test_anothers_exact_names_ordered_five_times(
    scenario: Scenario, greedy, fakes_it, account, credential
) -> None:
    """Somebody orders another's exact names from five accounts. The other renews at once."""
    names = scenario.issue(account, credential, ["www.victim.com"])
    for number in range(5):
        scenario.due(scenario.account(greedy, name=f"account {number}"), fakes_it, names)
    scenario.run(120)
    since = scenario.renew(names)
    scenario.run(since + TEN_MINUTES, lambda: len(scenario.ca.signed[names[0]]) > 1)
    assert scenario.longest(names, since=since) <= UNNOTICED


@pytest.mark.slow
def test_fifty_names_of_anothers_domain(
    scenario: Scenario, greedy, fakes_it, account, credential
) -> None:
    """Somebody orders fifty names of another's domain. The other gets a new name at once."""
    scenario.due(scenario.account(greedy), fakes_it, numbered(50, "victim.com"))
    assert later(scenario, account, credential, 120, "new.victim.com") <= UNNOTICED
