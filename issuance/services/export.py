"""Export a key and its chain. Each export is audited, and a key policy may refuse it.

The rules are in `docs/reference/api.md` ("Export").
"""

import io
import json
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path

from authorities import pki
from certctrl import fileset
from certctrl.errors import ExportForbidden, Invalid, NotIssued
from certctrl.sentences import either
from certctrl.sentences import sentence as _
from issuance.models import Certificate, CertificateVersion
from keystore import envelope
from keystore.models import Envelope

PFX = ("modern", "legacy")  # the algorithms of bundle.pfx
PRIVATE_KEY = "private.key"


def current_version(certificate: Certificate) -> CertificateVersion:
    """Return the version to export. Raise NotIssued or ExportForbidden."""
    if certificate.key_policy == Envelope.Policy.DEVICE_REQUIRED:
        raise ExportForbidden(
            _(
                "The key of %(domain)s cannot be exported. With DEVICE_REQUIRED only its "
                "devices can open it.",
                domain=certificate.domain,
            )
        )
    if not certificate.server_decrypt_export:
        raise ExportForbidden(
            _(
                "The export of %(domain)s is switched off. Set server_decrypt_export to true "
                "first.",
                domain=certificate.domain,
            )
        )
    if not certificate.current:
        raise NotIssued(
            _("%(domain)s was not issued yet. See its issue-result.", domain=certificate.domain)
        )
    if certificate.current.usable_key.policy == Envelope.Policy.DEVICE_REQUIRED:
        raise ExportForbidden(
            _(
                "The key of %(domain)s was sealed for its devices only. Renew it first.",
                domain=certificate.domain,
            )
        )
    return certificate.current


def head(certificate: Certificate) -> dict[str, str]:
    """Return the HTTP headers of the ZIP, without opening the key.

    Raise NotIssued or ExportForbidden.
    """
    current_version(certificate)
    return {
        "Content-Disposition": f'attachment; filename="cert-{certificate.pk}.zip"',
        "Cache-Control": "no-store",
    }


def files_of(version: CertificateVersion, key: pki.PrivateKey) -> dict[str, bytes]:
    """Return the contents of the files by file name, in PEM and DER; the key is in PEM.

    A file without content is left out, such as chain.pem of a chain with one certificate.
    """
    parts = pki.split_chain(version.chain_pem)
    files = {
        PRIVATE_KEY: pki.key_pem(key).encode(),
        "certificate.pem": parts.leaf.encode(),
        "chain.pem": parts.chain.encode(),
        "fullchain.pem": parts.fullchain.encode(),
        "certificate.der": pki.to_der(parts.leaf),
    }
    return {name: content for name, content in files.items() if content}


def bundle(
    certificate: Certificate, *, actor: str, ip: str | None, user_agent: str, pfx: str = "modern"
) -> tuple[bytes, str]:
    """Return the ZIP, and the new password of the PKCS#12 file in it.

    Opening the key is an audit event. `pfx` is one of PFX. Raise Invalid for another `pfx`,
    NotIssued, ExportForbidden and CannotOpen.
    """
    if pfx not in PFX:
        raise Invalid(
            _("pfx is %(pfx)s: the algorithms of bundle.pfx.", pfx=either(PFX)), field="pfx"
        )
    version = current_version(certificate)
    why = f"{certificate.domain} exported as ZIP by {user_agent[:100] or 'an unnamed client'}"
    key = pki.load_key(
        envelope.open_certificate_key(version.usable_key, actor=actor, what=why, ip=ip)
    )
    files = files_of(version, key)
    password = secrets.token_urlsafe(30)
    files["bundle.pfx"] = pki.pkcs12(
        key, version.chain_pem, certificate.domain, password, legacy=pfx == "legacy"
    )
    files["meta.json"] = json.dumps(meta(certificate, version), indent=1).encode()
    return zipped(files), password


def to_folder(
    certificate: Certificate, folder: Path, *, actor: str
) -> tuple[list[Path], list[Path]]:
    """Write the files into a folder of this machine, all of them or none.

    Return two lists: the paths, and the paths of key files that other users could read. The mode of
    such a key file is now 0600. Opening the key is an audit event. Raise NotReplaced, NotIssued,
    ExportForbidden and CannotOpen.
    """
    current_version(certificate)
    with fileset.locked(folder):
        # Another run may have written a newer version while this one waited for the lock.
        certificate.refresh_from_db()
        version = current_version(certificate)
        key = envelope.open_certificate_key(
            version.usable_key, actor=actor, what=f"{certificate.domain} exported to {folder}"
        )
        files = {
            folder / name: content for name, content in files_of(version, pki.load_key(key)).items()
        }
        closed = fileset.replace(files, {folder / PRIVATE_KEY})
    return list(files), closed


def meta(certificate: Certificate, version: CertificateVersion) -> dict[str, object]:
    return {
        "cert_id": certificate.pk,
        "domain": certificate.domain,
        "names": certificate.names,
        "serial_number": version.serial,
        "fingerprint_sha256": version.fingerprint,
        "not_before": version.not_before.isoformat(),
        "not_after": version.not_after.isoformat(),
    }


def zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()
