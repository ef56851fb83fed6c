"""Only the sweep admits work: which messages it sends, for whom, and how many at once."""

from collections import Counter
from datetime import timedelta

import pytest
from django.apps import apps
from django.db import connection
from django.test.utils import CaptureQueriesContext

from authorities import catalog
from certctrl import board, clock, dispatch, lanes
from certctrl.lanes import Standing
from certctrl.turns import Turns
from dnsproviders.models import TxtRecord
from dnsproviders.registry import lane_of_credential
from issuance import services, tasks, workflow
from issuance.beat import admission, sweep
from issuance.beat.due import WITH_TURNS
from issuance.challenges import txtrecords
from issuance.models import CertificateVersion, Issuance, IssuanceEvent, names_key
from issuance.workflow import batch
from tests.fakes import waiting

pytestmark = pytest.mark.django_db
A_MINUTE = timedelta(minutes=1)


def due(world, account, credential, count: int, state: str = "queued", names: str = "host") -> None:
    """Attempts that are due, written directly as rows."""
    certificates = [
        services.new_certificate(
            account.owner, world.spec(account, credential, f"{names}{number}.example.com")
        )
        for number in range(count)
    ]
    now = world.time
    Issuance.objects.bulk_create(
        Issuance(
            certificate=each,
            account=account,
            credential=credential,
            names_key=names_key(each.account, each.names),
            reason="new",
            state=state,
            state_since=now,
            deadline_at=now + timedelta(hours=6),
            wake_at=now,
        )
        for each in certificates
    )


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(dispatch, "MOST_ON_THEIR_WAY", 40)
    monkeypatch.setattr(dispatch, "OF_ONE", 10)


def sent(world) -> int:
    return Issuance.objects.filter(queued_at=world.time).count()


def test_a_row_is_sent_once_until_resend_has_passed(world, account, credential, settings):
    due(world, account, credential, 3)
    sweep.sweep.run()
    sweep.sweep.run()
    assert world.sent.count("chain") == 3
    world.advance(settings.RESEND + 1)
    sweep.sweep.run()
    assert world.sent.count("chain") == 6


def test_no_more_than_the_limit_is_on_its_way(world, account, credential, small):
    due(world, account, credential, 60)
    sweep.sweep.run()
    sweep.sweep.run()
    assert sent(world) == 40


def test_a_dns_api_in_trouble_gets_two_whoever_waits(world, account, owner, small):
    dead = world.credential(owner)
    alive = world.credential(owner)
    due(world, account, dead, 60, names="dead")
    due(world, account, alive, 10, names="alive")
    lanes.note(lane_of_credential(dead).key, Standing.TROUBLE)
    for _ in range(3):
        sweep.sweep.run()
    assert Issuance.objects.filter(credential=dead).exclude(queued_at=None).count() == 2
    assert Issuance.objects.filter(credential=alive).exclude(queued_at=None).count() == 10


def test_a_ca_in_trouble_gets_two_whoever_waits(world, account, credential, owner, small):
    other = world.account(owner, directory_url="https://other.test/dir")
    due(world, account, credential, 60, state="validated", names="dead")
    due(world, other, credential, 10, names="alive")
    lanes.note(catalog.lane_of_account(account).key, Standing.TROUBLE)
    for _ in range(3):
        sweep.sweep.run()
    assert Issuance.objects.filter(account=account).exclude(queued_at=None).count() == 2
    assert Issuance.objects.filter(account=other).exclude(queued_at=None).count() == 10


def test_a_look_does_not_need_the_dns_api_or_the_ca(world, account, credential, small):
    due(world, account, credential, 5, state="presented")
    lanes.note(lane_of_credential(credential).key, Standing.TROUBLE)
    lanes.note(catalog.lane_of_account(account).key, Standing.TROUBLE)
    sweep.sweep.run()
    assert world.sent.count("issuance.look") == 1


def test_an_owner_gets_a_quarter_while_others_wait(world, account, credential, bob, small):
    other = world.account(bob)
    for number in range(3):
        due(world, account, world.credential(account.owner), 20, names=f"many{number}")
    due(world, other, world.credential(bob), 10, names="few")
    sweep.sweep.run()
    assert Issuance.objects.filter(account=other, queued_at=world.time).count() == 10
    assert sent(world) == 40


@pytest.fixture
def priorities(monkeypatch):
    """The priority of each message that was sent, by the id of the attempt."""
    priorities: dict[int, int] = {}

    def start(issuance_id, state, *, priority):
        priorities[issuance_id] = priority
        return True

    monkeypatch.setattr(tasks, "start", start)
    return priorities


def test_the_first_eight_of_each_owner_go_first(world, account, credential, bob, priorities):
    due(world, account, credential, 12)
    due(world, world.account(bob), world.credential(bob), 3, names="few")
    sweep.sweep.run()
    theirs = Issuance.objects.filter(account=account).values_list("pk", flat=True)
    assert Counter(priorities[pk] for pk in theirs) == {dispatch.FIRST: 8, dispatch.LATER: 4}
    assert Counter(priorities.values()) == {dispatch.FIRST: 11, dispatch.LATER: 4}


def test_new_attempts_do_not_hold_up_those_that_have_begun(
    world, account, credential, small, priorities
):
    due(world, account, credential, 60)
    sweep.sweep.run()
    due(world, account, credential, 3, state="validated", names="ordered")
    due(world, account, credential, 2, names="waited")
    slots = Issuance.objects.filter(certificate__domain__startswith="waited")
    slots.update(slot_at=world.time)
    sweep.sweep.run()
    begun = [pk for pk, priority in priorities.items() if priority == dispatch.BEGUN]
    names = Issuance.objects.filter(pk__in=begun).values_list("certificate__domain", flat=True)
    assert Counter(name[:6] for name in names) == {"ordere": 3, "waited": 2}
    assert len(priorities) == 40 + 5


def test_attempts_that_only_ask_again_go_before_none(
    world, account, credential, small, priorities, monkeypatch
):
    monkeypatch.setattr(admission, "WAITING", 10)
    due(world, account, credential, 60, names="new")
    world.advance(60)
    due(world, account, credential, 20, state="validated", names="asks")
    asking = Issuance.objects.filter(state="validated")
    asking.update(waits_for="The CA is signing.")
    sweep.sweep.run()
    assert dispatch.BEGUN not in priorities.values()
    assert asking.exclude(queued_at=None).count() == 10
    assert len(priorities) == 40


def test_young_checks_go_first_behind_many_in_a_quarter_of_threads(
    world, account, credential, small, priorities, monkeypatch, settings
):
    monkeypatch.setattr(admission, "SHORT_QUEUE", 20)
    settings.WORKER_CONCURRENCY = 12
    due(world, account, credential, 20, names="old", state="validated")
    due(world, account, credential, 5, names="failed", state="validated")
    due(world, account, credential, 30, names="new")
    world.advance(60)
    due(world, account, credential, 9, names="young", state="validated")
    ordered = Issuance.objects.filter(state="validated")
    later = ordered.update(waits_for="The CA is signing.", wake_at=world.time + A_MINUTE)
    recent = ordered.filter(certificate__domain__regex="failed|young")
    recent.update(state_since=world.time + A_MINUTE)
    ordered.filter(certificate__domain__startswith="failed").update(stumbles=1)
    sweep.sweep.run()
    assert len(priorities) == 30
    assert later == 34
    world.advance(60)
    for _ in range(2):
        sweep.sweep.run()
    begun = [pk for pk, priority in priorities.items() if priority == dispatch.BEGUN]
    names = Issuance.objects.filter(pk__in=begun).values_list("certificate__domain", flat=True)
    assert sorted(names) == [f"young{number}.example.com" for number in range(3)]
    assert not set(priorities) & set(recent.filter(stumbles=0).exclude(pk__in=begun))


def test_slots_that_come_together_are_no_crowd_for_young_checks(
    world, account, credential, small, priorities, monkeypatch
):
    monkeypatch.setattr(admission, "SHORT_QUEUE", 5)
    due(world, account, credential, 12, names="slot")
    Issuance.objects.update(slot_at=world.time, waits_for="The CA takes 5 orders a day.")
    due(world, account, credential, 9, names="young", state="validated")
    Issuance.objects.filter(state="validated").update(waits_for="The CA is signing.")
    sweep.sweep.run()
    assert len(priorities) == 21


def test_attempts_that_reached_their_slots_have_a_limit(
    world, account, credential, small, priorities, monkeypatch
):
    monkeypatch.setattr(admission, "MORE_BEGUN", 10)
    due(world, account, credential, 80)
    Issuance.objects.update(slot_at=world.time)
    for _ in range(3):
        sweep.sweep.run()
    assert len(priorities) == 40


def test_those_that_wait_for_their_records_share_one_look(world, account, credential, monkeypatch):
    monkeypatch.setattr(workflow, "BATCH", 5)
    due(world, account, credential, 12, state="presented")
    sweep.sweep.run()
    assert world.sent.count("issuance.look") == 3
    assert "chain" not in world.sent


def test_records_still_in_use_go_back_to_sleep_in_one_update(
    world, account, credential, django_assert_num_queries
):
    world.zone.hides = True
    for number in range(5):
        world.create(account, credential, f"host{number}.example.com")
    world.deliver()
    TxtRecord.objects.update(wake_at=world.time)
    with django_assert_num_queries(3):
        sweep.admit_cleanups(world.time)
    assert TxtRecord.objects.filter(wake_at__gt=world.time).count() == 5
    assert "issuance.cleanup" not in world.sent


def to_clean(world, credential, count: int) -> None:
    at = world.time - timedelta(hours=1)
    TxtRecord.objects.bulk_create(
        TxtRecord(
            credential=credential,
            name=f"n{n}.example.com",
            value="v",
            intent_at=at,
            presented_at=at,
            wake_at=at,
        )
        for n in range(count)
    )


def test_cleanups_of_a_dead_credential_do_not_hold_up_those_of_another(world, credential, owner):
    lanes.note(lane_of_credential(credential).key, Standing.TROUBLE)
    other = world.credential(owner)
    to_clean(world, credential, 2 * dispatch.SHARE)
    for _ in range(3):  # nothing is delivered: the workers hang in the dead API
        sweep.sweep.run()
    to_clean(world, other, 3)
    sweep.sweep.run()
    sent = TxtRecord.objects.exclude(queued_at=None)
    assert sent.filter(credential=credential).count() == 2
    assert sent.filter(credential=other).count() == 3


def test_revocations_at_a_dead_ca_do_not_hold_up_those_at_another(
    world, account, credential, owner, monkeypatch
):
    other = world.account(
        owner, directory_url="https://other.test/dir", url="https://other.test/acct/1"
    )
    for number, at in enumerate((account, account, account, other)):
        certificate, _ = world.create(at, credential, f"host{number}.example.com")
        world.deliver()
        certificate.refresh_from_db()
        services.revoke(certificate)
        world.messages.clear()
    CertificateVersion.objects.update(queued_at=None)
    lanes.note(catalog.lane_of_account(account).key, Standing.TROUBLE)
    for _ in range(3):
        sweep.sweep.run()
    sent = CertificateVersion.objects.exclude(queued_at=None).values_list("account", flat=True)
    assert sorted(sent) == [account.pk, account.pk, other.pk]


def test_a_sweep_without_due_rows_asks_once(world, credential, django_assert_num_queries):
    TxtRecord.objects.create(credential=credential, name="example.com", value="v")
    with django_assert_num_queries(1):
        sweep.sweep.run()


def test_every_table_that_workers_act_on_is_asked():
    assert set(WITH_TURNS) == {each for each in apps.get_models() if issubclass(each, Turns)}


def test_a_record_is_needed_by_name_and_value_whatever_the_credential(
    world, account, credential, owner
):
    world.zone.hides = True
    world.create(account, credential, "example.com")
    world.deliver()
    record = TxtRecord.objects.get()
    twin = TxtRecord.objects.create(
        credential=world.credential(owner), name=record.name, value=record.value
    )
    assert txtrecords.is_needed(twin)
    other = TxtRecord.objects.create(credential=credential, name=record.name, value="another")
    assert not txtrecords.is_needed(other)


def test_many_needed_records_are_kept_in_several_sweeps(world, account, credential, monkeypatch):
    monkeypatch.setattr(txtrecords, "MOST_KEPT", 2)
    names = [f"host{number}.example.com" for number in range(5)]
    waiting.attempts(account, credential, names, world.time - timedelta(minutes=10))
    due = TxtRecord.objects.filter(wake_at__lte=world.time)
    left = []
    for _ in range(3):
        sweep.sweep.run()
        left.append(due.count())
    assert left == [3, 1, 0]
    assert world.sent.count("issuance.cleanup") == 0


def test_a_look_reads_whole_rows_only_of_attempts_that_change(
    world, account, credential, django_assert_num_queries
):
    world.zone.hides = True
    names = [f"host{number}.example.com" for number in range(4)]
    waiting.attempts(account, credential, names, world.time - timedelta(minutes=4), presents=3)
    workflow.look()
    Issuance.objects.update(wake_at=world.time)
    with django_assert_num_queries(9) as few:
        workflow.look()
    assert not any("csr_pem" in each["sql"] for each in few.captured_queries)
    Issuance.objects.filter(certificate__domain="host2.example.com").update(waits_for="")
    Issuance.objects.update(wake_at=world.time)
    with CaptureQueriesContext(connection) as more:
        workflow.look()
    whole = [each["sql"] for each in more.captured_queries if "csr_pem" in each["sql"]]
    assert len(whole) == 1
    assert IssuanceEvent.objects.count() == 5


@pytest.mark.slow
def test_a_look_that_changes_nothing_writes_no_event_and_few_queries(
    world, account, credential, django_assert_max_num_queries
):
    world.zone.hides = True
    for number in range(20):
        world.create(account, credential, f"host{number}.example.com")
    world.deliver()
    world.advance(5)
    world.sweep()
    events = IssuanceEvent.objects.count()
    world.advance(5)
    with django_assert_max_num_queries(12):
        workflow.look()
    assert IssuanceEvent.objects.count() == events
    assert Issuance.objects.filter(wake_at__gt=world.time, holder="").count() == 20


def test_a_crowd_that_waits_for_its_records_delays_no_new_order(
    world, account, credential, monkeypatch
):
    monkeypatch.setattr(dispatch, "MOST_ON_THEIR_WAY", 10)
    monkeypatch.setattr(workflow, "BATCH", 5)
    due(world, account, credential, 60, state="presented", names="waits")
    due(world, account, credential, 3, names="new")
    sweep.sweep.run()
    assert world.sent.count("chain") == 3
    assert world.sent.count("issuance.look") == admission.LOOKS


def test_a_look_that_was_sent_and_lost_is_sent_again(world, account, credential, monkeypatch):
    monkeypatch.setattr(admission, "LOOKS", 1)
    due(world, account, credential, 3, state="presented")
    sweep.sweep.run()
    world.messages.clear()
    sweep.sweep.run()
    assert world.sent.count("issuance.look") == 1
    world.advance(workflow.LEASE + 1)
    sweep.sweep.run()
    assert world.sent.count("issuance.look") == 2


def test_one_look_follows_another_while_more_are_due(world, account, credential, monkeypatch):
    monkeypatch.setattr(batch, "BATCH", 5)
    world.zone.hides = True
    due(world, account, credential, 12, state="presented")
    tasks.look.run()
    assert not Issuance.objects.needs_look().exists()


def test_a_second_look_of_a_process_helps_only_a_slow_one(world, account, credential):
    world.zone.hides = True
    due(world, account, credential, 3, state="presented")
    sweep.sweep.run()
    with tasks._going.lock:
        tasks._going.since = clock.monotonic()
        tasks.look.run()
        waits = Issuance.objects.needs_look().filter(queued_at=None)
        assert waits.count() == 3, "the next sweep sends it again"
        tasks._going.since -= board.SLOW + 1
        tasks.look.run()
    assert not Issuance.objects.needs_look().exists()


def test_a_dns_api_that_answers_late_gets_one_owners_share(
    world, account, credential, bob, monkeypatch
):
    monkeypatch.setattr(dispatch, "OF_ONE", 5)
    lanes.note(lane_of_credential(credential).key, Standing.SLOW)
    to_clean(world, credential, 8)
    due(world, account, credential, 4)
    due(world, world.account(bob), credential, 4, names="other")
    sweep.sweep.run()
    assert TxtRecord.objects.exclude(queued_at=None).count() == 5
    assert sent(world) == 5


def test_a_look_without_a_thread_is_sent_again(world, account, credential, monkeypatch):
    due(world, account, credential, 3, state="presented")
    sweep.sweep.run()
    monkeypatch.setattr(board, "board", board.Board(2))
    lanes.note(tasks.LOOKS.key, Standing.TROUBLE)
    with lanes.enter(tasks.LOOKS):
        own = board.place.set(None)
        tasks.look.run()
        board.place.reset(own)
    assert not Issuance.objects.filter(holder="").exclude(queued_at=None).exists()
    assert not Issuance.objects.exclude(holder="").exists()


def test_many_attempts_that_ask_for_long_leave_room_for_new_ones(
    world, account, credential, small, priorities, monkeypatch
):
    monkeypatch.setattr(admission, "WAITING", 10)
    due(world, account, credential, 60, state="validated", names="asks")
    Issuance.objects.filter(state="validated").update(waits_for="The CA is signing.")
    world.advance(60)
    due(world, account, credential, 20, names="new")
    sweep.sweep.run()
    asking = Issuance.objects.filter(state="validated")
    assert asking.exclude(queued_at=None).count() == 10
    assert len(priorities) == 30
