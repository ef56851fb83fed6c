"""The wraps of a certificate's keys: who can open them.

The wraps follow the policy and the devices. A wrap is pending when an active device is assigned and
the key of the current version has no wrap for it. No column says so, and no row stands for it.
"""

from collections import defaultdict
from collections.abc import Sequence

import structlog
from django.db.models import Q

from certctrl.lanes import Full
from devices.models import Device
from issuance.models import Certificate
from keystore import envelope
from keystore.envelope import CannotOpen
from keystore.models import Envelope, KeyWrap, RecipientKey

logger = structlog.get_logger()
Policy = Envelope.Policy


def public_keys(certificate: Certificate) -> list[RecipientKey]:
    """Lock the active devices of the certificate, in order, and return their public keys.

    A device that enrols or is revoked at the same moment waits. It then sees the new wraps.
    """
    devices = certificate.active_devices().select_for_update(no_key=True).order_by("pk")
    # Read after the lock, because the key may have changed before it.
    keys = list(devices.values_list("key", flat=True))
    return list(RecipientKey.objects.filter(pk__in=keys).order_by("pk")) if keys else []


def fit(certificate: Certificate) -> bool:
    """Make the wraps fit the policy and the devices. Return whether this takes a new key.

    It does when the server cannot open the key to wrap it. Wraps of others are removed first,
    because that cannot fail. The caller has locked the certificate. Raise CannotOpen when the key
    has a wrap for the server, but no master key opens it.
    """
    keys = public_keys(certificate)
    used = remove_replaced(certificate)
    for_devices_only = certificate.key_policy == Policy.DEVICE_REQUIRED
    envelope.remove_wraps(used, keep=[key.pk for key in keys])
    openable = _openable(used)
    for each in used:
        if each.pk in openable and for_devices_only and not keys:
            envelope.remove_wraps([each], master=True)
        elif each.pk in openable:
            envelope.rewrite_recipients(each, keys, policy=certificate.key_policy)
    return _takes_new_key(certificate, keys)


def remove_replaced(certificate: Certificate) -> list[Envelope]:
    """Remove the wraps of replaced versions, and return the other envelopes.

    A wrap stays for a device that still wants a replaced version. Under DEVICE_REQUIRED no wrap
    for the server stays.
    """
    used, replaced = _envelopes(certificate)
    for_devices_only = certificate.key_policy == Policy.DEVICE_REQUIRED
    wanting = certificate.deployments.filter(
        device__status=Device.Status.ACTIVE, wanted__key__in=[each.pk for each in replaced]
    )
    keys: dict[int, list[int]] = defaultdict(list)
    for envelope_id, key in wanting.values_list("wanted__key", "device__key"):
        keys[envelope_id].append(key)
    unwanted = [each for each in replaced if each.pk not in keys]
    envelope.remove_wraps(unwanted, master=for_devices_only)
    for each in replaced:
        if each.pk in keys:
            envelope.remove_wraps([each], keep=keys[each.pk], master=for_devices_only)
    return used


def _takes_new_key(certificate: Certificate, keys: Sequence[RecipientKey]) -> bool:
    """Return whether a recipient has no wrap, when all wraps that can be made are there."""
    version, policy = certificate.current, certificate.key_policy
    if version is None:
        return False
    wraps = version.usable_key.wraps.all()
    wanted = [] if policy == Policy.MASTER_ONLY else keys
    if policy != Policy.DEVICE_REQUIRED and not wraps.exclude(master_key_id=None).exists():
        return True
    return wraps.filter(recipient_key__in=wanted).count() < len(wanted)


def _envelopes(certificate: Certificate) -> tuple[list[Envelope], list[Envelope]]:
    """Return the keys of the current version and of attempts, and those of replaced versions."""
    current = certificate.current.key_id if certificate.current else None
    of_attempts = certificate.issuances.filter(version=None).values("key")
    of_versions = certificate.versions.values("key")
    rows = Envelope.objects.filter(Q(pk__in=of_attempts) | Q(pk__in=of_versions))
    found = list(rows.select_related("owner").order_by("pk"))
    replaced = set(of_versions.exclude(key=current).values_list("key", flat=True))
    return (
        [each for each in found if each.pk not in replaced],
        [each for each in found if each.pk in replaced],
    )


def _openable(envelopes: Sequence[Envelope]) -> set[int]:
    """Return the ids of the envelopes that have a wrap for the server."""
    wraps = KeyWrap.objects.filter(envelope__in=envelopes, master_key_id__isnull=False)
    return set(wraps.values_list("envelope", flat=True))


def pending(certificate: Certificate) -> set[int]:
    """Return the ids of the active devices that have no wrap for the current version."""
    if not certificate.current or certificate.key_policy == Policy.MASTER_ONLY:
        return set()
    wrapped = KeyWrap.objects.filter(
        envelope=certificate.current.key_id, recipient_key__isnull=False
    )
    without = certificate.active_devices().exclude(key__in=wrapped.values("recipient_key"))
    return set(without.values_list("pk", flat=True))


def fit_or_wait(certificate: Certificate, *, is_retried: bool = False) -> bool:
    """Do the same as `fit`. While no master key is usable, leave wraps pending and return False.

    A caller that is retried passes `is_retried`. For it, raise CannotOpen or Full while an HSM or
    a service does not answer. So it makes the wraps in the next try.
    """
    try:
        return fit(certificate)
    except (CannotOpen, Full) as exc:
        if is_retried and (isinstance(exc, Full) or exc.is_temporary):
            raise
        logger.warning("wraps.pending", certificate=certificate.pk, why=exc.what)
        return False
