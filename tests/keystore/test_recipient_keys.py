"""The public keys of devices: checked, stored once for each owner, and taken back into use."""

import pytest
from nacl.public import PrivateKey  # noqa: TID251

from certctrl import clock
from certctrl.errors import Invalid
from keystore.models import RecipientKey
from keystore.recipients import fingerprint, recipient_key

pytestmark = pytest.mark.django_db
PUBLIC = bytes(PrivateKey(b"\7" * 32).public_key)


def test_a_key_is_stored_once_for_each_owner(alice, bob):
    first = recipient_key(alice, PUBLIC)
    assert recipient_key(alice, PUBLIC) == first
    assert recipient_key(bob, PUBLIC) != first
    assert bytes(first.public_key) == PUBLIC
    assert bytes(first.fingerprint) == fingerprint(PUBLIC)


def test_a_retired_key_is_taken_back_into_use(alice):
    first = recipient_key(alice, PUBLIC)
    RecipientKey.objects.update(retired_at=clock.now())
    assert recipient_key(alice, PUBLIC) == first
    assert RecipientKey.objects.get().retired_at is None


@pytest.mark.parametrize("public_key", [b"", PUBLIC[1:], PUBLIC + b"x", b"\0" * 32])
def test_a_key_that_cannot_be_used_is_refused_and_not_stored(alice, public_key):
    with pytest.raises(Invalid) as caught:
        recipient_key(alice, public_key)
    assert caught.value.params == {"field": "dev_pk"}
    assert not RecipientKey.objects.exists()
