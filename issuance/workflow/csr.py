"""The key and the CSR of an attempt.

The key is new, or the one that the certificate keeps (`reuse_key`). Or both key and CSR come from
an earlier attempt that gave up.
"""

from collections.abc import Sequence
from functools import partial

from django.views.decorators.debug import sensitive_variables

from authorities import pki
from authorities.base import CA, NotYet
from authorities.errors import Refused
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Wait
from issuance import wraps
from issuance.models import KEY_COMPROMISE, Certificate, CertificateVersion, Issuance
from issuance.renewal import lifetime
from issuance.workflow.outcome import Outcome, event
from keystore import envelope
from keystore.envelope import CannotOpen
from keystore.models import Envelope, KeyWrap, RecipientKey

ACTOR = "this server"
# After this many troubles in a row, an earlier order that the CA does not show is ignored.
PATIENCE = 5
# With these errors the result of the order is known, and it is of no use.
NO_USE = ("ca_bad_certificate", "ca_not_found", lifetime.GAINS_NOTHING)


def ensure_key_and_csr(issuance: Issuance, client: CA) -> None:
    """Give the attempt a key and a CSR when it has none.

    Raise LostTurn, and the CA's NotYet, Wait and Trouble from reading an earlier order.
    """
    if not issuance.csr_pem and (issuance.is_first or not _take_over(issuance, client)):
        make(issuance)


def replace_unfit(issuance: Issuance) -> None:
    """Make a new key and CSR when the attempt's key has become unfit since.

    It has when it was revoked for keyCompromise, and when it cannot be wrapped for a recipient.
    """
    certificate = issuance.certificate
    is_compromising = not issuance.is_first and is_compromised(certificate, issuance.csr_pem)
    if is_compromising or _lacks_wrap(issuance):
        make(issuance)


def _lacks_wrap(issuance: Issuance) -> bool:
    """Return whether a recipient came after the key was sealed, and the server cannot open it."""
    assert issuance.key, "the key was sealed in the first step"
    if issuance.key.policy != Envelope.Policy.DEVICE_REQUIRED:
        return False
    # A person may have changed it since the first step was claimed.
    issuance.certificate.refresh_from_db(fields=["key_policy"])
    if issuance.certificate.key_policy != Envelope.Policy.DEVICE_REQUIRED:
        return True
    wrapped = KeyWrap.objects.filter(envelope=issuance.key_id).values("recipient_key")
    return issuance.certificate.active_devices().exclude(key__in=wrapped).exists()


def is_compromised(certificate: Certificate, pem: str) -> bool:
    """Return whether the key of `pem`, a chain or a CSR, is compromised.

    It is when a version with the same key was revoked for keyCompromise, or will be.
    """
    revoked = certificate.versions.filter(revoke_reason=KEY_COMPROMISE)
    return any(pki.same_key(each.chain_pem, pem) for each in revoked)


@sensitive_variables()
def make(issuance: Issuance) -> None:
    """Seal a key for the attempt under the current key policy, and write the CSR.

    The key is new, or the one that the certificate keeps. Its plaintext exists only in this
    function. Raise LostTurn, and Wait if the policy changes meanwhile.
    """
    certificate, replaced, key = issuance.certificate, issuance.key_id, None
    pinned, told = _pinned(issuance)
    if pinned:
        try:
            what = _("%(domain)s is renewed with the same key", domain=certificate.domain)
            key = pki.load_key(
                envelope.open_certificate_key(pinned.usable_key, actor=ACTOR, what=what)
            )
        except CannotOpen as cannot:
            if cannot.is_temporary:  # an HSM that is away must not change a pinned key
                raise
            told = _(
                "The certificate gets a new key, although reuse_key is set. %(what)s",
                what=cannot.what,
            )
    key = key or pki.new_key(certificate.key_type, certificate.key_size)
    csr_pem = pki.csr(key, certificate.names, certificate.subject())
    prepare = partial(
        envelope.prepare,
        certificate.owner,
        "certificate_key",
        pki.key_der(key),
        policy=certificate.key_policy,
    )
    # The wrap for a master key may be a call, so it is made outside of the transaction. Wraps for
    # devices are made inside, where the devices are locked.
    for_devices_only = certificate.key_policy == Envelope.Policy.DEVICE_REQUIRED
    prepared = None if for_devices_only else prepare()
    # The row of the attempt is locked before the devices, as everywhere.
    with issuance.fence() if for_devices_only else issuance.atomic():
        prepared = prepared or prepare(public_keys=_recipients(certificate))
        sealed = prepared.store()
        issuance.write(csr_pem=csr_pem, key=sealed)
        if replaced:
            _refuse_other_policy(certificate, sealed)
            Envelope.objects.filter(pk=replaced).delete()
        if told:
            event(issuance, "order", Outcome.DONE, told)


def _refuse_other_policy(certificate: Certificate, sealed: Envelope) -> None:
    """Raise Wait if a person changed the key policy while the key was made.

    The change made the wraps of the replaced key fit, and could not see the new one. A change that
    comes later waits for the row of the attempt, which this transaction has locked.
    """
    certificate.refresh_from_db(fields=["key_policy"])
    if certificate.key_policy != sealed.policy:
        raise Wait(1, _("The key policy was changed while a new key was made. It is made again."))


def _recipients(certificate: Certificate) -> Sequence[RecipientKey]:
    """Return the public keys of the devices of a certificate with the policy DEVICE_REQUIRED.

    Under HYBRID the key is wrapped for devices when the version is stored. Raise Refused.
    """
    keys = wraps.public_keys(certificate)
    if not keys:
        raise Refused(
            "no_device",
            _(
                "%(domain)s has the policy DEVICE_REQUIRED and no device, so nobody could "
                "open a new key. Assign a device.",
                domain=certificate.domain,
            ),
            permanent=True,
        )
    return keys


def _pinned(issuance: Issuance) -> tuple[CertificateVersion | None, str]:
    """Return the version whose key the attempt keeps, and a text about the key for its owner.

    The version is None when the key is new. The text may be empty.
    """
    certificate = issuance.certificate
    version = certificate.current
    if not certificate.reuse_key or not version or issuance.proves:
        return None, ""
    if pki.key_kind(version.chain_pem) != (certificate.key_type, certificate.key_size):
        return (
            None,
            _("The certificate gets a new key, because its key type or size was changed."),
        )
    if is_compromised(certificate, version.chain_pem):
        return (
            None,
            _("The certificate gets a new key, because the old one was revoked for keyCompromise."),
        )
    return version, _("The certificate keeps its key (reuse_key).")


def _take_over(issuance: Issuance, client: CA) -> bool:
    """Take key, CSR and order from an earlier attempt whose order became valid.

    An attempt may give up after its CSR was sent, and the CA may sign later. Return False when
    there is no such attempt.
    """
    abandoned = Issuance.objects.filter(
        certificate=issuance.certificate,
        account=issuance.account,
        proves=issuance.proves,
        state=Issuance.State.FAILED,
        names_key=issuance.names_key,
        csr_sent_at__isnull=False,
        key__isnull=False,
        order_expires_at__gt=clock.now(),
    )
    earlier = abandoned.exclude(error_code__in=NO_USE).order_by("-pk").first()
    if (
        not earlier
        or not _is_still_right(earlier, issuance)
        or not _became_valid(issuance, client, earlier.order_url)
    ):
        return False
    with issuance.fence():
        issuance.write(
            csr_pem=earlier.csr_pem,
            key=earlier.key,
            order_url=earlier.order_url,
            profile=earlier.profile,
            order_expires_at=earlier.order_expires_at,
            csr_sent_at=earlier.csr_sent_at,
        )
        Issuance.objects.filter(pk=earlier.pk).update(key=None)
    return True


def _is_still_right(earlier: Issuance, issuance: Issuance) -> bool:
    """Return whether the earlier CSR still has the wanted key type, key size, subject and key.

    A person may have changed them or `reuse_key` since, or may have revoked the key for
    keyCompromise.
    """
    certificate, current = issuance.certificate, issuance.certificate.current
    same = pki.is_csr_for(
        earlier.csr_pem, certificate.key_type, certificate.key_size, certificate.subject()
    )
    keeps_key = current is not None and pki.same_key(current.chain_pem, earlier.csr_pem)
    pinned, _ = _pinned(issuance)
    return (
        same
        and keeps_key == (pinned is not None)
        and not is_compromised(certificate, earlier.csr_pem)
    )


def _became_valid(issuance: Issuance, client: CA, order_url: str) -> bool:
    try:
        return client.read_order(order_url).status == "valid"
    except NotYet:
        if issuance.stumbles < PATIENCE:
            raise
        return False
    except Refused:
        return False
