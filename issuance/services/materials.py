"""Hand a key to a device, in one of the two forms that agents read.

See docs/reference/devices.md. Reading never makes a wrap.
"""

import base64
from typing import Any

from certctrl.errors import ExportForbidden, NotFound, NotIssued, WrapPending
from certctrl.sentences import sentence as _
from devices.models import Device
from issuance.models import Certificate, CertificateVersion
from keystore import envelope
from keystore.models import Envelope, KeyWrap

Policy = Envelope.Policy
VERSIONS = ("certificate__current", "wanted")
PARTS = ("key", "issuance")


def assigned(device: Device, pk: int) -> Certificate:
    """Return the certificate as the device sees it, if it is assigned to it. Raise NotFound.

    Its `current` is the version that the device wants. It may be an older one during a rollout.
    """
    found = device.deployments.filter(
        certificate=pk, certificate__owner=device.owner_id, certificate__retired_at=None
    )
    parts = ("certificate__account", *(f"{name}__{part}" for name in VERSIONS for part in PARTS))
    deployment = found.select_related(*parts).first()
    if deployment is None:
        raise NotFound(
            _(
                "The device %(device)s has no certificate %(pk)s. Assign it first.",
                device=device,
                pk=pk,
            )
        )
    certificate = deployment.certificate
    if deployment.wanted and deployment.wanted.key_id:
        certificate.current = deployment.wanted
    return certificate


def version_of(certificate: Certificate) -> CertificateVersion:
    """Return the version that devices get. Raise NotIssued."""
    if not certificate.current:
        raise NotIssued(
            _("%(domain)s was not issued yet. See its issue-result.", domain=certificate.domain)
        )
    return certificate.current


def sealed(device: Device, certificate: Certificate) -> dict[str, Any]:
    """Return the key sealed for this device. Nothing is opened.

    Raise ExportForbidden under MASTER_ONLY, NotIssued, and WrapPending.
    """
    if certificate.key_policy == Policy.MASTER_ONLY:
        raise ExportForbidden(
            _(
                "The key of %(domain)s is not wrapped for devices (MASTER_ONLY). Export it, "
                "or choose HYBRID.",
                domain=certificate.domain,
            )
        )
    return _sealed(device, version_of(certificate))


def for_device(
    device: Device, certificate: Certificate, *, actor: str, ip: str | None
) -> dict[str, Any]:
    """Return the key as the policy allows: sealed for the device, or in plaintext.

    The plaintext, under MASTER_ONLY with `server_decrypt_export`, is an event in the audit log.
    Raise ExportForbidden, NotIssued, WrapPending and CannotOpen.
    """
    if certificate.key_policy != Policy.MASTER_ONLY:
        return sealed(device, certificate)
    if not certificate.server_decrypt_export:
        raise ExportForbidden(
            _(
                "The key of %(domain)s is for the server only (MASTER_ONLY). Set "
                "server_decrypt_export to true, or choose HYBRID.",
                domain=certificate.domain,
            )
        )
    version = version_of(certificate)
    if not version.usable_key.wraps.exclude(master_key_id=None).exists():
        return _sealed(device, version)  # issued under DEVICE_REQUIRED, and not yet again
    why = f"{certificate.domain} delivered to the device {device.public_id}"
    key = envelope.open_certificate_key(version.usable_key, actor=actor, what=why, ip=ip)
    return {
        "enc_scheme": "plaintext",
        "private_key_der_b64": _b64(key),
        "certificate_pem": version.chain_pem,
    }


def _sealed(device: Device, version: CertificateVersion) -> dict[str, Any]:
    wrap = (
        KeyWrap.objects.filter(envelope=version.usable_key, recipient_key=device.key_id)
        .select_related("recipient_key")
        .first()
    )
    if wrap is None or wrap.recipient_key is None:
        raise WrapPending(
            _(
                "The key of certificate %(certificate_id)s is not wrapped for the device "
                "%(device)s yet (WRAP_PENDING). Try again later.",
                certificate_id=version.certificate_id,
                device=device,
            )
        )
    parts = envelope.parts(version.usable_key)
    return {
        "wrap_alg": "x25519",
        "enc_scheme": "aes256gcm",
        "device_keyfp_b64": _b64(wrap.recipient_key.fingerprint),
        "enc_data_key_b64": _b64(wrap.wrapped_dek),
        "enc_privkey_b64": _b64(parts.ciphertext),
        "privkey_nonce_b64": _b64(parts.nonce),
        "privkey_tag_b64": _b64(parts.tag),
    }


def _b64(raw: Any) -> str:
    return base64.b64encode(bytes(raw)).decode()
