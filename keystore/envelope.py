"""Seal and open secrets. Data keys are created and used only in this module.

A data key is 256 random bits, used once, for AES-256-GCM. Associated data binds the content of an
envelope to its row. Certificate keys are the exception, because devices open them: their format
is nonce, ciphertext and detached tag, without associated data. Their data key binds them to their
row, because its wrap under a master key is bound to the row.
"""

import os
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: TID251
from django.db import transaction
from django.db.models import QuerySet
from django.views.decorators.debug import sensitive_variables

from accounts import audit
from accounts.models import AuditEvent, User
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, insert, select
from certctrl.turns import Trouble
from keystore import masterkeys
from keystore.masterkeys import MasterKeyProblem, UnknownMasterKey, WrongMasterKey
from keystore.models import CERTIFICATE_KEY, Envelope, KeyWrap, RecipientKey
from keystore.policy import Policy, recipients_for
from keystore.recipients import DeviceKey, MasterKey, Recipient

NONCE = 12
TAG = 16
PURPOSE = re.compile(r"[a-z][a-z0-9_]{0,31}")


class CannotOpen(Trouble):
    """This server cannot open the envelope. `what` has the reason and a missing master key's id."""

    def __init__(self, envelope: Envelope, why: str, permanent: bool = False) -> None:
        super().__init__(
            "cannot_open",
            _("The secret (%(envelope)s) cannot be opened. %(why)s", envelope=envelope, why=why),
            permanent,
        )

    @property
    def is_temporary(self) -> bool:
        """Whether the master key may be well, but could not be used now."""
        cause = self.__cause__
        is_known = not isinstance(cause, UnknownMasterKey | WrongMasterKey)
        return isinstance(cause, MasterKeyProblem) and is_known


class SealedKey(NamedTuple):
    """A sealed certificate key in the format that devices read.

    The parts are the nonce (12 bytes), the ciphertext without its tag, and the tag (16 bytes).
    """

    nonce: bytes
    ciphertext: bytes
    tag: bytes


@sensitive_variables()
def seal(
    owner: User,
    purpose: str,
    plaintext: bytes,
    *,
    policy: str = Policy.MASTER_ONLY,
    public_keys: Sequence[RecipientKey] = (),
) -> Envelope:
    """Store a secret under a fresh data key, wrapped for each recipient of the policy.

    All rows are written in one transaction. `purpose` is a lower-case word. A purpose other than
    `certificate_key` must have the policy MASTER_ONLY. Raise Conflict if nobody could open the
    envelope. Raise MasterKeyProblem if a master key is needed and none is usable.
    """
    return prepare(owner, purpose, plaintext, policy=policy, public_keys=public_keys).store()


@sensitive_variables()
def prepare(
    owner: User,
    purpose: str,
    plaintext: bytes,
    *,
    policy: str = Policy.MASTER_ONLY,
    public_keys: Sequence[RecipientKey] = (),
) -> "Prepared":
    """Seal a secret as seal() does, and store nothing yet.

    Call this before a transaction that stores the secret, because the master key may be in an HSM
    or a service.
    """
    _check(owner, purpose, policy, public_keys)
    recipients = recipients_for(policy, public_keys)
    data_key = AESGCM.generate_key(256)
    envelope = Envelope(owner=owner, purpose=purpose, policy=policy, nonce=os.urandom(NONCE))
    envelope.ciphertext = AESGCM(data_key).encrypt(
        envelope.nonce, plaintext, _content_context(envelope)
    )
    wraps = [each.wrap(envelope, data_key) for each in recipients]
    return Prepared(envelope, recipients, wraps, data_key)


class Prepared:
    """A sealed secret whose rows are not stored yet."""

    def __init__(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        wraps: Sequence[KeyWrap],
        data_key: bytes,
    ) -> None:
        self._envelope = envelope
        self._recipients = recipients
        self._wraps = wraps
        self._data_key = data_key

    @sensitive_variables()
    def store(self) -> Envelope:
        """Store the rows in one transaction, and return the envelope."""
        with transaction.atomic(savepoint=False):
            insert(self._envelope)
            for wrap in self._wraps:
                wrap.envelope = self._envelope
                insert(wrap)
            _keep_up(self._wraps, self._data_key)
            _note_wrapped(self._envelope, self._recipients)
        return self._envelope


@sensitive_variables()
def unseal(envelope: Envelope) -> bytes:
    """Return the secret. Raise CannotOpen.

    Call open_certificate_key() instead for a certificate key.
    """
    return _content(envelope, _data_key(envelope))


@sensitive_variables()
def _content(envelope: Envelope, data_key: bytes) -> bytes:
    try:
        return AESGCM(data_key).decrypt(
            bytes(envelope.nonce), bytes(envelope.ciphertext), _content_context(envelope)
        )
    except (InvalidTag, ValueError):
        raise CannotOpen(
            envelope, _("Its content was altered. Restore it from a backup."), permanent=True
        ) from None


@sensitive_variables()
def open_certificate_key(
    envelope: Envelope, *, actor: str, what: str, ip: str | None = None
) -> bytes:
    """Return the private key (PKCS#8 DER), and write `actor` and `what` into the audit log.

    `what` is the reason for the opening. Do not call this function inside a transaction, because a
    rollback would remove the audit event. Raise CannotOpen. Raise ValueError if the envelope has
    another purpose.
    """
    if envelope.purpose != CERTIFICATE_KEY:
        raise ValueError(f"{envelope} is not a certificate's key")
    data_key = _data_key(envelope)  # not in the transaction, because an HSM may be slow
    with transaction.atomic(durable=True):
        AuditEvent.objects.create(
            owner_id=envelope.owner_id,
            actor=actor,
            action="key.opened",
            object=str(envelope),
            ip=ip,
            detail={"what": what},
        )
        return _content(envelope, data_key)


def parts(envelope: Envelope) -> SealedKey:
    """Return the content of a certificate key's envelope in the format that devices read."""
    sealed = bytes(envelope.ciphertext)
    return SealedKey(bytes(envelope.nonce), sealed[:-TAG], sealed[-TAG:])


@sensitive_variables()
def rewrap(wrap: KeyWrap) -> bool:
    """Wrap the data key with the current master key. The ciphertext does not change.

    Return False if the wrap already uses the current key. Return False also if another process
    changed or removed the row in the meantime. Raise CannotOpen.
    """
    current = MasterKey.current()
    if wrap.master_key_id == current.key.id:
        return False
    new = current.wrap(wrap.envelope, _unwrap(wrap))
    unchanged = KeyWrap.objects.filter(pk=wrap.pk, master_key_id=wrap.master_key_id)
    return bool(unchanged.update(master_key_id=new.master_key_id, wrapped_dek=new.wrapped_dek))


def check_opens(wrap: KeyWrap) -> None:
    """Raise CannotOpen unless the master key of the wrap is on this server and opens it."""
    _unwrap(wrap)


@sensitive_variables()
def rewrite_recipients(
    envelope: Envelope, public_keys: Sequence[RecipientKey], *, policy: str | None = None
) -> Envelope:
    """Set the recipients of the envelope to those of `policy` with these devices.

    Without `policy` the envelope keeps its policy. Missing devices get a wrap. All other wraps for
    devices are removed. Raise CannotOpen if a recipient must be added and the server cannot open
    the envelope. Raise Conflict if no recipient would be left.
    """
    policy = policy or envelope.policy
    _check(envelope.owner, envelope.purpose, policy, public_keys)
    wanted = recipients_for(policy, public_keys)
    devices = {each.recipient_key.pk: each for each in wanted if isinstance(each, DeviceKey)}
    with transaction.atomic():
        # Lock the row, because two assignments at once would each remove the other's device.
        Envelope.objects.select_for_update().filter(pk=envelope.pk).get()
        missing = _missing(envelope, devices)
        serves_master = any(isinstance(each, MasterKey) for each in wanted)
        if missing or (serves_master and not _master_wraps(envelope)):
            data_key = _data_key(envelope)
            KeyWrap.objects.bulk_create([each.wrap(envelope, data_key) for each in missing])
            _note_wrapped(envelope, missing)
        remove_wraps([envelope], keep=devices, master=not serves_master)
        Envelope.objects.filter(pk=envelope.pk).update(policy=policy)
    envelope.policy = policy
    return envelope


def remove_wraps(
    envelopes: Iterable[Envelope], *, keep: Iterable[int] = (), master: bool = False
) -> None:
    """Remove the wraps for devices, and with `master` those for the server too.

    `keep` has the ids of the public keys whose wraps stay. This never needs to open an envelope.
    """
    rows = {each.pk: each for each in envelopes}
    found = KeyWrap.objects.filter(envelope__in=rows).select_related("recipient_key")
    over = found.filter(recipient_key__isnull=False).exclude(recipient_key__in=[*keep])
    if master:
        over = over | found.filter(master_key_id__isnull=False)
    removed = list(over.order_by("envelope", "pk"))
    KeyWrap.objects.filter(pk__in=[each.pk for each in removed]).delete()
    for pk, wraps in groupby(removed, attrgetter("envelope_id")):
        gone = list(wraps)
        devices = [str(each.recipient_key) for each in gone if each.recipient_key]
        audit.record(
            rows[pk].owner,
            audit.PROCESS,
            "key.wraps_removed",
            str(rows[pk]),
            devices=devices,
            server=len(devices) < len(gone),
        )


def _missing(envelope: Envelope, devices: dict[int, DeviceKey]) -> list[DeviceKey]:
    present = set(
        envelope.wraps.filter(recipient_key__isnull=False).values_list(
            "recipient_key_id", flat=True
        )
    )
    return [device for pk, device in devices.items() if pk not in present]


def _note_wrapped(envelope: Envelope, recipients: Iterable[Recipient]) -> None:
    """Write the devices that can open the envelope from now on into the audit log."""
    keys = [each.recipient_key for each in recipients if isinstance(each, DeviceKey)]
    if keys:
        devices = [str(key) for key in keys]
        audit.record(envelope.owner, audit.PROCESS, "key.wrapped", str(envelope), devices=devices)


def _check(owner: User, purpose: str, policy: str, public_keys: Iterable[RecipientKey]) -> None:
    if not PURPOSE.fullmatch(purpose):
        raise ValueError("a purpose must be a lower-case word of at most 32 letters")
    if policy != Policy.MASTER_ONLY and purpose != CERTIFICATE_KEY:
        raise ValueError(
            f"the server must be able to open a {purpose}, so its policy must be MASTER_ONLY"
        )
    if any(key.owner_id != owner.pk for key in public_keys):
        raise ValueError("a secret must not be wrapped for another owner's device")


def _content_context(envelope: Envelope) -> bytes | None:
    return None if envelope.purpose == CERTIFICATE_KEY else envelope.context()


@sensitive_variables()
def _keep_up(wraps: Iterable[KeyWrap], data_key: bytes) -> None:
    """Wrap again if the master key was dropped after it was read and before the rows were written.

    From the insert until the commit, rotation.drop_unneeded() cannot drop a key. So one check is
    enough.
    """
    for wrap in wraps:
        if wrap.master_key_id and not masterkeys.knows(wrap.master_key_id):
            new = MasterKey.current().wrap(wrap.envelope, data_key)
            KeyWrap.objects.filter(pk=wrap.pk).update(
                master_key_id=new.master_key_id, wrapped_dek=new.wrapped_dek
            )


@sensitive_variables()
def _data_key(envelope: Envelope) -> bytes:
    try:
        return _unwrap(_master_wrap(envelope))
    except CannotOpen as exc:
        if not isinstance(exc.__cause__, UnknownMasterKey):
            raise
    # A rotation may have wrapped the data key again and dropped the old key since the row was read.
    return _unwrap(_master_wrap(envelope))


def _master_wraps(envelope: Envelope) -> list[KeyWrap]:
    found: list[KeyWrap] = _wraps_of(envelope=envelope.pk)
    for wrap in found:
        wrap.envelope = envelope
    return found


@select
def _wraps_of(envelope: Parameter) -> QuerySet[KeyWrap]:
    return KeyWrap.objects.filter(envelope=envelope, master_key_id__isnull=False)


def _master_wrap(envelope: Envelope) -> KeyWrap:
    for wrap in _master_wraps(envelope):
        return wrap
    raise CannotOpen(
        envelope, _("It is wrapped for devices only. Open it on one of them."), permanent=True
    )


@sensitive_variables()
def _unwrap(wrap: KeyWrap) -> bytes:
    try:
        return MasterKey.of(wrap).unwrap(wrap)
    except MasterKeyProblem as problem:
        refusal = CannotOpen(wrap.envelope, problem.what)
        refusal.lane = problem.lane
        raise refusal from problem
