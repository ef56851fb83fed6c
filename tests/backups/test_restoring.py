"""A lost server is restored from its backup."""

import base64
import json
import threading
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest
import time_machine
from django.contrib.auth.models import Permission
from django.db import OperationalError, connections, transaction

from accounts import audit, chain
from accounts.models import AuditEvent, User
from backups import encrypted, making, restoring, tables
from backups.encrypted import BackupProblem
from certctrl import clock
from certctrl.errors import CursorTrimmed
from devices import signals
from devices.models import Device, DeviceSession
from issuance import services, workflow
from issuance.models import Certificate, CertificateVersion, Issuance
from keystore import envelope
from keystore.masterkeys import FileKeys
from keystore.models import CERTIFICATE_KEY, Envelope
from tests.backups.conftest import all_rows, cut, in_sqlite, last_ids, lines_of
from tests.devices.agent import Agent, enrolled
from tests.emptying import empty_database
from tests.fakes.vault import FakeVault

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def issued(world, account, credential) -> Certificate:
    """A certificate with its attempt, records, key and events."""
    certificate, _ = world.create(account, credential)
    world.settle()
    certificate.refresh_from_db()
    return certificate


@pytest.fixture
def enrolment(client_of, owner) -> tuple[Agent, dict[str, Any]]:
    agent = Agent()
    return agent, enrolled(agent, client_of(owner), owner.pk)


def made(tmp_path: Path, recovery_key: Any, name: str = "certctrl.backup") -> Path:
    path = tmp_path / name
    making.make(path, [recovery_key.to_public()], "operator")
    return path


def test_every_row_comes_back_as_it_was(
    issued, enrolment, owner, tmp_path, recovery_key, restore, client_of
):
    owner.user_permissions.add(Permission.objects.earliest("pk"))
    audit.record(owner, "tester", "key.exported", "Zürich \N{SNOWMAN}", "2001:db8::1", a=[1, None])
    chain.seal()
    path = made(tmp_path, recovery_key)
    before = all_rows()
    sessions = before.pop("devices.devicesession")
    empty_database()
    restore(path)
    after = all_rows()
    assert len(after.pop("devices.devicesession")) == len(sessions) == 1
    assert {label for label, rows in after.items() if rows != before[label]} == set()
    assert sum(map(len, after.values())) > 100


def test_the_keys_open(issued, tmp_path, recovery_key, restore):
    def opened() -> list[bytes]:
        return [
            envelope.open_certificate_key(each, actor="tester", what="test")
            if each.purpose == CERTIFICATE_KEY
            else envelope.unseal(each)
            for each in Envelope.objects.order_by("pk")
        ]

    before = opened()
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    assert opened() == before


def test_a_renewal_works(world, issued, tmp_path, recovery_key, restore):
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    services.issue(Certificate.objects.get(), Issuance.Reason.MANUAL)
    world.settle()
    assert CertificateVersion.objects.count() == 2
    assert Certificate.objects.get().current_id != issued.current_id
    assert world.zone.txt() == []


def test_a_person_logs_in(owner, client_of, tmp_path, recovery_key, restore):
    owner.set_password("Correct-horse-1")
    owner.save()
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    login = {"email": owner.email, "password": "Correct-horse-1"}
    assert client_of().post("/auth/general", login).status_code == 200


def test_sessions_of_people_end(owner, client_of, tmp_path, recovery_key, restore):
    client = client_of(owner)
    assert client.get("/apiv1/me/certificates").status_code == 200
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    assert client.get("/apiv1/me/certificates").status_code == 401


# --- In flight when the backup was made ---


@pytest.mark.parametrize("state", Issuance.OPEN)
def test_an_attempt_takes_up_the_order_that_the_ca_has(
    world, account, credential, tmp_path, recovery_key, restore, state
):
    """The lost server went on to the end after the backup was made.

    Only an order that was sent after the backup is unknown, so it is sent again.
    """
    _, attempt = world.create(account, credential)
    world.messages.clear()
    for step in workflow.STEPS[: Issuance.OPEN.index(state)]:
        assert workflow.take(step, attempt.pk)
        world.advance(1)
    path = made(tmp_path, recovery_key)
    world.settle()
    assert Issuance.objects.get().state == "issued"
    empty_database()
    restore(path)
    assert Issuance.objects.get().state == state
    world.settle(most=30)
    assert Issuance.objects.get().state == "issued"
    assert len(world.ca.orders) == (2 if state == Issuance.State.QUEUED else 1)
    assert world.zone.txt() == []


def test_a_row_that_a_worker_held_is_free_after_its_lease(
    world, account, credential, tmp_path, recovery_key, restore
):
    world.create(account, credential)
    world.outside.die_at = (4, "after")
    assert not world.deliver_unless_killed()
    assert Issuance.objects.exclude(holder="").exists()
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    world.messages.clear()
    world.settle()
    assert Issuance.objects.get().state == "issued"
    assert len(world.ca.orders) == 1
    assert world.zone.txt() == []


def test_a_repeated_request_finds_what_it_made(
    world, client_of, owner, account, credential, tmp_path, recovery_key, restore
):
    client = client_of(owner)
    body = {
        "domain_name": "example.com",
        "acme_account_id": account.pk,
        "dns_credential_id": credential.pk,
    }
    first = client.post("/apiv1/me/certificates", body, HTTP_IDEMPOTENCY_KEY="a-key")
    assert first.status_code == 201, first.content
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    client = client_of(User.objects.get(pk=owner.pk))
    again = client.post("/apiv1/me/certificates", body, HTTP_IDEMPOTENCY_KEY="a-key")
    assert again.data_member["id"] == first.data_member["id"]
    assert Certificate.objects.count() == 1


def test_no_id_is_given_a_second_time(owner, issued, tmp_path, recovery_key, restore):
    path = made(tmp_path, recovery_key)
    lost = User.objects.create_user("lost@example.com")
    empty_database()
    restore(path)
    assert User.objects.create_user("new@example.com").pk > lost.pk + tables.IDS_LEFT_OUT / 2


def test_each_table_takes_new_rows(world, issued, tmp_path, recovery_key, restore):
    """The next id of no table belongs to a restored row."""
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    ids = last_ids()
    owner = User.objects.get(email="owner@example.com")
    world.create(world.account(owner), world.credential(owner), "other.example.com")
    audit.record(owner, "tester", "a.b", "c")
    grown = {label for label, last in last_ids().items() if last > ids[label]}
    assert {"accounts.auditevent", "issuance.certificate", "keystore.envelope"} <= grown


# --- Devices ---


def test_a_device_goes_on_with_its_token(enrolment, tmp_path, recovery_key, restore):
    agent, answer = enrolment
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    assert agent.notify(answer["session"]["access_token"]).status_code == 204
    assert agent.refresh(answer["session"]["refresh_token"]).status_code == 200


def test_a_device_goes_on_with_a_token_newer_than_the_backup(
    enrolment, tmp_path, recovery_key, restore
):
    agent, answer = enrolment
    path = made(tmp_path, recovery_key)
    token = answer["session"]["refresh_token"]
    for _ in range(3):
        token = agent.refresh(token).data_member["refresh_token"]
    empty_database()
    restore(path)
    following = agent.refresh(token)
    assert following.status_code == 200
    assert agent.refresh(following.data_member["refresh_token"]).status_code == 200


def test_two_tokens_of_one_family_end_it_after_a_restore(
    enrolment, tmp_path, recovery_key, restore
):
    agent, answer = enrolment
    stolen = answer["session"]["refresh_token"]
    path = made(tmp_path, recovery_key)
    newest = agent.refresh(stolen).data_member["refresh_token"]
    newest = agent.refresh(newest).data_member["refresh_token"]
    empty_database()
    restore(path)
    assert agent.refresh(stolen).status_code == 200
    assert agent.refresh(newest).status_code == 401
    assert DeviceSession.objects.live().count() == 0


def test_a_made_up_token_is_refused_after_a_restore(enrolment, tmp_path, recovery_key, restore):
    agent, answer = enrolment
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    family = answer["session"]["refresh_token"].partition(".")[0]
    random = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
    assert agent.refresh(f"{family}.{random}").status_code == 401
    assert agent.refresh(answer["session"]["refresh_token"]).status_code == 200


def test_a_revoked_device_stays_revoked(
    enrolment, client_of, owner, tmp_path, recovery_key, restore
):
    agent, answer = enrolment
    url = f"/apiv1/me/devices/{answer['device']['id']}"
    assert client_of(owner).delete(url).status_code in (200, 204)
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    assert agent.refresh(answer["session"]["refresh_token"]).status_code == 401


# --- The audit log ---


def test_the_chain_of_the_audit_log_holds(owner, tmp_path, recovery_key, restore):
    with time_machine.travel("2030-01-01T00:00:00.123456+00:00", tick=False):
        audit.record(owner, "tester", "a.b", "c", "192.0.2.1", number=1.5, text="Zürich")
    chain.seal()
    head = chain.head()
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    chain.seal()
    assert list(chain.faults()) == []
    assert chain.hash_at(head.place) == head.hash


def test_the_audit_log_stays_closed(owner, tmp_path, recovery_key, restore):
    audit.record(owner, "tester", "a.b", "c")
    chain.seal()
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    with pytest.raises(Exception, match="append-only"), transaction.atomic():
        AuditEvent._base_manager.filter(action="a.b").update(actor="other")


def test_the_backup_and_the_restore_are_in_the_audit_log(owner, tmp_path, recovery_key, restore):
    audit.record(owner, "tester", "a.b", "c")
    chain.seal()
    head = chain.head()
    path = made(tmp_path, recovery_key)
    empty_database()
    held = restore(path)
    backup = AuditEvent.objects.get(action="backup.made")
    assert backup.actor == "operator"
    assert backup.detail["recovery_keys"] == [str(recovery_key.to_public())]
    restored = AuditEvent.objects.get(action="backup.restored")
    assert restored.detail == {"made_at": held.made_at, "place": head.place, "hash": head.hash}


# --- Refusals that change nothing ---


def refused(path: Path, restore: Any, match: str) -> str:
    before = all_rows()
    with pytest.raises(BackupProblem, match=match) as problem:
        restore(path)
    assert all_rows() == before
    return str(problem.value)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_changes_nothing(issued, tmp_path, recovery_key, restore, part):
    path = made(tmp_path, recovery_key)
    empty_database()
    refused(cut(path, int(path.stat().st_size * part)), restore, "not complete")


def test_another_recovery_key_changes_nothing(owner, tmp_path, recovery_key):
    path = made(tmp_path, recovery_key)
    empty_database()
    other = [pyrage.x25519.Identity.generate()]
    refused(path, lambda path: restoring.restore(path, other, "operator"), "does not open")


def test_a_database_in_use_is_refused(owner, tmp_path, recovery_key, restore):
    refused(made(tmp_path, recovery_key), restore, "accounts.user")


def test_the_refusal_of_a_used_database_says_how_to_get_an_empty_one(
    owner, tmp_path, recovery_key, restore
):
    assert "DATABASE_URL" in refused(made(tmp_path, recovery_key), restore, "in use")


def rewritten(path: Path, recovery_key: Any, change: Any) -> Path:
    """Return a copy of the backup with other lines, encrypted again."""
    copy = path.with_name("rewritten")
    lines = change(lines_of(path, recovery_key))
    encrypted.write(copy, lines, [recovery_key.to_public()])
    return copy


def with_contents(**changes: Any) -> Any:
    return lambda lines: [json.dumps(json.loads(lines[0]) | changes).encode(), *lines[1:]]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda lines: lines[:-1], "not complete"),
        (lambda lines: [*lines[:-2], lines[-1]], "not complete|cannot be stored"),
        (lambda lines: lines[1:], "not complete"),
        (lambda lines: [*lines[:-1], b'{"end": 3}'], "not complete"),
        (lambda lines: [*lines, b'["more"]'], "not complete"),
        (lambda lines: [lines[0], b"[1", *lines[2:]], "not complete"),
        (lambda lines: [], "not complete"),
        (with_contents(certctrl_backup=2), "not complete"),
        (with_contents(migrations=["accounts.0001_initial"]), "another version"),
        (with_contents(columns={"accounts.user": ["id"]}), "another version"),
    ],
)
def test_lines_that_do_not_fit_change_nothing(
    owner, tmp_path, recovery_key, restore, change, match
):
    path = rewritten(made(tmp_path, recovery_key), recovery_key, change)
    empty_database()
    refused(path, restore, match)


def test_a_row_that_does_not_fit_its_table_changes_nothing(owner, tmp_path, recovery_key, restore):
    def change(lines: list[bytes]) -> list[bytes]:
        users = [at for at, line in enumerate(lines) if b"owner@example.com" in line and at]
        return [*lines[: users[-1]], b'["x"]', *lines[users[-1] + 1 :]]

    path = rewritten(made(tmp_path, recovery_key), recovery_key, change)
    empty_database()
    refused(path, restore, "cannot be stored")


def test_rows_that_do_not_fit_together_change_nothing(issued, tmp_path, recovery_key, restore):
    """A user is missing, to whom all other rows belong."""

    def change(lines: list[bytes]) -> list[bytes]:
        contents = json.loads(lines[0])
        before = 0
        for label, count in contents["counts"].items():
            if label == "accounts.user":
                break
            before += count
        contents["counts"]["accounts.user"] -= 1
        rows = [*lines[1 : before + 1], *lines[before + 2 : -1]]
        return [json.dumps(contents).encode(), *rows, b'{"end": %d}' % len(rows)]

    path = rewritten(made(tmp_path, recovery_key), recovery_key, change)
    empty_database()
    refused(path, restore, "do not fit together")


# --- Master keys ---


def test_the_key_file_is_written_where_it_is_missing(
    key_file, issued, tmp_path, recovery_key, restore
):
    key = key_file.read_text()
    path = made(tmp_path, recovery_key)
    empty_database()
    key_file.unlink()
    restore(path)
    assert key_file.read_text() == key
    assert envelope.unseal(Envelope.objects.exclude(purpose=CERTIFICATE_KEY).earliest("pk"))


def test_a_key_file_that_is_there_is_kept(key_file, issued, tmp_path, recovery_key, restore):
    path = made(tmp_path, recovery_key)
    empty_database()
    restore(path)
    assert len(FileKeys(key_file).keys()) == 1


def test_other_master_keys_are_refused(key_file, issued, settings, tmp_path, recovery_key, restore):
    path = made(tmp_path, recovery_key)
    empty_database()
    settings.MASTER_KEYS, settings.MASTER_KEYS_PATH = "1:" + "B" * 43 + "=", ""
    assert "Master key 1" in refused(path, restore, "could not be opened")


def test_a_missing_master_key_is_refused_and_named(
    key_file, issued, settings, tmp_path, recovery_key, restore
):
    path = made(tmp_path, recovery_key)
    empty_database()
    settings.MASTER_KEYS, settings.MASTER_KEYS_PATH = "7:" + "B" * 43 + "=", ""
    assert "Master key 1 is not" in refused(path, restore, "could not be opened")


def test_a_key_elsewhere_is_named_and_must_be_there(
    alice, settings, tmp_path, recovery_key, restore
):
    """The master key stays in Vault, so the backup opens nothing without Vault."""
    with FakeVault() as vault:
        settings.VAULT_ADDR, settings.VAULT_TOKEN = vault.url, vault.token
        settings.MASTER_KEYS_ELSEWHERE = ["6=vault:transit/certctrl"]
        row = envelope.seal(alice, "test", b"a secret")
        path = made(tmp_path, recovery_key)
        assert "stay in their HSM or service: 6." in making.contents().table()
        empty_database()
        vault.status = 503
        refused(path, restore, "unsealed")
        vault.status = None
        restore(path)
        assert envelope.unseal(Envelope.objects.get(pk=row.pk)) == b"a secret"


def test_a_commit_that_fails_leaves_no_key_file(
    key_file, issued, monkeypatch, tmp_path, recovery_key, restore
):
    def lost() -> None:
        raise OperationalError("server closed the connection unexpectedly")

    path = made(tmp_path, recovery_key)
    empty_database()
    key_file.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(connections["default"], "commit", lost)
        with pytest.raises(BackupProblem, match="Nothing was restored"):
            restore(path)
    assert not key_file.exists()
    assert not User.objects.exists()


def test_a_refused_restore_leaves_no_key_file(
    key_file, issued, monkeypatch, tmp_path, recovery_key, restore
):
    path = made(tmp_path, recovery_key)
    empty_database()
    key_file.unlink()

    def refuse(path: Path) -> None:
        raise BackupProblem("no")

    monkeypatch.setattr(restoring, "refuse_closed", refuse)
    refused(path, restore, "no")
    assert not key_file.exists()


# --- One moment ---


@pytest.mark.parametrize("place", [pytest.param("server", marks=pytest.mark.postgres_only), "file"])
def test_a_backup_is_of_one_moment(tmp_path, recovery_key, monkeypatch, place):
    """A user that is created while rows are read is not in it. Nobody waits for the backup."""
    real = tables.rows

    def rows(table: Any) -> Any:
        if table is User:
            create_a_user_elsewhere("late@example.com")
        return real(table)

    monkeypatch.setattr(tables, "rows", rows)
    with in_sqlite(tmp_path / "db.sqlite3") if place == "file" else nullcontext():
        User.objects.create_user("early@example.com")
        path = made(tmp_path, recovery_key)
        assert User.objects.filter(email="late@example.com").exists()
    lines = lines_of(path, recovery_key)
    assert any(b"early@example.com" in line for line in lines)
    assert not any(b"late@example.com" in line for line in lines)


def create_a_user_elsewhere(email: str) -> None:
    """Create a user on the connection of another thread."""

    def create() -> None:
        User.objects.create_user(email)
        connections.close_all()

    thread = threading.Thread(target=create)
    thread.start()
    thread.join()


def test_an_old_backup_keeps_the_time_of_its_rows(owner, tmp_path, recovery_key, restore):
    joined = owner.date_joined
    path = made(tmp_path, recovery_key)
    empty_database()
    with time_machine.travel(clock.now() + timedelta(days=3)):
        restore(path)
    assert User.objects.get().date_joined == joined


def test_a_device_with_a_newer_cursor_is_told_to_fetch_everything(
    enrolment, tmp_path, recovery_key, restore
):
    """Its log may even have as many signals again. Their moments differ."""
    _, answer = enrolment
    pk = answer["device"]["id"]
    signals.emit([pk], "cert.updated", {"cert_id": 1})
    path = made(tmp_path, recovery_key)
    signals.emit([pk], "cert.updated", {"cert_id": 2})
    newest = signals.read(signals.START, Device.objects.get(pk=pk), 9)[-1].cursor
    empty_database()
    restore(path)
    for number in (3, 4):
        with pytest.raises(CursorTrimmed):
            signals.read(newest, Device.objects.get(pk=pk), 9)
        with time_machine.travel(clock.now() + timedelta(seconds=number)):
            signals.emit([pk], "cert.updated", {"cert_id": number})
