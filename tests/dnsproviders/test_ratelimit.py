"""All workers together keep the limit of a DNS provider's API. Records over it wait."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from certctrl import clock
from certctrl.turns import Wait
from dnsproviders import credentials, records, registry
from dnsproviders.base import ProviderError
from dnsproviders.models import ApiBucket, DnsCredential, TxtRecord
from dnsproviders.providers.cloudflare import Cloudflare
from dnsproviders.ratelimit import ROUND, VISIT, ApiLimit, Pace
from dnsproviders.registry import open_credential, provider_with
from issuance.models import Issuance
from tests.dnsproviders.smallcloudflare import API, TOKEN, FakeCloudflare
from tests.issuance.api.calling import Caller, refused

pytestmark = pytest.mark.django_db

NAME = "_acme-challenge.example.com"
FEW = {"cloudflare": [20, 7200]}  # ten at once, then one in twelve minutes


@pytest.fixture
def cloudflare(world, monkeypatch):
    """The real provider instead of the world's fake zone. Its name servers show every record."""
    monkeypatch.setattr(registry, "provider_with", provider_with)
    monkeypatch.setattr(world.zone, "shows", lambda name, value: True)
    with responses.mock:
        yield FakeCloudflare()


@pytest.fixture
def credential(alice) -> DnsCredential:
    return of_cloudflare(alice)


def of_cloudflare(owner) -> DnsCredential:
    return credentials.create_credential(owner, {"provider": "cloudflare", "api_token": TOKEN})


def record_of(credential: DnsCredential, value: str = "v" * 43) -> TxtRecord:
    return TxtRecord.objects.create(credential=credential, name=NAME, value=value)


def use_up(owner, but: int = 0) -> None:
    """Leave `but` tokens of the limit FEW in the owner's bucket."""
    limit = ApiLimit(*FEW["cloudflare"])
    ApiBucket.objects.update_or_create(
        key=f"cloudflare {owner.pk}",
        defaults={"full_at": clock.now() + limit.each * (limit.burst - but)},
    )


def calls() -> int:
    return len(responses.calls)


# --- the arithmetic ---


def test_cloudflares_limit_is_600_at_once_and_one_back_each_half_second():
    limit = ApiLimit(1200, 300)
    assert (limit.burst, limit.each) == (600, timedelta(seconds=0.5))
    assert str(limit) == "1,200 calls in 5 minutes"


@pytest.mark.parametrize(
    "limit", [ApiLimit(20, 10), ApiLimit(7, 3), ApiLimit(2, 5), ApiLimit(1, 5)]
)
def test_no_window_ever_sees_more_calls_than_the_limit(world, limit):
    pace = Pace("The API", "api 1", limit)
    made = []
    for turn in range(400):
        if turn == 200:
            world.advance(10 * limit.seconds)  # unused tokens are not saved up
        try:
            pace.take()
            made.append(world.time)
        except Wait:
            world.advance(limit.seconds / 100)
    window = timedelta(seconds=limit.seconds)
    busiest = max(sum(1 for each in made if start <= each < start + window) for start in made)
    assert limit.calls - 1 <= busiest <= limit.calls, "nor does it give away much of the limit"


def test_a_call_costs_one_update_and_nothing_else(django_assert_num_queries):
    pace = Pace("The API", "api 1", ApiLimit(20, 10))
    pace.take()
    with django_assert_num_queries(1) as asked:
        pace.take()
    assert asked.captured_queries[0]["sql"].startswith("UPDATE")


def test_without_a_limit_nothing_is_asked(django_assert_num_queries):
    with django_assert_num_queries(0):
        Pace("The API", "api 1", None).take()


def test_a_record_without_a_token_waits_with_a_sentence(world):
    pace = Pace("The API", "api 1", ApiLimit(20, 600))
    for _ in range(10):
        pace.take()
    with pytest.raises(Wait) as caught:
        pace.take()
    wait = caught.value
    assert wait.imposed
    assert 60 <= wait.seconds <= 120
    by = world.time + timedelta(seconds=wait.seconds)
    assert wait.what.startswith(
        "The API allows one user 20 calls in 10 minutes, and they are used up. Calls continue"
    )
    said = by.replace(hour=int(wait.what[-10:-8]), minute=int(wait.what[-7:-5]), second=59)
    assert (said - by) % timedelta(days=1) < ROUND + timedelta(minutes=1)
    world.advance(wait.seconds)
    pace.take()


def test_a_crowd_that_waits_does_not_come_back_at_the_same_moment():
    pace = Pace("The API", "api 1", ApiLimit(1200, 300))
    ApiBucket.objects.create(key="api 1", full_at=clock.now() + timedelta(hours=1))
    waits = []
    for _ in range(50):
        with pytest.raises(Wait) as caught:
            pace.take()
        waits.append(caught.value.seconds)
    assert max(waits) - min(waits) > 20


def test_the_sentence_is_stable_for_minutes_so_waiting_is_one_event(world):
    pace = Pace("The API", "api 1", ApiLimit(1200, 300))
    ApiBucket.objects.create(key="api 1", full_at=clock.now() + timedelta(hours=1))
    said = set()
    for _ in range(60):
        with pytest.raises(Wait) as caught:
            pace.take()
        said.add(caught.value.what)
        world.advance(1)
    assert len(said) <= 2


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
def test_of_many_workers_at_once_exactly_as_many_pass_as_there_are_tokens():
    pace = Pace("The API", "api 1", ApiLimit(20, 36000))
    passed = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(5):
            try:
                pace.take()
                passed.append(1)
            except Wait:
                pass
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 10
    assert ApiBucket.objects.count() == 1


# --- whose calls count ---


def test_all_credentials_of_an_owner_count_as_one_user(alice, bob, settings):
    settings.DNS_API_LIMITS = {"cloudflare": [2, 3600]}
    open_credential(of_cloudflare(alice)).pace.take()
    with pytest.raises(Wait):
        open_credential(of_cloudflare(alice)).pace.take()
    open_credential(of_cloudflare(bob)).pace.take()


def test_settings_override_a_limit_take_it_away_and_set_one(credential, settings):
    assert open_credential(credential).pace.limit == ApiLimit(1200, 300)
    settings.DNS_API_LIMITS = {"cloudflare": [100, 60]}
    assert open_credential(credential).pace.limit == ApiLimit(100, 60)
    settings.DNS_API_LIMITS = {"cloudflare": None}
    assert open_credential(credential).pace.limit is None
    settings.DNS_API_LIMITS = {"httpreq": [5, 1]}
    credential.provider = "httpreq"
    credential.public = {"endpoint": "https://dns.example.com"}
    assert open_credential(credential).pace.limit == ApiLimit(5, 1)


NONSENSE = (
    [1200, 300],
    {"cloudfare": [1200, 300]},
    {"cloudflare": [0, 300]},
    {"cloudflare": [1200]},
    {"cloudflare": "fast"},
    {"cloudflare": [1.5, 300]},
    {"cloudflare": [True, 300]},
    {"cloudflare": [1200, -1]},
    {"cloudflare": {}},
    {"cloudflare": [1200, float("inf")]},
    {"cloudflare": [1200, float("nan")]},
    {"cloudflare": [1200, 1e300]},
    {"cloudflare": [10**30, 300]},
)


@pytest.mark.parametrize("given", NONSENSE)
def test_a_setting_that_makes_no_sense_stops_the_start(settings, given):
    settings.DNS_API_LIMITS = given
    with pytest.raises(ImproperlyConfigured, match="DNS_API_LIMITS"):
        registry.check_api_limits()


# --- the calls of an adapter ---


def test_every_http_call_takes_a_token(cloudflare, credential, settings):
    settings.DNS_API_LIMITS = FEW
    records.publish(record_of(credential).pk)
    limit = ApiLimit(*FEW["cloudflare"])
    assert calls() == 4, "two names that may be the zone, the record, the new one"
    assert ApiBucket.objects.get().full_at == clock.now() + limit.each * calls()


def test_a_visit_begins_only_where_it_can_go_through(cloudflare, credential, settings):
    """Otherwise a thousand records that search the zone would leave no token to write."""
    settings.DNS_API_LIMITS = FEW
    record = record_of(credential)
    use_up(credential.owner, but=VISIT - 1)
    with pytest.raises(Wait):
        records.publish(record.pk)
    assert calls() == 0
    use_up(credential.owner, but=VISIT)
    records.publish(record.pk)
    assert calls() == 4


def test_a_record_whose_call_had_to_wait_has_no_intent(cloudflare, credential, settings):
    """The search for the zone takes the tokens, so the call that writes is never made."""
    settings.DNS_API_LIMITS = FEW
    record = record_of(credential)
    use_up(credential.owner, but=VISIT)
    bucket = ApiBucket.objects.get()
    limit = ApiLimit(*FEW["cloudflare"])

    def takes_the_rest(self, name):
        ApiBucket.objects.filter(pk=bucket.pk).update(full_at=clock.now() + limit.each * 10)
        return "zone1"

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Cloudflare, "zone_of", takes_the_rest)
        with pytest.raises(Wait):
            records.publish(record.pk)
    record.refresh_from_db()
    assert (calls(), record.holder) == (0, "")
    assert (record.zone, record.intent_at, record.unsure_until) == ("", None, None)


def test_a_record_whose_second_call_had_to_wait_keeps_its_first_intent(
    cloudflare, credential, settings
):
    settings.DNS_API_LIMITS = FEW
    at = clock.now() - timedelta(hours=1)
    record = record_of(credential)
    TxtRecord.objects.update(zone="zone1", intent_at=at, unsure_until=at, wake_at=at)
    use_up(credential.owner)
    with pytest.raises(Wait):
        records.publish(record.pk)
    record.refresh_from_db()
    assert (record.zone, record.intent_at, record.unsure_until) == ("zone1", at, at)


def test_a_429_stops_everybody_until_the_moment_that_it_names(world, cloudflare, alice, settings):
    first = of_cloudflare(alice)
    second = of_cloudflare(alice)
    responses.reset()
    responses.add(responses.GET, f"{API}/zones", status=429, headers={"Retry-After": "120"})
    with pytest.raises(ProviderError, match="limits the rate"):
        open_credential(first).check()
    world.advance(119)
    with pytest.raises(Wait):
        open_credential(second).pace.take()
    world.advance(1)
    open_credential(second).pace.take()
    with pytest.raises(Wait):
        open_credential(second).pace.take()


@pytest.mark.parametrize(("said", "seconds"), [({}, 300), ({"Retry-After": "604800"}, 3600)])
def test_a_429_without_a_usable_time_closes_the_bucket_for_a_while(
    world, cloudflare, credential, said, seconds
):
    responses.reset()
    responses.add(responses.GET, f"{API}/zones", status=429, headers=said)
    with pytest.raises(ProviderError):
        open_credential(credential).check()
    world.advance(seconds - 1)
    with pytest.raises(Wait):
        open_credential(credential).pace.take()
    world.advance(1)
    open_credential(credential).pace.take()


# --- who waits ---


def test_a_record_that_must_wait_counts_no_failure_and_is_published_later(
    world, cloudflare, credential, settings
):
    settings.DNS_API_LIMITS = FEW
    record = record_of(credential)
    use_up(credential.owner)
    with pytest.raises(Wait) as caught:
        records.publish(record.pk)
    record.refresh_from_db()
    assert (record.holder, record.stumbles, record.left_behind) == ("", 0, "")
    assert record.wake_at == world.time + timedelta(seconds=caught.value.seconds)
    world.advance(caught.value.seconds)
    records.publish(record.pk)
    record.refresh_from_db()
    assert record.is_published


def test_a_record_that_had_no_token_left_is_written_later(world, cloudflare, credential, settings):
    """The zone was found and then the bucket was empty, so no intent is left."""
    settings.DNS_API_LIMITS = FEW
    record = record_of(credential)

    def meanwhile(request: Any) -> Any:
        found = cloudflare.answer(request)
        if '"id"' in found[2]:
            use_up(credential.owner)
        return found

    responses.reset()
    responses.add_callback(responses.GET, f"{API}/zones", meanwhile)
    with pytest.raises(Wait):
        records.publish(record.pk)
    record.refresh_from_db()
    assert not record.intent_at
    assert not record.is_published
    responses.reset()
    again = FakeCloudflare()
    world.advance(4 * 3600)
    records.publish(record.pk)
    record.refresh_from_db()
    assert record.is_published
    assert len(again.records) == 1


def test_a_half_done_cleanup_continues_and_counts_no_failure(
    world, cloudflare, credential, settings
):
    settings.DNS_API_LIMITS = FEW
    record = record_of(credential)
    records.publish(record.pk)
    cloudflare.records = [cloudflare.records[0] | {"id": f"id{number}"} for number in range(12)]
    world.advance(4 * 3600)
    with pytest.raises(Wait):
        records.withdraw(record.pk, lambda record: False)
    assert 0 < len(cloudflare.records) < 12
    record.refresh_from_db()
    assert (record.holder, record.stumbles, record.left_behind) == ("", 0, ""), "nothing failed"
    assert record.wake_at
    world.advance(4 * 3600)
    records.withdraw(record.pk, lambda record: False)
    record.refresh_from_db()
    assert cloudflare.records == []
    assert record.cleaned_at


def test_an_attempt_waits_with_the_sentence_and_its_deadline_moves(
    world, cloudflare, alice, credential, settings
):
    settings.DNS_API_LIMITS = FEW
    use_up(alice)
    world.create(world.account(alice), credential, "example.com")
    world.deliver()
    waiting = Issuance.objects.get()
    assert (waiting.state, waiting.stumbles) == (Issuance.State.ORDERED, 0)
    assert waiting.waits_for.startswith("Cloudflare allows one user 20 calls in 120 minutes")
    assert waiting.events.filter(outcome="wait").count() == 1
    assert waiting.deadline_at == waiting.state_since + timedelta(hours=1) + (
        waiting.wake_at - world.time
    )
    world.advance((waiting.wake_at - world.time).total_seconds())
    world.sweep()
    assert Issuance.objects.get().state == Issuance.State.ISSUED


def test_a_crowd_is_issued_in_the_end_and_never_faster_than_the_limit(
    world, cloudflare, alice, credential, settings
):
    settings.DNS_API_LIMITS = {"cloudflare": [24, 60]}
    account = world.account(alice)
    made = []
    for number in range(6):
        world.create(account, credential, f"host{number}.example.com")
    counted = calls()
    for _ in range(30):
        world.deliver()
        made += [world.time] * (calls() - counted)
        counted = calls()
        world.advance(10)
        world.sweep()
    assert set(Issuance.objects.values_list("state", flat=True)) == {Issuance.State.ISSUED}
    assert cloudflare.records == []
    assert len(made) >= 6 * 4
    window = timedelta(seconds=60)
    assert max(sum(1 for each in made if start <= each < start + window) for start in made) <= 24


def test_a_throttled_check_by_a_person_says_when_to_retry(
    cloudflare, client_of, alice, credential, settings
):
    settings.DNS_API_LIMITS = FEW
    use_up(alice)
    answer = Caller(client_of(alice)).post(f"dns-providers/{credential.pk}/check")
    what = refused(answer, 429)
    assert what.startswith("Cloudflare allows one user 20 calls")
    assert answer.error["key"] == "GENERAL::RATE_LIMITED"
    assert int(answer.headers["Retry-After"]) == answer.error["params"]["retry_after"] > 0
    credential.refresh_from_db()
    assert (credential.checked_at, credential.last_error) == (None, ""), (
        "nothing is known of the credential"
    )
    assert calls() == 0


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=30)])
def test_a_bucket_that_a_clock_which_was_ahead_has_emptied_is_full_again(ahead):
    pace = Pace("The API", "api 1", ApiLimit(1200, 300))
    ApiBucket.objects.create(key="api 1", full_at=clock.now() + ahead)
    pace.take(VISIT)
    assert ApiBucket.objects.get().full_at < clock.now() + timedelta(seconds=300)


def test_the_longest_pause_of_an_api_is_kept():
    pace = Pace("The API", "api 1", ApiLimit(1200, 300))
    ApiBucket.objects.create(key="api 1", full_at=clock.now())
    pace.pause(86400)
    with pytest.raises(Wait):
        pace.take()
