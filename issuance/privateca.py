"""A CA of the owner's own: the same calls as an ACME CA, no network, no authorizations (contract, section 10)."""

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from django.db import transaction

from accounts import audit, quotas
from certctrl import clock
from certctrl.errors import Invalid, MissingField, RateLimited
from issuance import keyturns, pki
from issuance.models import PrivateCA
from issuance.resources import AccountResource, AuthorizationResource, OrderResource, Refused
from keystore import envelope

PREFIX = "privateca:"
DEFAULT_VALIDITY = timedelta(days=90)
BACKDATED = timedelta(minutes=5)  # for clients whose clock is behind
DEFAULT_CA_DAYS = 3650
MAX_CA_DAYS = 36500
MAX_PATH_LENGTH = 10
RETRY_AFTER = 5  # seconds
MOST_NAMED = 10  # names of a certificate, in the audit event of its signature
CURVE_SIZES = {"prime256v1": 256, "secp256r1": 256, "P-256": 256, "secp384r1": 384, "P-384": 384}
CURVE_NAMES = {256: "prime256v1", 384: "secp384r1"}
TEXT_FIELDS = ("country", "state", "locality", "organization", "organizational_unit", "common_name")
KEY_USAGES = {
    "digitalSignature": "digital_signature",
    "nonRepudiation": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign",
    "cRLSign": "crl_sign",
}
DEFAULT_KEY_USAGE = "keyCertSign,cRLSign"


class PrivateAuthority:
    """One private CA, as `issuance.resources.CA`. The key is unsealed for each signature and kept nowhere."""

    def __init__(self, private_ca: PrivateCA) -> None:
        self.private_ca = private_ca

    def caa_identities(self) -> tuple[str, ...]:
        return ()

    def register(self) -> AccountResource:
        return AccountResource(url=f"{PREFIX}{self.private_ca.pk}", status="valid")

    def profiles(self) -> Mapping[str, str]:
        return {}

    def new_order(self, names: Sequence[str], *, profile: str = "", replaces: str = "") -> OrderResource:
        return self.read_order(f"{PREFIX}{uuid.uuid4()}")

    def read_order(self, url: str) -> OrderResource:
        return OrderResource(url=url, status="ready", finalize_url=url)

    def read_authorization(self, url: str) -> AuthorizationResource:
        raise NotImplementedError("the orders of a private CA have no authorizations")

    def answer(self, challenge_url: str) -> str:
        raise NotImplementedError("the orders of a private CA have no challenges")

    def deactivate(self, authorization_url: str) -> None:
        raise NotImplementedError("the orders of a private CA have no authorizations")

    def finalize(self, order: OrderResource, csr_pem: str) -> OrderResource:
        return OrderResource(url=order.url, status="valid", finalize_url=order.url, certificate_url=order.url)

    def download(
        self,
        certificate_url: str,
        csr_pem: str = "",
        validity_seconds: int | None = None,
        preferred_chain: str = "",
    ) -> str:
        """Sign the CSR: leaf and CA certificate as PEM. A second call signs another one, for the same key."""
        issuer = pki.load_chain(self.private_ca.certificate_pem)[0]
        key = pki.load_key(envelope.unseal(self.private_ca.key))
        request = x509.load_pem_x509_csr(csr_pem.encode())
        _audit(self.private_ca, "used", names=pki.names_of(request)[:MOST_NAMED])
        return sign(request, issuer, key, validity_seconds) + self.private_ca.certificate_pem

    def revoke(self, chain_pem: str, reason: int) -> None:
        """Nothing to do: a private CA publishes no list, so that revoking is a mark on our own row."""

    def offers_renewal_info(self) -> bool:
        return False

    def renewal_info(self, ari_id: str) -> None:
        """It has no opinion: the life of the certificate decides."""


def sign(
    request: x509.CertificateSigningRequest,
    issuer: x509.Certificate,
    issuer_key: pki.PrivateKey,
    validity_seconds: int | None = None,
) -> str:
    """A server certificate for the names of the CSR, as PEM; it never outlives the CA's own certificate."""
    now = clock.now().replace(microsecond=0)
    if issuer.not_valid_after_utc <= now:
        what = (
            f"The private CA {pki.name_of(issuer.subject)} has expired: its certificate was valid until"
            f" {issuer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC. Make a new CA, have its certificate trusted, and give"
            " its certificates an account of the new one (acme_account_id)."
        )
        raise Refused("ca_expired", what, permanent=True)
    validity = timedelta(seconds=validity_seconds) if validity_seconds else DEFAULT_VALIDITY
    names = pki.names_of(request)
    subject = request.subject if list(request.subject) else pki.subject_name({"common_name": names[0]})
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(now + validity, issuer.not_valid_after_utc))
    )
    for extension, critical in _leaf_extensions(request, issuer, names, bool(list(subject))):
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(issuer_key, pki.signature_hash(issuer_key))
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _leaf_extensions(
    request: x509.CertificateSigningRequest, issuer: x509.Certificate, names: Sequence[str], has_subject: bool
) -> list[tuple[x509.ExtensionType, bool]]:
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    usages = {"digital_signature", "key_encipherment"} if _is_rsa(request) else {"digital_signature"}
    return [
        (pki.alternative_names(names), not has_subject),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(usages), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(request.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False),
    ]


def _is_rsa(request: x509.CertificateSigningRequest) -> bool:
    return isinstance(request.public_key(), rsa.RSAPublicKey)


def _key_usage(usages: set[str]) -> x509.KeyUsage:
    names = (*KEY_USAGES.values(), "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in usages for name in names})


def create_private_ca(owner: Any, data: Mapping[str, Any]) -> PrivateCA:
    """A new private CA with its own self-signed certificate, its key sealed.

    `data` has the fields of the contract, section 10; empty strings count as absent, only `name` is needed. Raises
    Invalid or MissingField with the `field`, RateLimited while RSA keys of the owner are being made.
    """
    given = {field: value for field, value in data.items() if value not in ("", None)}
    name = _text(given, "name", 64)
    if not name:
        raise MissingField("Give the CA a name.", field="name")
    subject = {field: _text(given, field, 64) for field in TEXT_FIELDS}
    subject["common_name"] = _common_name(subject["common_name"], name)
    subject["country"] = _country(subject["country"])
    key_type, key_size = _key_kind(given)
    path_length = _whole(given, "max_path_length", None, 0, MAX_PATH_LENGTH)
    days = _whole(given, "valid_days", DEFAULT_CA_DAYS, 1, MAX_CA_DAYS)
    usages = _usages(given)
    key = _new_key(owner, key_type, key_size)
    certificate = _self_signed(key, pki.subject_name(subject), days or DEFAULT_CA_DAYS, path_length, usages)
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
        _audit(private_ca, "created")
    return private_ca


def _audit(private_ca: PrivateCA, done: str, **facts: Any) -> None:
    what = f"private_ca:{private_ca.pk}"
    audit.note(private_ca.owner, f"private_ca.{done}", what, name=private_ca.name, **facts)


def _new_key(owner: Any, key_type: str, key_size: int) -> pki.PrivateKey:
    if key_type != "rsa":
        return pki.new_key(key_type, key_size)
    try:
        with keyturns.turn_of(owner.pk):
            return pki.new_key(key_type, key_size)
    except keyturns.Busy:
        what = f"RSA keys are being made for you already: send it again in {RETRY_AFTER} seconds."
        raise RateLimited(what, retry_after=RETRY_AFTER) from None


def key_usage_of(certificate_pem: str) -> str:
    """The key usages of a CA certificate as the contract spells them: `keyCertSign,cRLSign`."""
    certificate = pki.load_chain(certificate_pem)[0]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    return ",".join(name for name, attribute in KEY_USAGES.items() if getattr(usage, attribute))


def common_name_of(certificate_pem: str) -> str:
    """The common name of a certificate's subject, empty when there is none."""
    found = pki.load_chain(certificate_pem)[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _self_signed(
    key: pki.PrivateKey, subject: x509.Name, days: int, path_length: int | None, usages: set[str]
) -> x509.Certificate:
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
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
        .sign(key, pki.signature_hash(key))
    )


def _text(given: Mapping[str, Any], field: str, most: int) -> str:
    value = given.get(field, "")
    if not isinstance(value, str) or not value.isprintable():
        raise Invalid(f"{field} must be plain text without control characters.", field=field)
    if len(value.strip()) > most:
        raise Invalid(f"{field} may have at most {most} characters.", field=field)
    return value.strip()


def _common_name(given: str, name: str) -> str:
    """The CA's own name where it is given none. X.509 counts bytes: RFC 5280, appendix A.1, ub-common-name."""
    field, common_name = ("common_name", given) if given else ("name", name)
    if len(common_name.encode()) > pki.MAX_COMMON_NAME:
        what = f"{field} is longer than the {pki.MAX_COMMON_NAME} bytes that a certificate has for it (UTF-8)"
        raise Invalid(f"{what}: give a shorter common_name.", field=field)
    return common_name


def _country(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z]{2}", value):
        raise Invalid("country is the two letters of ISO 3166, such as SE.", field="country")
    return value.upper()


def _whole(given: Mapping[str, Any], field: str, default: int | None, least: int, most: int) -> int | None:
    value = given.get(field, default)
    if value is None:
        return None
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value)) or not least <= int(value) <= most:
        raise Invalid(f"{field} must be a whole number from {least} to {most}.", field=field)
    return int(value)


def _key_kind(given: Mapping[str, Any]) -> tuple[str, int]:
    key_type = _text(given, "algorithm", 16).lower() or "ecdsa"
    if key_type not in pki.KEY_SIZES:
        raise Invalid("algorithm must be ECDSA or RSA.", field="algorithm")
    size = _whole(given, "key_size", None, 1, 16384)
    if key_type == "ecdsa":
        return key_type, _curve_size(given, size)
    size = size or pki.RSA_SIZES[-1]
    if size not in pki.RSA_SIZES:
        raise Invalid("key_size of an RSA key must be 2048, 3072 or 4096.", field="key_size")
    return key_type, size


def _curve_size(given: Mapping[str, Any], size: int | None) -> int:
    """The size by `curve_name`, which must not contradict `key_size`; P-256 when neither is given."""
    curve = _text(given, "curve_name", 32)
    if curve and curve not in CURVE_SIZES:
        raise Invalid("curve_name must be prime256v1 or secp384r1.", field="curve_name")
    by_curve = CURVE_SIZES.get(curve, size or 256)
    if by_curve not in CURVE_NAMES or size not in (None, by_curve):
        raise Invalid("key_size of an ECDSA key must be 256 (prime256v1) or 384 (secp384r1).", field="key_size")
    return by_curve


def _usages(given: Mapping[str, Any]) -> set[str]:
    text = _text(given, "key_usage", 200) or DEFAULT_KEY_USAGE
    names = {each.strip() for each in text.split(",")}
    if not names <= set(KEY_USAGES):
        raise Invalid(f"key_usage is a comma list of {', '.join(KEY_USAGES)}.", field="key_usage")
    if "keyCertSign" not in names:
        raise Invalid("key_usage must contain keyCertSign: a CA signs certificates.", field="key_usage")
    return {KEY_USAGES[name] for name in names}
