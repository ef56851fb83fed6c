"""Master keys in an HSM, with SoftHSM."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import User
from certctrl import clock
from keystore import envelope, masterkeys
from keystore.envelope import CannotOpen
from keystore.masterkeys import MasterKeyAway, MasterKeyProblem, WrongMasterKey, hsm
from keystore.models import KeyWrap
from tests.keystore.softhsm import MODULE, PIN, TOOL, SoftHSM

pytestmark = pytest.mark.skipif(not TOOL, reason="needs softhsm2")
CONTEXT = b"certctrl/1|a row"
SECRET = b"a secret of the owner"


@pytest.fixture(scope="session")
def soft(tmp_path_factory: pytest.TempPathFactory) -> SoftHSM:
    return SoftHSM(tmp_path_factory.mktemp("softhsm"))


@pytest.fixture(scope="session")
def token(soft: SoftHSM) -> str:
    label = soft.token()
    soft.key(label, "master 9")
    return label


@pytest.fixture
def use(settings: Any, soft: SoftHSM) -> Callable[..., Any]:
    """Put a key of a token first, as the settings do. Return it."""

    def first(token: str, label: str = "master%209", key_id: str = "9") -> Any:
        settings.PKCS11_MODULE, settings.PKCS11_PIN = MODULE, PIN
        settings.MASTER_KEYS_ELSEWHERE = [f"{key_id}=pkcs11:token={token};object={label}"]
        return masterkeys.current()

    return first


def test_a_data_key_comes_back(use, token):
    key = use(token)
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    assert b"k" * 8 not in wrapped
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32


def test_each_wrap_has_its_own_nonce(use, token):
    key = use(token)
    assert key.wrap(b"k" * 32, CONTEXT) != key.wrap(b"k" * 32, CONTEXT)


@pytest.mark.parametrize(
    ("change", "context"),
    [
        (lambda wrapped: wrapped, b"another row"),
        (lambda wrapped: wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT),
        (lambda wrapped: bytes([wrapped[0] ^ 1]) + wrapped[1:], CONTEXT),
        (lambda wrapped: wrapped[:20], CONTEXT),
        (lambda wrapped: b"", CONTEXT),
    ],
)
def test_a_wrap_opens_in_its_own_row_only(use, token, change, context):
    key = use(token)
    with pytest.raises(WrongMasterKey):
        key.unwrap(change(key.wrap(b"k" * 32, CONTEXT)), context)
    assert key.unwrap(key.wrap(b"k" * 32, CONTEXT), CONTEXT)


@pytest.mark.django_db
def test_secrets_are_sealed_and_opened(use, token, alice):
    use(token)
    row = envelope.seal(alice, "test", SECRET)
    assert KeyWrap.objects.get(envelope=row).master_key_id == "9"
    assert envelope.unseal(row) == SECRET


@pytest.mark.django_db
def test_a_wrap_of_another_row_does_not_open(use, token, alice):
    use(token)
    rows = [envelope.seal(alice, "test", each) for each in (SECRET, b"another")]
    first, second = (KeyWrap.objects.get(envelope=row) for row in rows)
    KeyWrap.objects.filter(pk=first.pk).update(wrapped_dek=second.wrapped_dek)
    with pytest.raises(CannotOpen, match="does not open this secret"):
        envelope.unseal(rows[0])


@pytest.mark.parametrize("attributes", [{"EXTRACTABLE": True}, {"SENSITIVE": False}])
def test_a_key_that_can_leave_the_token_is_refused(use, soft, token, attributes):
    label = f"weak-{len(attributes)}-{next(iter(attributes))}"
    soft.key(token, label, **attributes)
    fresh()
    with pytest.raises(MasterKeyProblem, match="can leave the token"):
        use(token, label).wrap(b"k" * 32, CONTEXT)


def test_a_key_of_another_length_is_refused(use, soft, token):
    soft.key(token, "short", bits=128)
    fresh()
    with pytest.raises(MasterKeyProblem, match="128 bits"):
        use(token, "short").wrap(b"k" * 32, CONTEXT)


def fresh() -> None:
    """Let this process open its next session as a new process does. SoftHSM reads keys then."""
    hsm._tokens.clear()
    hsm._started.clear()
    hsm._started[MODULE] = 0


def test_a_key_that_does_not_exist_is_named(use, token):
    with pytest.raises(MasterKeyProblem, match="nowhere of the token"):
        use(token, "nowhere").wrap(b"k" * 32, CONTEXT)


def test_a_token_that_does_not_exist_is_named(use):
    with pytest.raises(MasterKeyAway, match="no token lost"):
        use("lost").wrap(b"k" * 32, CONTEXT)


def test_a_wrong_pin_is_refused_without_the_pin(use, soft, settings):
    token = soft.token()
    fresh()
    key = use(token)
    settings.PKCS11_PIN = "99999999"
    with pytest.raises(MasterKeyProblem, match="PKCS11_PIN") as problem:
        key.wrap(b"k" * 32, CONTEXT)
    assert "99999999" not in str(problem.value)


def test_a_library_that_does_not_exist_is_a_sentence(use, token, settings):
    key = use(token)
    settings.PKCS11_MODULE = "/nowhere.so"
    hsm._tokens.clear()
    with pytest.raises(MasterKeyProblem, match="PKCS11_MODULE"):
        key.wrap(b"k" * 32, CONTEXT)
    hsm._tokens.clear()


def test_a_lost_session_is_opened_again(use, token):
    key = use(token)
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    hsm.token_of(token)._session.close()
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32


def test_a_process_has_one_session(use, token, monkeypatch):
    key = use(token)
    key.wrap(b"k" * 32, CONTEXT)
    session = hsm.token_of(token)._session
    threads = [
        threading.Thread(target=lambda: key.unwrap(key.wrap(b"k" * 32, CONTEXT), CONTEXT))
        for _ in range(8)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert hsm.token_of(token)._session is session


def test_a_forked_process_opens_its_own_session(use, token):
    key = use(token)
    wrapped = key.wrap(b"k" * 32, CONTEXT)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, key.unwrap(wrapped, CONTEXT))
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 99) == b"k" * 32
    os.close(reading)
    os.waitpid(child, 0)
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32


def test_a_call_that_does_not_return_ends_in_time(use, token, monkeypatch):
    """The thread of the call is left behind, and later calls wait for it within their limits."""
    key = use(token)
    silence = threading.Event()
    real = hsm._encrypt
    monkeypatch.setattr(hsm, "_encrypt", lambda *given: silence.wait(30) and real(*given))
    for _ in range(2):
        with clock.limit(0.05), pytest.raises(MasterKeyAway, match="did not answer"):
            key.wrap(b"k" * 32, CONTEXT)
    silence.set()
    assert key.unwrap(key.wrap(b"k" * 32, CONTEXT), CONTEXT) == b"k" * 32


@pytest.mark.parametrize(
    "where", ["pkcs11:", "pkcs11:token=a", "pkcs11:object=a", "pkcs11:token=a;object=b?pin-value=1"]
)
def test_another_uri_is_refused(settings, where):
    settings.MASTER_KEYS_ELSEWHERE = [f"9={where}"]
    with pytest.raises(MasterKeyProblem, match="Entry 1"):
        masterkeys.current()


def test_without_the_library_of_the_hsm_the_setting_is_refused(settings):
    settings.MASTER_KEYS_ELSEWHERE = ["9=pkcs11:token=a;object=b"]
    with pytest.raises(MasterKeyProblem, match="PKCS11_MODULE is empty"):
        masterkeys.current()


@pytest.mark.django_db
def test_a_lost_hsm_changes_no_row(use, alice):
    use("lost")
    with pytest.raises(MasterKeyAway):
        envelope.seal(alice, "test", SECRET)
    assert not KeyWrap.objects.exists()
    assert User.objects.count() == 1


def test_a_token_that_fails_is_not_taken_for_a_wrong_wrap(use, token, monkeypatch):
    """The session fails at the first call, and works when it is opened again."""
    import pkcs11

    key = use(token)
    wrapped = key.wrap(b"k" * 32, CONTEXT)

    class Failing:
        def __getattr__(self, name: str) -> Any:
            def fail(*args: Any, **kwargs: Any) -> None:
                raise pkcs11.GeneralError

            return fail

    hsm.token_of(token)._keys["master 9"] = Failing()
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32
    with monkeypatch.context() as patch:
        patch.setattr(hsm.Token, "find", lambda self, label: Failing())
        with pytest.raises(MasterKeyAway, match="The HSM failed"):
            key.unwrap(wrapped, CONTEXT)
    assert key.unwrap(wrapped, CONTEXT) == b"k" * 32
