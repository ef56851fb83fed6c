"""A drill replaces all certificates of an issuer or account: paced, resumable, each once."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import AuditEvent
from authorities.errors import Refused
from authorities.models import AcmeAccount, PrivateCA
from certctrl.errors import Conflict, Invalid, NotFound
from certctrl.turns import Trouble
from issuance import drills, ratelimits, services
from issuance.beat import renewals, sweep
from issuance.models import Certificate, CertificateVersion, Drill, Issuance
from keystore import envelope
from tests.fakes.outside import Died
from tests.fakes.world import World

pytestmark = [pytest.mark.django_db, pytest.mark.postgres]


def issued(
    world: World, account: AcmeAccount, credential: Any, count: int, issuer: str
) -> list[Certificate]:
    """Return certificates in use that the issuer signed."""
    start = Certificate.objects.count()
    made = [
        world.create(account, credential, f"host{number}.example.com")[0]
        for number in range(start, start + count)
    ]
    world.deliver()
    CertificateVersion.objects.filter(certificate__in=made).update(issuer=issuer)
    assert Certificate.objects.filter(current=None).count() == 0
    world.advance(credential.ttl)  # what the CA's resolver keeps of these challenges is over
    return made


def minutes(world: World, count: int) -> None:
    """Run beat for `count` minutes: the drill each minute, the scan every ten, and sweeps."""
    for minute in range(count):
        renewals.advance_drills.run()
        if minute % 10 == 0:
            renewals.scan_renewals.run()
        world.sweep()
        world.advance(60)


def versions(certificates: list[Certificate]) -> set[int]:
    """Return how many versions the certificates have, as a set."""
    return {CertificateVersion.objects.filter(certificate=each).count() for each in certificates}


def left(running: Drill) -> int:
    return drills.count(running)["left"]


# --- what it replaces ---


@pytest.mark.slow
def test_only_what_the_issuer_signed_is_replaced_and_the_count_burns_down(
    world, owner, account, credential, monkeypatch
):
    monkeypatch.setattr(drills, "BATCH", 4)
    theirs = issued(world, account, credential, 20, "R11")
    others = issued(world, account, credential, 10, "R12")
    running = drills.start(owner, issuer="R11", why="R11 is distrusted")
    seen = [left(running)]
    while not Drill.objects.get().ended_at:
        renewals.advance_drills.run()
        renewals.scan_renewals.run()
        world.sweep()
        world.advance(60)
        seen.append(left(running))
        assert len(seen) < 20
    assert seen[0] == 20
    assert seen[-1] == 0
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 4, "some at a time"
    assert (versions(theirs), versions(others)) == ({2}, {1})
    assert drills.count(running) == {"total": 20, "left": 0, "skipped": 0, "failing": 0}


def test_only_what_the_account_ordered_is_replaced(world, owner, account, credential):
    other = world.account(owner, name="another", url="https://ca.test/acct/2")
    theirs = issued(world, account, credential, 3, "R11")
    others = issued(world, other, credential, 2, "R11")
    drills.start(owner, account=account)
    minutes(world, 12)
    assert (versions(theirs), versions(others)) == ({2}, {1})
    assert Drill.objects.get().status == "ended"


def test_renewals_are_opened_by_the_scan_soonest_expiry_first(
    world, owner, account, credential, monkeypatch
):
    _, _, third = issued(world, account, credential, 3, "R11")
    Certificate.objects.filter(pk=third.pk).update(expires_at=world.time + timedelta(days=1))
    monkeypatch.setattr(drills, "BATCH", 1)
    drills.start(owner, issuer="R11")
    renewals.advance_drills.run()
    assert not Issuance.objects.open().exists()
    assert Certificate.objects.get(renew_at__lte=world.time) == third
    renewals.scan_renewals.run()
    assert Issuance.objects.open().get().reason == Issuance.Reason.RENEWAL


@pytest.mark.slow
def test_only_so_many_are_under_way_at_once(world, owner, account, credential, monkeypatch):
    monkeypatch.setattr(drills, "BATCH", 3)
    monkeypatch.setattr(drills, "MOST_UNDER_WAY", 5)
    issued(world, account, credential, 8, "R11")
    drills.start(owner, issuer="R11")
    due = Certificate.objects.filter(renew_at__lte=world.time)
    brought = []
    for _ in range(3):
        renewals.advance_drills.run()
        brought.append(due.count())
    assert brought == [3, 5, 5]
    renewals.scan_renewals.run()
    renewals.advance_drills.run()
    assert (Issuance.objects.open().count(), due.count()) == (5, 0)
    world.sweep()
    renewals.advance_drills.run()
    assert due.count() == 3


def test_deleted_and_unissued_certificates_are_not_in_the_drill(world, owner, account, credential):
    gone, *kept = issued(world, account, credential, 3, "R11")
    services.retire(gone)
    world.create(account, credential, "never.example.com")
    world.messages.clear()
    running = drills.start(owner, issuer="R11")
    assert drills.count(running) == {"total": 2, "left": 2, "skipped": 0, "failing": 0}
    minutes(world, 3)
    assert (versions([gone]), versions(kept)) == ({1}, {2})


def test_an_open_attempt_counts_as_left_and_is_not_opened_again(world, owner, account, credential):
    (certificate,) = issued(world, account, credential, 1, "R11")
    services.issue(Certificate.objects.get())
    running = drills.start(owner, issuer="R11")
    assert left(running) == 1
    renewals.advance_drills.run()
    assert Certificate.objects.get().renew_at is None
    world.deliver()
    minutes(world, 12)
    assert versions([certificate]) == {2}
    assert Drill.objects.get().ended_at


# --- nothing is lost, nothing is done twice ---


@pytest.mark.slow
def test_after_a_kill_and_a_stop_it_continues_and_renews_none_twice(
    world, owner, account, credential, monkeypatch
):
    monkeypatch.setattr(drills, "BATCH", 3)
    theirs = issued(world, account, credential, 9, "R11")
    running = drills.start(owner, issuer="R11")
    minutes(world, 1)
    with monkeypatch.context() as killing:
        killing.setattr(drills, "_bring_forward", dies)
        with pytest.raises(Died):
            renewals.advance_drills.run()
    drills.stop(running, owner)
    at_the_stop = left(running)
    assert 0 < at_the_stop < 9
    minutes(world, 30)
    assert left(running) == at_the_stop, "nothing goes on while it is stopped"
    drills.resume(running, owner)
    renewals.advance_drills.run()
    renewals.scan_renewals.run()
    world.outside.die_at = (len(world.outside.calls) + 4, "after")
    sweep.sweep.run()
    assert not world.deliver_unless_killed()
    world.messages.clear()
    minutes(world, 40)
    assert versions(theirs) == {2}
    running.refresh_from_db()
    assert (running.status, left(running)) == ("ended", 0)


def dies(*args: Any) -> int:
    raise Died("in the middle")


def test_two_beats_are_as_good_as_one(world, owner, account, credential):
    theirs = issued(world, account, credential, 5, "R11")
    drills.start(owner, issuer="R11")
    for _ in range(12):
        for _ in range(2):
            renewals.advance_drills.run()
            renewals.scan_renewals.run()
        world.sweep()
        world.advance(60)
    assert versions(theirs) == {2}


def test_a_certificate_replaced_while_it_is_chosen_is_not_renewed_again(
    world, owner, account, credential
):
    first, second = issued(world, account, credential, 2, "R11")
    (third,) = issued(world, account, credential, 1, "R12")
    drills.start(owner, issuer="R11")
    newer = CertificateVersion.objects.get(certificate=third)
    later = world.time + timedelta(days=60)
    meanwhile = [
        lambda: Certificate.objects.filter(pk=first.pk).update(current=newer, renew_at=later)
    ]

    def replaced_first(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("UPDATE") and meanwhile:
            meanwhile.pop()()
        return execute(sql, *args)

    with connection.execute_wrapper(replaced_first):
        drills.advance(world.time)
    assert not meanwhile
    assert Certificate.objects.get(renew_at=world.time) == second
    assert Certificate.objects.get(pk=first.pk).renew_at == later


@pytest.mark.slow
def test_advancing_costs_the_same_number_of_queries_however_many_there_are(
    world, owner, account, credential
):
    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            renewals.advance_drills.run()
        return len(asked)

    issued(world, account, credential, 2, "R11")
    few = drills.start(owner, issuer="R11")
    cost = queries()
    drills.stop(few, owner)
    issued(world, account, credential, 12, "R12")
    drills.start(owner, issuer="R12")
    assert queries() == cost == 4
    assert Certificate.objects.filter(renew_at__lte=world.time).count() == 14


def test_one_drill_that_breaks_does_not_stop_the_others(
    world, owner, account, credential, monkeypatch
):
    issued(world, account, credential, 1, "R11")
    issued(world, account, credential, 1, "R12")
    bad = drills.start(owner, issuer="R11")
    drills.start(owner, issuer="R12")
    made_before = drills.made_before

    def breaks(running: Drill) -> Any:
        if running == bad:
            raise ValueError("broken")
        return made_before(running)

    monkeypatch.setattr(drills, "made_before", breaks)
    renewals.advance_drills.run()
    assert Certificate.objects.filter(renew_at__lte=world.time).count() == 1


# --- whom it leaves alone ---


def test_with_auto_renew_off_nothing_is_replaced_but_it_is_reported(
    world, owner, account, credential
):
    off, on = issued(world, account, credential, 2, "R11")
    services.update_certificate(off, {"auto_renew": False})
    running = drills.start(owner, issuer="R11")
    assert drills.count(running) == {"total": 2, "left": 1, "skipped": 1, "failing": 0}
    minutes(world, 12)
    assert (versions([off]), versions([on])) == ({1}, {2})
    running.refresh_from_db()
    assert running.status == "ended"
    assert list(drills.skipped(running)) == [off]


def test_a_failed_renewal_waits_for_its_retry(world, owner, account, credential):
    (certificate,) = issued(world, account, credential, 1, "R11")
    running = drills.start(owner, issuer="R11")
    world.ca.problems["new_order"] = [Refused("ca_caa", "No.")]
    minutes(world, 2)
    assert drills.count(running) == {"total": 1, "left": 1, "skipped": 0, "failing": 1}
    retry_at = Certificate.objects.get().renew_at
    minutes(world, 10)
    assert Certificate.objects.get().renew_at == retry_at > world.time
    assert Issuance.objects.filter(certificate=certificate).count() == 2, (
        "the first, and the one that failed"
    )
    world.advance(3 * 3600)
    minutes(world, 12)
    assert versions([certificate]) == {2}
    assert drills.count(running)["failing"] == 0
    assert Drill.objects.get().ended_at


def test_a_renewal_canceled_by_a_person_is_left_for_a_day(world, owner, account, credential):
    (certificate,) = issued(world, account, credential, 1, "R11")
    drills.start(owner, issuer="R11")
    world.advance(3600)
    renewals.advance_drills.run()
    renewals.scan_renewals.run()
    services.cancel(Certificate.objects.get())
    minutes(world, 12)
    assert versions([certificate]) == {1}
    world.advance(24 * 3600)
    minutes(world, 2)
    assert versions([certificate]) == {2}


# --- starting, stopping ---


def test_both_or_neither_are_refused(owner, account):
    for issuer, of in (("", None), ("R11", account)):
        with pytest.raises(Invalid, match="Give one of the two"):
            drills.start(owner, issuer=issuer, account=of)


def test_an_unused_issuer_is_refused_with_the_list_of_issuers(world, owner, account, credential):
    issued(world, account, credential, 1, "R11")
    issued(world, account, credential, 1, "R12")
    with pytest.raises(NotFound) as refused:
        drills.start(owner, issuer="R10")
    assert refused.value.what == "No certificate in use has the issuer 'R10'; there are R11, R12."
    empty = world.account(owner, name="an empty one", url="https://ca.test/acct/9")
    with pytest.raises(NotFound, match="The account an empty one has no certificate in use"):
        drills.start(owner, account=empty)
    assert not Drill.objects.exists()


def test_a_second_drill_for_the_same_is_refused_while_the_first_runs(
    world, owner, account, credential
):
    issued(world, account, credential, 1, "R11")
    for what in ({"issuer": "R11"}, {"account": account}):
        first = drills.start(owner, **what)
        with pytest.raises(Conflict, match=f"Drill {first.pk} for .* is already running"):
            drills.start(owner, **what)
        drills.stop(first, owner)
        second = drills.start(owner, **what)
        with pytest.raises(Conflict, match=f"Drill {second.pk} for .* is already running"):
            drills.resume(first, owner)
        drills.stop(second, owner)
    assert set(Drill.objects.exclude(stopped_at=None)) == set(Drill.objects.all())


def test_stopping_and_resuming_twice_is_the_same_as_once(world, owner, account, credential):
    issued(world, account, credential, 1, "R11")
    running = drills.start(owner, issuer="R11")
    assert drills.resume(running, owner).status == "running"
    for _ in range(2):
        assert drills.stop(running, owner).status == "stopped"
    for _ in range(2):
        assert drills.resume(running, owner).status == "running"
    actions = (
        AuditEvent.objects.filter(object=f"drill:{running.pk}")
        .order_by("pk")
        .values_list("action", flat=True)
    )
    assert list(actions) == ["drill.started", "drill.stopped", "drill.resumed"]


def test_a_finished_drill_is_neither_stopped_nor_resumed(world, owner, account, credential):
    issued(world, account, credential, 1, "R11")
    running = drills.start(owner, issuer="R11")
    minutes(world, 12)
    for act in (drills.stop, drills.resume):
        with pytest.raises(Conflict, match="is over"):
            act(running, owner)


def test_the_user_and_reason_of_a_drill_are_audited(world, owner, account, credential):
    issued(world, account, credential, 1, "R11")
    drills.start(owner, issuer="R11", why="R11 is distrusted", ip="192.0.2.1")
    event = AuditEvent.objects.get(action="drill.started")
    assert (event.owner, event.actor, event.ip) == (owner, owner.email, "192.0.2.1")
    assert event.detail == {
        "issuer": "R11",
        "account": None,
        "why": "R11 is distrusted",
        "total": 1,
    }


def test_a_preview_counts_and_starts_nothing(world, owner, account, credential):
    issued(world, account, credential, 2, "R11")
    assert drills.preview(issuer="R11") == {"total": 2, "left": 2, "skipped": 0, "failing": 0}
    assert drills.preview(account=account)["left"] == 2
    with pytest.raises(NotFound):
        drills.preview(issuer="R10")
    assert not Drill.objects.exists()


# --- what a limit holds up ---


@pytest.mark.slow
def test_a_renewal_that_the_ca_put_off_is_not_brought_forward_again(
    world, owner, account, credential
):
    world.ca.offers_renewal_info = True  # so that renewals are counted nowhere
    (certificate,) = issued(world, account, credential, 1, "R11")
    orders = world.outside.calls.count("ca.new_order")
    drills.start(owner, issuer="R11")
    busy = Trouble("ca_rate_limited", "Service busy; retry later.", retry_after=24 * 3600)
    world.ca.problems["new_order"] = [busy for _ in range(100)]
    minutes(world, 240)
    assert world.outside.calls.count("ca.new_order") - orders == 1
    moment = Certificate.objects.values_list("renew_at", flat=True).get(pk=certificate.pk)
    assert moment > world.time + timedelta(hours=18)


@pytest.mark.slow
def test_a_renewal_with_a_distant_slot_stays_due(world, owner, account, credential, settings):
    (certificate,) = issued(world, account, credential, 1, "R11")
    settings.ACME_CAS = {"custom": {"limits": {"set": [1, 34 * 3600]}}}
    services.issue(Certificate.objects.get())
    world.deliver()
    CertificateVersion.objects.update(issuer="R11")
    world.advance(60)
    before = Issuance.objects.count()
    drills.start(owner, issuer="R11")
    minutes(world, 240)
    assert Issuance.objects.count() == before
    due = Certificate.objects.get(pk=certificate.pk)
    assert due.renew_at <= world.time
    assert ratelimits.slot_of(due) > world.time + timedelta(hours=24)


def test_a_private_ca_with_the_name_of_the_issuer_is_not_in_the_drill(
    world, owner, account, credential
):
    issued(world, account, credential, 1, "R11")
    authority = PrivateCA.objects.create(
        owner=owner,
        name="R11",
        key=envelope.seal(owner, "ca_key", b"unused"),
        key_size=256,
        not_before=world.time,
        not_after=world.time,
    )
    theirs = world.account(owner, name="of a tenant", url="https://ca.test/acct/9")
    issued(world, theirs, credential, 2, "R11")
    issued(world, theirs, credential, 1, "Acme Root")
    AcmeAccount.objects.filter(pk=theirs.pk).update(private_ca=authority)
    assert drills.preview("R11")["total"] == 1
    assert drills.issuers() == ["R11"]
    assert drills.preview(account=theirs)["total"] == 3
