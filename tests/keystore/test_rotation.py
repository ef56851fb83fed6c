"""The master key is rotated while the server runs. A rotation that dies loses nothing."""

import threading
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from accounts.models import AuditEvent, User
from keystore import masterkeys, rotation
from keystore.envelope import rewrap, seal, unseal
from keystore.masterkeys import aes, file
from keystore.masterkeys.file import FileKeys
from keystore.models import Envelope, KeyWrap
from tests.patience import LIMIT

SECRET = b"correct horse battery staple"


def rotate(*options: str) -> str:
    out = StringIO()
    call_command("rotate_master_key", *options, stdout=out)
    return out.getvalue()


def seal_some(owner: User, count: int = 5) -> list[Envelope]:
    return [seal(owner, "account_key", SECRET + bytes([n])) for n in range(count)]


def all_open(envelopes: list[Envelope]) -> bool:
    return all(unseal(envelope) == SECRET + bytes([n]) for n, envelope in enumerate(envelopes))


def ids_in_use() -> set[str]:
    return rotation.needed_ids()


class Killed(BaseException):
    """The death of the process at a chosen call."""


class KilledAfter:
    """Let `calls` calls of a function pass, then die: before the next call, or after the last."""

    def __init__(self, monkeypatch, where, name: str, calls: int, effect: bool = False) -> None:
        self.calls = calls
        self.effect = effect
        self.real = getattr(where, name)
        killer = self

        def run(*args, **kwargs):
            return killer(*args, **kwargs)

        monkeypatch.setattr(where, name, run)

    def __call__(self, *args, **kwargs):
        self.calls -= 1
        if self.calls < 0:
            if self.effect:
                self.real(*args, **kwargs)
            raise Killed
        return self.real(*args, **kwargs)


@pytest.mark.django_db
class TestRotate:
    def test_a_new_key_is_made_and_every_data_key_moves_to_it(self, alice, key_file):
        envelopes = seal_some(alice)
        contents = list(Envelope.objects.values_list("ciphertext", flat=True))

        assert "Wrapped 5 data keys with master key 2." in rotate()
        assert ids_in_use() == {"2"}
        assert all_open(envelopes)
        assert list(Envelope.objects.values_list("ciphertext", flat=True)) == contents
        assert key_file.stat().st_mode & 0o777 == 0o600

    def test_a_rotation_is_in_the_audit_log(self, alice, key_file):
        seal_some(alice)
        rotate("--drop-old")
        found = AuditEvent.objects.filter(action__startswith="master_key").order_by("pk")
        assert list(found.values_list("action", "object", "detail")) == [
            ("master_key.made", "master_key:2", {}),
            ("master_key.rotated", "master_key:2", {"wraps": 5, "failed": 0}),
            ("master_key.dropped", "master_key:1", {}),
        ]

    def test_the_old_key_stays_in_the_file_until_it_is_dropped(self, alice, key_file):
        envelopes = seal_some(alice)
        rotate()
        assert list(masterkeys.all_keys()) == ["2", "1"]

        assert "Removed from the file: master key 1." in rotate("--no-new-key", "--drop-old")
        assert list(masterkeys.all_keys()) == ["2"]
        assert all_open(envelopes)

    def test_rotating_and_dropping_may_be_one_run(self, alice, key_file):
        envelopes = seal_some(alice)
        rotate("--drop-old")
        rotate("--drop-old")
        assert list(masterkeys.all_keys()) == ["3"]
        assert all_open(envelopes)

    def test_the_old_key_file_alone_no_longer_opens_what_was_rotated(self, alice, key_file):
        envelope = seal_some(alice, 1)[0]
        old = key_file.read_text()
        rotate()
        key_file.write_text(old)
        with pytest.raises(rotation.CannotOpen, match="Master key 2"):
            unseal(envelope)

    def test_more_wraps_than_a_batch_all_move(self, alice, key_file, monkeypatch):
        monkeypatch.setattr(rotation, "BATCH", 2)
        envelopes = seal_some(alice, 7)
        assert "Wrapped 7 data keys" in rotate()
        assert ids_in_use() == {"2"}
        assert all_open(envelopes)

    def test_device_wraps_are_left_alone(self, alice, key_file):
        from tests.keystore.conftest import public_key_of

        device = public_key_of(alice, bytes([9]) + bytes(31))
        envelope = seal(alice, "certificate_key", SECRET, policy="HYBRID", public_keys=[device])
        sealed = envelope.wraps.get(recipient_key=device).wrapped_dek
        rotate()
        assert envelope.wraps.get(recipient_key=device).wrapped_dek == sealed

    def test_a_new_id_was_never_another_keys(self, alice, key_file):
        key_file.write_text(aes.generate("9").line() + "\n")
        seal_some(alice)
        key_file.write_text(aes.generate("2").line() + "\n" + key_file.read_text())
        rotate()
        assert masterkeys.current().id == "10"

    def test_a_wrap_under_an_unknown_key_is_reported_and_no_key_is_dropped(self, alice, key_file):
        lost, *_ = seal_some(alice)
        lost.wraps.update(master_key_id="lost")

        with pytest.raises(
            CommandError,
            match=r"1 data keys were not wrapped again.*\n.*Master key lost is not on this server",
        ):
            rotate("--drop-old")
        assert ids_in_use() == {"2", "lost"}
        assert list(masterkeys.all_keys()) == ["2", "1"]

    def test_wraps_that_cannot_move_do_not_block_the_wraps_behind_them(
        self, alice, key_file, monkeypatch
    ):
        monkeypatch.setattr(rotation, "BATCH", 1)
        lost, *_ = seal_some(alice)
        lost.wraps.update(master_key_id="lost")

        with pytest.raises(CommandError):
            rotate()
        assert ids_in_use() == {"2", "lost"}

    def test_two_rotations_at_once_are_refused(self, alice, key_file):
        with FileKeys(key_file).locked(), pytest.raises(CommandError, match="Another rotation"):
            rotate()
        assert masterkeys.current().id == "1"

    def test_a_file_that_others_may_read_is_not_rotated(self, alice, key_file):
        key_file.chmod(0o644)
        with pytest.raises(CommandError, match="chmod 600"):
            rotate()

    def test_with_keys_in_settings_the_command_moves_the_wraps_only(self, alice, settings):
        envelopes = seal_some(alice)
        settings.MASTER_KEYS = f"{aes.generate('2').line()},{settings.MASTER_KEYS}"

        out = rotate("--drop-old")
        assert "Wrapped 5 data keys with master key 2." in out
        assert "Remove them from the settings: master key 1." in out
        assert all_open(envelopes)
        assert "Wrapped 0 data keys" in rotate()

    def test_keys_move_from_the_settings_to_a_file(self, alice, settings, tmp_path):
        envelopes = seal_some(alice)
        (tmp_path / "keys").touch(0o600)
        (tmp_path / "keys").write_text(aes.generate("2").line())
        settings.MASTER_KEYS_PATH = str(tmp_path / "keys")
        assert "Remove them from the settings: master key 1." in rotate(
            "--no-new-key", "--drop-old"
        )

        settings.MASTER_KEYS = ""
        assert all_open(envelopes)


@pytest.mark.django_db
class TestKilled:
    @pytest.mark.parametrize("effect", [False, True])
    @pytest.mark.parametrize(
        ("where", "name", "calls"),
        [
            (file.Intent, "write", 0),
            (FileKeys, "put_first", 0),
            (file, "_write", 0),
            (file.os, "replace", 0),
            (rotation, "rewrap", 0),
            (rotation, "rewrap", 2),
            (rotation, "rewrap", 4),
            (file.Intent, "write", 1),
            (rotation, "drop_unneeded", 0),
            (FileKeys, "keep_only", 0),
        ],
    )
    def test_a_rotation_killed_anywhere_is_finished_by_the_next(
        self, alice, key_file, monkeypatch, where, name, calls, effect
    ):
        envelopes = seal_some(alice)
        with monkeypatch.context() as patch:
            KilledAfter(patch, where, name, calls, effect)
            with pytest.raises(Killed):
                rotate("--drop-old")

        assert all_open(envelopes)
        rotate("--drop-old")
        assert all_open(envelopes)
        assert len(masterkeys.all_keys()) == 1
        assert ids_in_use() == set(masterkeys.all_keys())
        assert key_file.stat().st_mode & 0o777 == 0o600

    def test_a_rotation_killed_after_it_made_its_key_makes_no_second_key(
        self, alice, key_file, monkeypatch
    ):
        seal_some(alice)
        with monkeypatch.context() as patch:
            KilledAfter(patch, FileKeys, "put_first", 0, effect=True)
            with pytest.raises(Killed):
                rotate()

        assert "Wrapped 5 data keys with master key 2." in rotate()

    def test_a_rotation_killed_half_way_continues_with_its_own_new_key(
        self, alice, key_file, monkeypatch
    ):
        envelopes = seal_some(alice)
        with monkeypatch.context() as patch:
            KilledAfter(patch, rotation, "rewrap", 2)
            with pytest.raises(Killed):
                rotate()
        assert ids_in_use() == {"1", "2"}

        assert "Wrapped 3 data keys with master key 2." in rotate()
        assert all_open(envelopes)
        assert "with master key 3." in rotate()


@pytest.mark.django_db
class TestBeside:
    """Actions of the running server between two steps of a rotation."""

    def test_a_late_wrap_under_the_old_key_opens_and_moves_in_the_next_pass(self, alice, key_file):
        late = seal_some(alice, 1)
        rotate()
        old = masterkeys.by_id("1")
        late += [seal(alice, "account_key", SECRET + b"\x01")]
        data_key = masterkeys.by_id("2").unwrap(
            bytes(late[1].wraps.get().wrapped_dek), late[1].context() + b"|2"
        )
        late[1].wraps.update(
            master_key_id="1", wrapped_dek=old.wrap(data_key, late[1].context() + b"|1")
        )

        assert all_open(late)
        assert "Wrapped 1 data keys with master key 2." in rotate("--no-new-key", "--drop-old")
        assert all_open(late)

    def test_a_wrap_written_during_the_last_pass_is_moved_too(self, alice, key_file, monkeypatch):
        seal_some(alice, 3)
        free = KeyWrap.objects.order_by("pk")[0].pk
        Envelope.objects.get(wraps=free).delete()
        real = rotation.rewrap
        late = []

        def rewrap_beside_a_slow_writer(wrap: KeyWrap) -> bool:
            if not late:
                with monkeypatch.context() as patch:
                    patch.setattr(masterkeys, "current", lambda: masterkeys.by_id("1"))
                    late.append(seal(alice, "account_key", SECRET))
                KeyWrap.objects.filter(envelope=late[0]).update(id=free)  # behind this pass
            return real(wrap)

        monkeypatch.setattr(rotation, "rewrap", rewrap_beside_a_slow_writer)
        rotate("--drop-old")
        assert ids_in_use() == {"2"}
        assert unseal(late[0]) == SECRET

    def test_an_old_key_that_was_used_again_just_before_the_drop_is_kept(
        self, alice, key_file, monkeypatch
    ):
        late = []

        def seal_late(file: FileKeys, actor: str) -> set[str]:
            with monkeypatch.context() as patch:
                patch.setattr(masterkeys, "current", lambda: masterkeys.by_id("1"))
                late.append(seal(alice, "account_key", SECRET))
            return drop(file, actor)

        drop = rotation.drop_unneeded
        monkeypatch.setattr(rotation, "drop_unneeded", seal_late)
        assert "with --no-new-key. The keys: master key 1." in rotate("--drop-old")
        assert unseal(late[0]) == SECRET

    def test_a_wrap_written_after_its_key_was_dropped_takes_the_new_one(
        self, alice, key_file, monkeypatch
    ):
        old = masterkeys.current()
        rotate("--drop-old")
        with monkeypatch.context() as patch:
            answers = iter([old, masterkeys.current()])
            patch.setattr(masterkeys, "current", lambda: next(answers))
            envelope = seal(alice, "account_key", SECRET)

        assert envelope.wraps.get().master_key_id == "2"
        assert unseal(envelope) == SECRET

    def test_a_reader_between_two_keys_reads_the_row_again(self, alice, key_file, monkeypatch):
        envelope = seal_some(alice, 1)[0]
        stale = envelope.wraps.get()
        rotate("--drop-old")
        real = KeyWrap.objects.all
        rows = iter([stale])
        monkeypatch.setattr(
            "keystore.envelope._master_wraps",
            lambda envelope: [next(rows, None) or real().get(envelope=envelope)],
        )
        assert unseal(envelope) == SECRET + b"\x00"

    def test_an_envelope_removed_during_rotation_is_skipped(self, alice, key_file):
        envelope, *_ = seal_some(alice, 3)
        wrap = KeyWrap.objects.select_related("envelope").get(envelope=envelope)
        FileKeys(key_file).put_first(aes.generate("2"))
        envelope.delete()

        assert rewrap(wrap) is False
        rotate("--no-new-key")
        assert ids_in_use() == {"2"}

    def test_a_wrap_moved_by_another_rotation_is_left_alone(self, alice, key_file):
        envelope = seal_some(alice, 1)[0]
        wrap = KeyWrap.objects.select_related("envelope").get(envelope=envelope)
        rotate()
        moved = envelope.wraps.get().wrapped_dek
        assert rewrap(wrap) is False
        assert envelope.wraps.get().wrapped_dek == moved


class Workers:
    """Threads that seal and open secrets until they are stopped."""

    def __init__(self, owner: User, count: int = 3) -> None:
        self.owner = owner
        self.stop = threading.Event()
        self.sealed = []
        self.errors = []
        self.opened = 0
        self.threads = [threading.Thread(target=self._work, args=(n,)) for n in range(count)]

    def __enter__(self) -> "Workers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _work(self, name: int) -> None:
        mine: list[tuple[Envelope, bytes]] = []
        try:
            while not self.stop.is_set():
                self._turn(mine, f"{name} {self.opened}".encode())
        except BaseException as exc:
            self.errors.append(exc)
        finally:
            self.sealed += mine
            connection.close()

    def _turn(self, mine: list[tuple[Envelope, bytes]], secret: bytes) -> None:
        mine.append((seal(self.owner, "account_key", secret), secret))
        if len(mine) > 10:
            mine.pop(0)[0].delete()
        for envelope, known in mine:
            assert unseal(envelope) == known
            self.opened += 1


def test_nothing_is_lost_when_the_key_is_rotated_and_dropped_under_load(shared_database, key_file):
    alice = User.objects.create_user("alice@example.test")
    seal_some(alice, 20)
    with Workers(alice) as workers:
        for _ in range(6):
            rotate("--drop-old")

    assert workers.errors == []
    assert workers.opened > 100
    rotate("--drop-old")
    assert all(unseal(envelope) == secret for envelope, secret in workers.sealed)
    assert list(masterkeys.all_keys()) == [masterkeys.current().id] == list(ids_in_use())


def test_dropping_waits_for_a_writer_that_has_not_committed(shared_database, key_file):
    """A seal in a long transaction loses nothing when its key is dropped at the same time."""
    alice = User.objects.create_user("alice@example.test")
    sealed = threading.Event()
    go_on = threading.Event()
    dropped = []
    envelopes: list[Envelope] = []

    def slow_writer() -> None:
        with transaction.atomic():
            envelopes.append(seal(alice, "account_key", SECRET))
            sealed.set()
            go_on.wait(LIMIT)
        connection.close()

    def dropper() -> None:
        dropped.append(rotation.drop_unneeded(FileKeys(key_file), "operator"))
        connection.close()

    threads = [threading.Thread(target=slow_writer), threading.Thread(target=dropper)]
    threads[0].start()
    assert sealed.wait(LIMIT)
    FileKeys(key_file).put_first(aes.generate("2"))
    threads[1].start()
    threads[1].join(0.3)
    waits = threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join()

    assert waits
    assert dropped == [set()]
    assert unseal(envelopes[0]) == SECRET
