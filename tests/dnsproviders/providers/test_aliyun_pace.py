"""Many names in one zone of Aliyun, which makes one change at a time and throttles.

A refused record is retried after a second, and published records stay.
"""

import pytest
import responses

from certctrl import clock
from certctrl.turns import Wait
from dnsproviders import credentials, records, registry
from dnsproviders.models import DnsCredential, TxtRecord
from dnsproviders.ratelimit import Gate
from dnsproviders.registry import open_credential, provider_with
from issuance.models import Issuance, IssuanceEvent
from tests.dnsproviders.smallaliyun import KEY, KEY_ID, FakeAlidns
from tests.fakes.world import World

pytestmark = pytest.mark.django_db

ADD = "AddDomainRecord"
DELETE = "DeleteDomainRecord"


@pytest.fixture
def alidns(world, monkeypatch):
    """The real provider instead of the world's fake zone. Its name servers show every record."""
    monkeypatch.setattr(registry, "provider_with", provider_with)
    monkeypatch.setattr(world.zone, "shows", lambda name, value: True)
    with responses.mock:
        yield FakeAlidns()


@pytest.fixture
def credential(alice) -> DnsCredential:
    given = {"provider": "aliyun", "access_key_id": KEY_ID, "access_key_secret": KEY}
    return credentials.create_credential(alice, given)


def record_of(credential: DnsCredential, value: str = "v" * 43) -> TxtRecord:
    return TxtRecord.objects.create(
        credential=credential, name="_acme-challenge.example.com", value=value
    )


def go_on(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.deliver()
        if Issuance.objects.get().state == Issuance.State.ISSUED:
            return
        world.advance(1)
        world.sweep()


def test_a_record_at_a_closed_gate_has_no_intent(world, alidns, credential):
    record = record_of(credential)
    with open_credential(credential)._gate("example.com").alone(), pytest.raises(Wait):
        records.publish(record.pk)
    record.refresh_from_db()
    assert ADD not in alidns.asked
    assert (record.holder, record.intent_at, record.unsure_until) == ("", None, None)


@pytest.mark.slow
def test_twenty_names_go_on_after_each_refusal_and_each_is_added_once(
    world, alidns, alice, credential
):
    last_change = world.time

    def refuses(action: str) -> str:
        """Refuse every fourth call, and a change less than a second after another one."""
        nonlocal last_change
        if len(alidns.asked) % 4 == 0:
            return "Throttling.User"
        if action not in (ADD, DELETE):
            return ""
        if (world.time - last_change).total_seconds() < 1:
            return "LastOperationNotFinished"
        last_change = world.time
        return ""

    alidns.refuses = refuses
    names = [f"host{number}.example.com" for number in range(20)]
    world.create(world.account(alice), credential, *names)
    go_on(world, 200)
    attempt = Issuance.objects.get()
    assert attempt.state == Issuance.State.ISSUED, attempt.waits_for
    assert (attempt.stumbles, attempt.number) == (0, 1)
    assert not IssuanceEvent.objects.filter(outcome="retry").exists()
    assert IssuanceEvent.objects.filter(step="present", outcome="wait").count() < 60, (
        "it waits, and does not chatter"
    )
    assert alidns.asked.count(ADD) < 20 * 3, "what was published is not published again"
    for _ in range(100):
        if not alidns.records:
            break
        world.advance(5)
        world.sweep()
    assert alidns.records == []
    assert set(TxtRecord.objects.values_list("stumbles", flat=True)) == {0}


def test_without_a_refusal_twenty_names_need_no_pause(world, alidns, alice, credential):
    world.create(
        world.account(alice), credential, *[f"host{number}.example.com" for number in range(20)]
    )
    go_on(world, 10)
    assert Issuance.objects.get().state == Issuance.State.ISSUED
    assert alidns.asked.count(ADD) == 20


def test_a_throttled_record_waits_a_second_and_counts_no_failure(world, alidns, credential):
    record = record_of(credential)
    alidns.refuses = lambda action: "LastOperationNotFinished" if action == ADD else ""
    with pytest.raises(Wait):
        records.publish(record.pk)
    record.refresh_from_db()
    assert (record.stumbles, record.holder, (record.wake_at - world.time).total_seconds()) == (
        0,
        "",
        1.0,
    )
    alidns.refuses = lambda action: ""
    with pytest.raises(Wait):
        records.publish(record_of(credential, "w" * 43).pk)
    world.advance(1)
    records.publish(record.pk)
    assert alidns.values() == ["v" * 43]


def test_a_throttled_call_stops_the_calls_of_every_worker_for_a_second(world, alidns, credential):
    alidns.refuses = lambda action: "Throttling.User"
    with pytest.raises(Wait):
        records.publish(record_of(credential).pk)
    asked = len(alidns.asked)
    with pytest.raises(Wait):
        records.publish(record_of(credential, "w" * 43).pk)
    assert len(alidns.asked) == asked
    world.advance(2)
    alidns.refuses = lambda action: ""
    open_credential(credential).check()


def test_a_gate_lets_one_through_and_opens_again(world):
    gate = Gate("a zone", "Another change is being made.")
    with gate.alone(), pytest.raises(Wait, match="Another change"), gate.alone():
        pass
    with gate.alone():
        pass


def test_a_worker_that_dies_in_a_gate_holds_it_for_a_call_and_no_longer(world, settings):
    gate = Gate("a zone", "Another change is being made.")
    gate._enter()
    world.advance(settings.CALL_LIMIT - 1)
    with pytest.raises(Wait), gate.alone():
        pass
    world.advance(1)
    with gate.alone():
        pass


def test_a_zombie_does_not_open_the_gate_of_another(world, settings):
    gate = Gate("a zone", "Another change is being made.")
    with gate.alone():
        world.advance(settings.CALL_LIMIT)
        gate._enter()
    with pytest.raises(Wait), gate.alone():
        pass
    assert clock.now() == world.time


def test_a_label_that_is_refused_ends_the_attempt_at_once(world, alidns, alice, credential):
    alidns.refuses = lambda action: "SubDomainInvalid.RR" if action == ADD else ""
    world.create(world.account(alice), credential, "example.com")
    world.deliver()
    attempt = Issuance.objects.get()
    assert (attempt.state, attempt.error_code) == (Issuance.State.FAILED, "dns_refused")
    assert "SubDomainInvalid.RR" in attempt.error_what
    assert alidns.asked.count(ADD) == 1
