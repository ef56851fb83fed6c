"""An operator rotates the master key in the admin. A worker wraps the data keys again."""

import pytest
from django.urls import reverse

from accounts.models import AuditEvent, User
from certctrl import dispatch
from keystore import masterkeys, rotation, tasks
from keystore.envelope import seal, unseal
from keystore.masterkeys import FileKeys

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client) -> User:
    user = User.objects.create_superuser("root@example.org", "a-long-password-1A")
    client.force_login(user)
    return user


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """The users for whom a worker shall finish a rotation."""
    users: list[int] = []
    monkeypatch.setattr(dispatch, "nudge", lambda task, user: not users.append(user))
    return users


def rotate(client, **data: str) -> str:
    page = client.post(reverse("admin:keystore_keywrap_rotate_master_key"), data, follow=True)
    return " ".join(str(message) for message in page.context["messages"])


def test_a_rotation_is_confirmed(client, staff, key_file, sent):
    address = reverse("admin:keystore_keywrap_rotate_master_key")
    assert address in client.get(reverse("admin:keystore_keywrap_changelist")).content.decode()
    assert "Back up the new key" in client.get(address).content.decode()
    rotate(client)
    assert masterkeys.current().id == "1"
    assert sent == []


def test_a_new_key_wraps_and_a_worker_moves_the_data_keys(client, staff, key_file, sent):
    envelope = seal(staff, "account_key", b"a secret")
    assert "Master key 2 wraps now" in rotate(client, confirmed="yes")
    assert rotation.needed_ids() == {"1"}
    assert sent == [staff.pk]
    tasks.finish_rotation(*sent)
    assert rotation.needed_ids() == {"2"}
    assert unseal(envelope) == b"a secret"
    actors = AuditEvent.objects.filter(action__startswith="master_key.").values_list("actor")
    assert set(actors) == {(staff.email,)}


def test_a_rotation_that_no_worker_finished_makes_no_second_key(
    client, staff, key_file, monkeypatch
):
    monkeypatch.setattr(dispatch, "nudge", lambda *args: False)
    assert "workers cannot be reached" in rotate(client, confirmed="yes")
    assert "Master key 2 wraps now" in rotate(client, confirmed="yes")
    tasks.finish_rotation(staff.pk)
    assert "Master key 3 wraps now" in rotate(client, confirmed="yes")


def test_a_rotation_in_another_process_is_waited_for(client, staff, key_file, sent):
    with FileKeys(str(key_file)).locked():
        assert "Another rotation" in rotate(client, confirmed="yes")
        tasks.finish_rotation(staff.pk)
    assert masterkeys.current().id == "1"
    assert sent == []


def test_keys_of_the_settings_are_wrapped_with_the_first(client, staff, sent):
    assert "Master key 1 wraps now" in rotate(client, confirmed="yes")
    assert sent == [staff.pk]
