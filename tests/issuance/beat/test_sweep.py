"""Only the sweep admits work: which messages it sends, for whom, and how many at once."""

from datetime import timedelta

import pytest
from django.apps import apps

from certctrl import dispatch
from certctrl.turns import Turns
from dnsproviders.models import TxtRecord
from issuance import services, workflow
from issuance.beat import sweep
from issuance.beat.due import WITH_TURNS
from issuance.challenges import txtrecords
from issuance.models import CertificateVersion, Issuance, IssuanceEvent, names_key

pytestmark = pytest.mark.django_db


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
    monkeypatch.setattr(dispatch, "SHARE", 10)


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


def test_a_credential_gets_a_quarter_while_others_wait(world, account, owner, small):
    dead = world.credential(owner)
    alive = world.credential(owner)
    due(world, world.account(owner), dead, 60, names="dead")
    due(world, world.account(owner), alive, 10, names="alive")
    sweep.sweep.run()
    assert Issuance.objects.filter(credential=alive, queued_at=world.time).count() == 10


def test_an_account_gets_a_quarter_while_others_wait(world, account, credential, owner, small):
    other = world.account(owner)
    due(world, account, world.credential(owner), 60, names="many")
    due(world, other, world.credential(owner), 10, names="few")
    sweep.sweep.run()
    assert Issuance.objects.filter(account=other, queued_at=world.time).count() == 10


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
    other = world.credential(owner)
    to_clean(world, credential, 2 * dispatch.SHARE)
    for _ in range(3):  # nothing is delivered: the workers hang in the dead API
        sweep.sweep.run()
    to_clean(world, other, 3)
    sweep.sweep.run()
    sent = TxtRecord.objects.exclude(queued_at=None)
    assert sent.filter(credential=credential).count() == sweep.OF_ONE < dispatch.SHARE
    assert sent.filter(credential=other).count() == 3


def test_revocations_at_a_dead_ca_do_not_hold_up_those_at_another(
    world, account, credential, owner, monkeypatch
):
    monkeypatch.setattr(sweep, "OF_ONE", 2)
    other = world.account(owner)
    for number, at in enumerate((account, account, account, other)):
        certificate, _ = world.create(at, credential, f"host{number}.example.com")
        world.deliver()
        certificate.refresh_from_db()
        services.revoke(certificate)
        world.messages.clear()
    CertificateVersion.objects.update(queued_at=None)
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
