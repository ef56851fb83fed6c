"""Create a private CA: read the request, and make a self-signed certificate."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.db import transaction

from accounts import audit, quotas
from authorities import pki
from authorities.models import PrivateCA
from authorities.privateca.authority import BACKDATED, KEY_USAGES, _key_usage, _new_key
from certctrl import clock
from certctrl.errors import Invalid, MissingField
from certctrl.sentences import sentence as _
from keystore import envelope

DEFAULT_CA_DAYS = 3650
MAX_CA_DAYS = 36500
MAX_PATH_LENGTH = 10
CURVE_SIZES = {"prime256v1": 256, "secp256r1": 256, "P-256": 256, "secp384r1": 384, "P-384": 384}
CURVE_NAMES = {256: "prime256v1", 384: "secp384r1"}
TEXT_FIELDS = ("country", "state", "locality", "organization", "organizational_unit", "common_name")
DEFAULT_KEY_USAGE = "keyCertSign,cRLSign"


def create_private_ca(owner: Any, data: Mapping[str, Any]) -> PrivateCA:
    """Create a private CA with a self-signed certificate. Its key is sealed.

    `data` has the fields of `PrivateCARequest` (docs/reference/openapi.yaml). Only `name` is
    required. Empty strings count as absent.

    Raise Invalid or MissingField with the `field`. Raise RateLimited while other RSA keys of the
    owner are made. Raise QuotaExceeded when the owner may have no more.
    """
    given = {field: value for field, value in data.items() if value not in ("", None)}
    name = _text(given, "name", 64)
    if not name:
        raise MissingField(_("name is missing. Give the CA a name."), field="name")
    subject = {field: _text(given, field, 64) for field in TEXT_FIELDS}
    subject["common_name"] = _common_name(subject["common_name"], name)
    subject["country"] = _country(subject["country"])
    key_type, key_size = _key_kind(given)
    path_length = _whole(given, "max_path_length", None, 0, MAX_PATH_LENGTH)
    days = _whole(given, "valid_days", DEFAULT_CA_DAYS, 1, MAX_CA_DAYS)
    usages = _usages(given)
    key = _new_key(owner, key_type, key_size)
    certificate = self_signed(
        key, pki.subject_name(subject), days or DEFAULT_CA_DAYS, path_length, usages
    )
    with transaction.atomic():
        quotas.refuse_more(owner, "private_cas")
        private_ca = PrivateCA.objects.create(
            owner=owner,
            name=name,
            subject={field: value for field, value in subject.items() if value},
            algorithm=key_type.upper(),
            key_size=key_size,
            max_path_length=path_length,
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            serial_number=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            key=envelope.seal(owner, "ca_key", pki.key_der(key)),
        )
        audit.note_row(private_ca, "private_ca.created", name=private_ca.name)
    return private_ca


def self_signed(
    key: pki.PrivateKey, subject: x509.Name, days: int, path_length: int | None, usages: set[str]
) -> x509.Certificate:
    """Return a self-signed CA certificate, valid for `days` from now."""
    now = clock.now().replace(microsecond=0)
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(usages), critical=True)
        .add_extension(own_id, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False
        )
        .sign(key, pki.signature_hash(key))
    )


def _text(given: Mapping[str, Any], field: str, most: int) -> str:
    value = given.get(field, "")
    if not isinstance(value, str) or not value.isprintable():
        raise Invalid(
            _("%(field)s must be plain text without control characters.", field=field), field=field
        )
    if len(value.strip()) > most:
        raise Invalid(
            _("%(field)s may have at most %(most)s characters.", field=field, most=most),
            field=field,
        )
    return value.strip()


def _common_name(given: str, name: str) -> str:
    """Return the given common name, or else the CA's name.

    Raise Invalid when it is longer than 64 bytes. X.509 counts bytes: RFC 5280, appendix A.1,
    ub-common-name.
    """
    field, common_name = ("common_name", given) if given else ("name", name)
    if len(common_name.encode()) > pki.MAX_COMMON_NAME:
        what = _(
            "%(field)s is longer than %(max_common_name)s bytes in UTF-8, the most that "
            "a certificate can have.",
            field=field,
            max_common_name=pki.MAX_COMMON_NAME,
        )
        raise Invalid(_("%(what)s Give a shorter common_name.", what=what), field=field)
    return common_name


def _country(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z]{2}", value):
        raise Invalid(
            _("country must be the two letters of ISO 3166, for example SE."), field="country"
        )
    return value.upper()


def _whole(
    given: Mapping[str, Any], field: str, default: int | None, least: int, most: int
) -> int | None:
    value = given.get(field, default)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not re.fullmatch(r"[0-9]{1,9}", str(value))
        or not least <= int(value) <= most
    ):
        raise Invalid(
            _(
                "%(field)s must be a whole number from %(least)s to %(most)s.",
                field=field,
                least=least,
                most=most,
            ),
            field=field,
        )
    return int(value)


def _key_kind(given: Mapping[str, Any]) -> tuple[str, int]:
    key_type = _text(given, "algorithm", 16).lower() or "ecdsa"
    if key_type not in pki.KEY_SIZES:
        raise Invalid(_("algorithm must be ECDSA or RSA."), field="algorithm")
    size = _whole(given, "key_size", None, 1, 16384)
    if key_type == "ecdsa":
        return key_type, _curve_size(given, size)
    size = size or pki.RSA_SIZES[-1]
    if size not in pki.RSA_SIZES:
        raise Invalid(_("key_size of an RSA key must be 2048, 3072 or 4096."), field="key_size")
    return key_type, size


def _curve_size(given: Mapping[str, Any], size: int | None) -> int:
    """Return the size (bits) by `curve_name`, by `key_size`, or 256 without both.

    Raise Invalid when they contradict each other.
    """
    curve = _text(given, "curve_name", 32)
    if curve and curve not in CURVE_SIZES:
        raise Invalid(_("curve_name must be prime256v1 or secp384r1."), field="curve_name")
    by_curve = CURVE_SIZES.get(curve, size or 256)
    if by_curve not in CURVE_NAMES or size not in (None, by_curve):
        raise Invalid(
            _("key_size of an ECDSA key must be 256 (prime256v1) or 384 (secp384r1)."),
            field="key_size",
        )
    return by_curve


def _usages(given: Mapping[str, Any]) -> set[str]:
    text = _text(given, "key_usage", 200) or DEFAULT_KEY_USAGE
    names = {each.strip() for each in text.split(",")}
    if not names <= set(KEY_USAGES):
        raise Invalid(
            _(
                "key_usage must be a comma list of %(key_usages)s.",
                key_usages=", ".join(KEY_USAGES),
            ),
            field="key_usage",
        )
    if "keyCertSign" not in names:
        raise Invalid(
            _("key_usage must contain keyCertSign, because a CA signs certificates."),
            field="key_usage",
        )
    return {KEY_USAGES[name] for name in names}
