"""A private CA. It has the same calls as an ACME CA, but no network and no authorizations."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from accounts import audit
from authorities import keyqueue, pki
from authorities.base import AccountResource, AuthorizationResource, OrderResource
from authorities.errors import Refused
from authorities.models import PrivateCA
from certctrl import clock
from certctrl.errors import RateLimited
from certctrl.sentences import sentence as _
from keystore import envelope

PREFIX = "privateca:"
DEFAULT_VALIDITY = timedelta(days=90)
BACKDATED = timedelta(minutes=5)  # for clients whose clock is slow
RETRY_AFTER = 5  # seconds
MOST_NAMED = 10  # names of a certificate in the audit event
KEY_USAGES = {
    "digitalSignature": "digital_signature",
    "nonRepudiation": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign",
    "cRLSign": "crl_sign",
}


class PrivateAuthority:
    """One private CA. It implements `authorities.base.CA`.

    The key is unsealed for each signature, and is not kept.
    """

    def __init__(self, private_ca: PrivateCA) -> None:
        self.private_ca = private_ca

    def caa_identities(self) -> tuple[str, ...]:
        return ()

    def register(self) -> AccountResource:
        return AccountResource(url=f"{PREFIX}{self.private_ca.pk}", status="valid")

    def profiles(self) -> Mapping[str, str]:
        return {}

    def prepare(self) -> None:
        """Do nothing. A private CA has no directory and no nonces."""

    def new_order(
        self, names: Sequence[str], *, profile: str = "", replaces: str = ""
    ) -> OrderResource:
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
        return OrderResource(
            url=order.url, status="valid", finalize_url=order.url, certificate_url=order.url
        )

    def download(
        self,
        certificate_url: str,
        csr_pem: str = "",
        validity_seconds: int | None = None,
        preferred_chain: str = "",
    ) -> str:
        """Sign the CSR. Return leaf and CA certificate as PEM.

        A second call signs another certificate for the same key.
        """
        issuer = pki.load_chain(self.private_ca.certificate_pem)[0]
        key = pki.load_key(envelope.unseal(self.private_ca.key))
        request = x509.load_pem_x509_csr(csr_pem.encode())
        audit.note_row(
            self.private_ca,
            "private_ca.used",
            name=self.private_ca.name,
            names=pki.names_of(request)[:MOST_NAMED],
        )
        return sign(request, issuer, key, validity_seconds) + self.private_ca.certificate_pem

    def revoke(self, chain_pem: str, reason: int) -> None:
        """Do nothing.

        A private CA publishes no CRL, so only this server's row is marked as revoked.
        """

    def offers_renewal_info(self) -> bool:
        return False

    def renewal_info(self, ari_id: str) -> None:
        """Return None. The lifetime of the certificate decides when it is renewed."""


def sign(
    request: x509.CertificateSigningRequest,
    issuer: x509.Certificate,
    issuer_key: pki.PrivateKey,
    validity_seconds: int | None = None,
) -> str:
    """Sign a TLS certificate for the names of the CSR, and return it as PEM.

    It never expires after the CA's own certificate. Raise Refused when that has expired.
    """
    now = clock.now().replace(microsecond=0)
    if issuer.not_valid_after_utc <= now:
        what = _(
            "The private CA %(name_of)s expired at %(not_valid_after_utc)s UTC. Create a "
            "new CA, and install its certificate where the old one is trusted. Then give "
            "the certificates an account of the new CA (acme_account_id).",
            name_of=pki.name_of(issuer.subject),
            not_valid_after_utc=format(issuer.not_valid_after_utc, "%Y-%m-%d %H:%M"),
        )
        raise Refused("ca_expired", what, permanent=True)
    validity = timedelta(seconds=validity_seconds) if validity_seconds else DEFAULT_VALIDITY
    names = pki.names_of(request)
    subject = (
        request.subject if list(request.subject) else pki.subject_name({"common_name": names[0]})
    )
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
    request: x509.CertificateSigningRequest,
    issuer: x509.Certificate,
    names: Sequence[str],
    has_subject: bool,
) -> list[tuple[x509.ExtensionType, bool]]:
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    usages = (
        {"digital_signature", "key_encipherment"} if _is_rsa(request) else {"digital_signature"}
    )
    return [
        (pki.alternative_names(names), not has_subject),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(usages), True),
        (
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            False,
        ),
        (x509.SubjectKeyIdentifier.from_public_key(request.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), False),
    ]


def _is_rsa(request: x509.CertificateSigningRequest) -> bool:
    return isinstance(request.public_key(), rsa.RSAPublicKey)


def _key_usage(usages: set[str]) -> x509.KeyUsage:
    names = (*KEY_USAGES.values(), "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in usages for name in names})


def _new_key(owner: Any, key_type: str, key_size: int) -> pki.PrivateKey:
    if key_type != "rsa":
        return pki.new_key(key_type, key_size)
    try:
        with keyqueue.one_at_a_time(owner.pk):
            return pki.new_key(key_type, key_size)
    except keyqueue.Busy:
        what = _(
            "This server is already generating RSA keys for you. Send it again in "
            "%(retry_after)s seconds.",
            retry_after=RETRY_AFTER,
        )
        raise RateLimited(what, retry_after=RETRY_AFTER) from None


def key_usage_of(certificate_pem: str) -> str:
    """Return the key usages of a CA certificate as in the API. Example: `keyCertSign,cRLSign`."""
    certificate = pki.load_chain(certificate_pem)[0]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    return ",".join(name for name, attribute in KEY_USAGES.items() if getattr(usage, attribute))


def common_name_of(certificate_pem: str) -> str:
    """Return the common name of a certificate's subject; empty when there is none."""
    found = pki.load_chain(certificate_pem)[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""
