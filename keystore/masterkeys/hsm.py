"""Master keys in an HSM, by PKCS#11 v2.40: AES-256 keys that cannot leave their token.

A wrap is nonce (12 bytes) || ciphertext || tag (16 bytes), as for keys in memory. The token
encrypts and decrypts (CKM_AES_GCM), with the context as associated data. A process has one session,
opened at its first use and again after a fork. All calls of the process use it in turn, because a
second login of one process is refused, and because a token may not return: a call that runs into
the time limit is left behind in its thread.
"""

import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from certctrl import clock
from certctrl.lanes import Lane
from certctrl.sentences import sentence as _
from keystore.masterkeys.elsewhere import KeyElsewhere
from keystore.masterkeys.errors import MasterKeyAway, MasterKeyProblem, WrongMasterKey

T = TypeVar("T")
NONCE = 12
URI = re.compile(r"pkcs11:token=(?P<token>[^;?]+);object=(?P<object>[^;?]+)")  # RFC 7512
LANE = Lane("hsm", _("the HSM with the master keys"))


class HSMKey(KeyElsewhere):
    lane = LANE

    def __init__(self, key_id: str, where: str, token: str, label: str) -> None:
        super().__init__(key_id, where)
        self.token = token
        self.label = label

    @sensitive_variables()
    def _wrap(self, data_key: bytes, context: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return nonce + token_of(self.token).call(partial(_encrypt, self, data_key, nonce, context))

    def _unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        nonce, sealed = wrapped[:NONCE], wrapped[NONCE:]
        return token_of(self.token).call(partial(_decrypt, self, sealed, nonce, context))


def key(key_id: str, where: str, which: str) -> HSMKey:
    match = URI.fullmatch(where)
    if not match:
        raise MasterKeyProblem(
            _(
                "%(which)s is not the URI of a key in an HSM. Write "
                "pkcs11:token=LABEL;object=LABEL, with the labels percent-encoded.",
                which=which,
            )
        )
    if not settings.PKCS11_MODULE:
        raise MasterKeyProblem(
            _(
                "%(which)s is in an HSM, and PKCS11_MODULE is empty. Set it to the path of the "
                "HSM's library, for example /usr/lib/softhsm/libsofthsm2.so.",
                which=which,
            )
        )
    return HSMKey(key_id, where, unquote(match["token"]), unquote(match["object"]))


class Token:
    """One token of the HSM, and the session of this process with it."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._lock = threading.Lock()
        self._session: Any = None
        self._keys: dict[str, Any] = {}

    def call(self, act: Callable[["Token"], T]) -> T:
        """Return the result of `act`. Raise MasterKeyAway if it takes longer than a call may."""
        seconds = clock.time_left()
        outcome: list[T | BaseException] = []

        def run() -> None:
            try:
                outcome.append(self._with_session(act))
            except BaseException as exc:
                outcome.append(exc)
            finally:
                self._lock.release()

        if self._lock.acquire(timeout=seconds):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            thread.join(seconds)
        if not outcome:
            raise MasterKeyAway(
                _(
                    "The HSM did not answer within %(seconds)s seconds. Check it.",
                    seconds=round(seconds),
                )
            )
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def find(self, label: str) -> Any:
        """Return the key object. Raise MasterKeyProblem unless it can never leave the token."""
        if label not in self._keys:
            self._keys[label] = self._found(label)
        return self._keys[label]

    def prove(self, label: str) -> None:
        """Encrypt and decrypt a test text. Raise PKCS11Error if the token fails."""
        from pkcs11 import GCMParams, Mechanism

        used = {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(os.urandom(NONCE))}
        found = self.find(label)
        found.decrypt(found.encrypt(b"a test", **used), **used)

    def _found(self, label: str) -> Any:
        import pkcs11
        from pkcs11 import Attribute, KeyType, ObjectClass

        which = _("The key %(label)s of the token %(token)s", label=label, token=self.label)
        try:
            found = self._session.get_key(
                object_class=ObjectClass.SECRET_KEY, key_type=KeyType.AES, label=label
            )
        except pkcs11.NoSuchKey:
            raise MasterKeyProblem(
                _("%(which)s does not exist. Check the label.", which=which)
            ) from None
        except pkcs11.MultipleObjectsReturned:
            raise MasterKeyProblem(_("%(which)s exists twice. Rename one.", which=which)) from None
        if found.key_length != 256:
            raise MasterKeyProblem(
                _(
                    "%(which)s has %(bits)s bits. Use one with 256.",
                    which=which,
                    bits=found.key_length,
                )
            )
        if found[Attribute.EXTRACTABLE] or not found[Attribute.SENSITIVE]:
            raise MasterKeyProblem(
                _(
                    "%(which)s can leave the token. Make another, with CKA_SENSITIVE true and "
                    "CKA_EXTRACTABLE false.",
                    which=which,
                )
            )
        return found

    def _with_session(self, act: Callable[["Token"], T]) -> T:
        """Call `act` with an open session. When the session was lost, try again with another."""
        import pkcs11

        was_open = self._session is not None
        try:
            self._open()
            return act(self)
        except (pkcs11.PKCS11Error, RuntimeError) as exc:
            self._close()
            if was_open:
                return self._with_session(act)
            raise _told(exc, self.label) from None

    def _open(self) -> None:
        import pkcs11

        if self._session is None:
            library = pkcs11.lib(settings.PKCS11_MODULE)
            token = library.get_token(token_label=self.label)
            self._session = token.open(user_pin=settings.PKCS11_PIN)

    def _close(self) -> None:
        session, self._session, self._keys = self._session, None, {}
        if session is not None:
            with suppress(Exception):  # it may be lost already
                session.close()


_tokens: dict[tuple[int, str], Token] = {}
_started: dict[str, int] = {}  # the process that started the library of this path
_lock = threading.Lock()


def token_of(label: str) -> Token:
    """Return the token for this process. After a fork, start the library again.

    A child must do that before any other call (PKCS#11 Usage Guide 2.40, section 2.5.2).
    """
    try:
        import pkcs11
    except ImportError:
        raise MasterKeyProblem(
            _(
                "A master key is in an HSM, and python-pkcs11 is not installed. Install "
                "requirements/hsm.txt."
            )
        ) from None

    pid = os.getpid()
    with _lock:
        if (pid, label) not in _tokens:
            path = settings.PKCS11_MODULE
            try:
                library = pkcs11.lib(path)
                if _started.setdefault(path, pid) != pid:
                    library.reinitialize()
                    _started[path] = pid
            except (pkcs11.PKCS11Error, RuntimeError) as exc:
                raise _told(exc, label) from None
            _tokens[pid, label] = Token(label)
        return _tokens[pid, label]


@sensitive_variables()
def _encrypt(key: HSMKey, data_key: bytes, nonce: bytes, context: bytes, token: Token) -> bytes:
    from pkcs11 import GCMParams, Mechanism

    parameters = GCMParams(nonce, context)
    found = token.find(key.label)
    return bytes(found.encrypt(data_key, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))


def _decrypt(key: HSMKey, sealed: bytes, nonce: bytes, context: bytes, token: Token) -> bytes:
    from pkcs11 import GCMParams, Mechanism, PKCS11Error

    found = token.find(key.label)
    try:
        parameters = GCMParams(nonce, context)
        return bytes(found.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=parameters))
    except (PKCS11Error, ValueError) as exc:
        if not _is_about_the_wrap(exc):
            raise
    # SoftHSM says GeneralError for a wrong context. A token that fails may say so too.
    token.prove(key.label)
    raise WrongMasterKey(key.id)


def _is_about_the_wrap(exc: BaseException) -> bool:
    """Return whether the token refused the content. SoftHSM says GeneralError then."""
    import pkcs11
    from pkcs11 import exceptions

    return isinstance(
        exc,
        ValueError
        | exceptions.EncryptedDataInvalid
        | exceptions.EncryptedDataLenRange
        | pkcs11.GeneralError,
    )


def _told(exc: BaseException, label: str) -> MasterKeyProblem:
    import pkcs11
    from pkcs11 import exceptions

    match exc:
        case pkcs11.NoSuchToken():
            return MasterKeyAway(
                _("The HSM has no token %(label)s. Check its label, and the HSM.", label=label)
            )
        case exceptions.PinIncorrect() | exceptions.PinInvalid() | exceptions.PinLenRange():
            return MasterKeyProblem(_("The HSM refused the PIN. Check PKCS11_PIN."))
        case exceptions.PinLocked():
            return MasterKeyProblem(
                _("The PIN of the HSM is locked. Unlock it with the HSM's tool.")
            )
    text = str(exc)
    if "loading" in text:
        return MasterKeyProblem(
            _("The library that PKCS11_MODULE names cannot be loaded. Check it.")
        )
    return MasterKeyAway(_("The HSM failed (%(name)s). Check it.", name=type(exc).__name__))
