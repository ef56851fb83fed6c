"""Make and read keys, CSRs and chains. Uses no database and no network.

Private keys are objects, and are stored as PKCS#8 DER. Certificates and CSRs are PEM. Standards:
RFC 5280, RFC 2986, and RFC 7292 with RFC 9579 for PKCS#12.
"""

import base64
import hashlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12 as p12
from cryptography.x509.oid import NameOID

from certctrl import clock
from certctrl.sentences import first_of
from certctrl.sentences import sentence as _

CURVES: Mapping[int, ec.EllipticCurve] = {256: ec.SECP256R1(), 384: ec.SECP384R1()}
RSA_SIZES = (2048, 3072, 4096)
KEY_SIZES: Mapping[str, tuple[int, ...]] = {"ecdsa": tuple(CURVES), "rsa": RSA_SIZES}
MAX_COMMON_NAME = 64
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737, section 6.1
MAX_CHAIN = 10
CAP_TOLERANCE = timedelta(hours=1)
END_OF_PEM = "-----END CERTIFICATE-----"
# OpenSSL's default. More rounds only slow down guessing, which the random password makes impossible
# anyway. They would also stop every other thread for half a second.
PKCS12_ROUNDS = 2048

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

SUBJECT_OIDS: Mapping[str, x509.ObjectIdentifier] = {
    "country": NameOID.COUNTRY_NAME,
    "state": NameOID.STATE_OR_PROVINCE_NAME,
    "locality": NameOID.LOCALITY_NAME,
    "organization": NameOID.ORGANIZATION_NAME,
    "organizational_unit": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "common_name": NameOID.COMMON_NAME,
}


class BadChain(ValueError):
    """The CA sent a chain that does not match the request.

    The message is a sentence for a person.
    """


class WrongKey(BadChain):
    """The certificate is for another CSR, because somebody else finalized the same order."""


@dataclass(frozen=True)
class Facts:
    """The facts about a leaf that are stored beside its PEM."""

    serial: str  # lower-case hex
    not_before: datetime
    not_after: datetime
    fingerprint: str  # SHA-256 of the DER, hex
    # The common name of the issuer, or its whole name without one; at most 255 characters.
    issuer: str
    # The identifier of RFC 9773, section 4.1; empty when the leaf has no authority key identifier.
    ari_id: str


@dataclass(frozen=True)
class Cap:
    """The CA whose expiry limits the life of a leaf."""

    issuer: str  # its name, as in Facts
    ends: datetime


@dataclass(frozen=True)
class Chain:
    """A checked chain: the path from the leaf as PEM, and what differs from the request."""

    pem: str
    facts: Facts
    added: tuple[str, ...]  # names that the owner did not ask for
    left_out: tuple[str, ...]  # subjects of certificates outside the path from the leaf


@dataclass(frozen=True)
class ChainParts:
    """The parts of a chain for export, as PEM.

    `chain` is every certificate except the leaf. `root` is the last certificate when it is
    self-signed.
    """

    leaf: str
    chain: str
    fullchain: str
    root: str


def new_key(key_type: str, key_size: int) -> PrivateKey:
    """Return a new private key: `ecdsa` 256 or 384, `rsa` 2048, 3072 or 4096.

    Raise ValueError for any other key type or size (bits).
    """
    if key_size not in KEY_SIZES.get(key_type, ()):
        raise ValueError(f"no {key_type} keys of {key_size} bits")
    if key_type == "ecdsa":
        return ec.generate_private_key(CURVES[key_size])
    return rsa.generate_private_key(public_exponent=65537, key_size=key_size)


def load_key(key: bytes) -> PrivateKey:
    """Return the private key from PKCS#8 DER. Raise ValueError when it is neither ECDSA nor RSA.

    Call this only for keys that this server made and that AES-GCM has authenticated. Do not call
    this for a key from a person, because it skips OpenSSL's check of RSA keys. That check takes
    half a second for 4096 bits, and stops every other thread meanwhile.
    """
    loaded = serialization.load_der_private_key(
        key, password=None, unsafe_skip_rsa_key_validation=True
    )
    if not isinstance(loaded, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the key is neither ECDSA nor RSA")
    return loaded


def key_der(key: PrivateKey) -> bytes:
    """Return the key as PKCS#8 DER, not encrypted. The keystore seals it in this form."""
    return _pkcs8(key, serialization.Encoding.DER)


def key_pem(key: PrivateKey) -> str:
    """Return the key as PKCS#8 PEM, not encrypted."""
    return _pkcs8(key, serialization.Encoding.PEM).decode()


def _pkcs8(key: PrivateKey, encoding: serialization.Encoding) -> bytes:
    return key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def subject_name(subject: Mapping[str, str]) -> x509.Name:
    """Return an X.500 name from the fields of SUBJECT_OIDS.

    Empty fields are left out. A common name longer than 64 characters is left out too.
    """
    given = {field: value for field, value in subject.items() if value}
    if len(given.get("common_name", "")) > MAX_COMMON_NAME:
        del given["common_name"]
    return x509.Name(
        [
            x509.NameAttribute(oid, given[field])
            for field, oid in SUBJECT_OIDS.items()
            if field in given
        ]
    )


def csr(key: PrivateKey, names: Sequence[str], subject: Mapping[str, str] | None = None) -> str:
    """Return a certificate request as PEM, with all names in its subjectAltName.

    Public CAs ignore the subject. Without a subject, the extension is critical, as RFC 5280,
    section 4.2.1.6, requires of certificates. Some CAs copy the request, and Java rejects a
    certificate that breaks this rule.
    """
    own = subject_name(subject or {})
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(own)
        .add_extension(alternative_names(names), critical=not list(own))
        .sign(key, signature_hash(key))
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


def load_csr(csr_pem: str) -> x509.CertificateSigningRequest:
    return x509.load_pem_x509_csr(csr_pem.encode())


def acme_tls_certificate(name: str, key_authorization: str) -> tuple[str, str]:
    """Return the certificate for a tls-alpn-01 challenge, and its key, as PEM.

    It proves the challenge and nothing else (RFC 8737, section 3; RFC 8738, section 6). `name` is a
    host name or an IP address.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    digest = hashlib.sha256(key_authorization.encode()).digest()
    proof = x509.UnrecognizedExtension(ACME_IDENTIFIER, b"\x04\x20" + digest)  # an OCTET STRING
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "acme-tls/1")])
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(alternative_names([name]), critical=False)
        .add_extension(proof, critical=True)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode()


def alternative_names(names: Iterable[str]) -> x509.SubjectAlternativeName:
    """Return the subjectAltName with these DNS names and IP addresses."""
    return x509.SubjectAlternativeName([_general_name(name) for name in names])


def _general_name(name: str) -> x509.GeneralName:
    is_host = not is_address(name)
    return x509.DNSName(name) if is_host else x509.IPAddress(ipaddress.ip_address(name))


def is_address(name: str) -> bool:
    """Return whether a name of a certificate is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_csr_for(csr_pem: str, key_type: str, key_size: int, subject: Mapping[str, str]) -> bool:
    """Return whether the request has this key type, size (bits), and exactly this subject."""
    request = x509.load_pem_x509_csr(csr_pem.encode())
    key = request.public_key()
    found = "rsa" if isinstance(key, rsa.RSAPublicKey) else "ecdsa"
    return (found, getattr(key, "key_size", 0), request.subject) == (
        key_type,
        key_size,
        subject_name(subject),
    )


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """Return SHA-384 for a P-384 key, SHA-256 for any other key."""
    is_384 = isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size == 384
    return hashes.SHA384() if is_384 else hashes.SHA256()


def load_chain(chain_pem: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM chain, leaf first.

    Raise BadChain when the text has no certificate, a broken one, or more than 10.
    """
    try:
        chain = x509.load_pem_x509_certificates(chain_pem.encode())
    except ValueError:
        raise BadChain(
            _("The CA sent a chain that is not PEM certificates. Tell the CA.")
        ) from None
    if len(chain) > MAX_CHAIN:
        raise BadChain(
            _(
                "The CA sent a chain of %(count)s certificates. The limit is %(max_chain)s. "
                "Tell the CA.",
                count=len(chain),
                max_chain=MAX_CHAIN,
            )
        )
    return chain


def check_chain(
    chain_pem: str, csr_pem: str, names: Iterable[str], at: datetime | None = None
) -> Chain:
    """Check the chain of a certificate that was asked for, and return it.

    The leaf must have the key of the CSR and all `names`. It must not be expired at `at` (default:
    now). Some CAs add a name, send unrelated certificates, or change their order. That is accepted,
    and shown in the result.

    Raise WrongKey when no certificate has the key of the CSR, BadChain for any other fault.
    """
    certificates = load_chain(chain_pem)
    key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
    leaf = next((each for each in certificates if _key_of(each) == key), None)
    if leaf is None:
        raise WrongKey(_("The certificate has another key than the request. Tell the CA."))
    added = _added_names(leaf, set(names))
    _check_times(leaf, at or clock.now())
    path = _path(leaf, certificates)
    left_out = tuple(_subject(each) for each in dict.fromkeys(certificates) if each not in path)
    return Chain("".join(map(_pem, path)), _facts(leaf), added, left_out)


def _added_names(leaf: x509.Certificate, names: set[str]) -> tuple[str, ...]:
    found = set(names_of(leaf))
    if missing := sorted(names - found):
        raise BadChain(
            _(
                "The certificate lacks requested names (%(listed)s). Tell the CA.",
                listed=first_of(missing, 5),
            )
        )
    return tuple(sorted(found - names))


def _check_times(leaf: x509.Certificate, at: datetime) -> None:
    if leaf.not_valid_before_utc >= leaf.not_valid_after_utc:
        raise BadChain(_("The certificate ends before it begins. Tell the CA."))
    if leaf.not_valid_after_utc <= at:
        raise BadChain(
            _(
                "The certificate has already expired, at %(not_valid_after_utc)s UTC. Tell the CA.",
                not_valid_after_utc=format(leaf.not_valid_after_utc, "%Y-%m-%d %H:%M"),
            )
        )


def path_of(chain_pem: str) -> str:
    """Return the path from the leaf as PEM. The leaf is the first certificate that is not a CA's.

    Raise BadChain when there is no path.
    """
    certificates = load_chain(chain_pem)
    leaf = next((each for each in certificates if not _is_ca(each)), certificates[0])
    return "".join(map(_pem, _path(leaf, certificates)))


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _path(
    leaf: x509.Certificate, certificates: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """Return the leaf and its issuers, in order, from the certificates that the CA sent.

    A leaf alone is a path when the CA sent nothing else. When cross-signed certificates make a
    longer path than the root, the longer path is taken.
    """
    others = [each for each in dict.fromkeys(certificates) if each != leaf]
    path = max(_paths(leaf, others), key=_worth)
    if len(path) == 1 and len(certificates) > 1 and not _signed(leaf, leaf):
        subject = _subject(next(iter(others), leaf))
        raise BadChain(
            _(
                "The chain is broken, because %(subject)s did not sign the certificate "
                "before it. Tell the CA.",
                subject=subject,
            )
        )
    return path


def _worth(path: Sequence[x509.Certificate]) -> tuple[bool, int]:
    now = clock.now()
    return all(each.not_valid_after_utc > now for each in path), len(path)


def _key_of(certificate: x509.Certificate) -> object:
    """Return the public key; None when the library does not know that kind of key."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None


def _paths(
    certificate: x509.Certificate, others: Sequence[x509.Certificate]
) -> Iterator[list[x509.Certificate]]:
    """Yield every path from the certificate.

    An issuer key occurs once in a path, to avoid circles.
    """
    found = False
    for issuer in others:
        if _signed(certificate, issuer):
            found = True
            key = _key_of(issuer)
            further = [each for each in others if _key_of(each) != key]
            yield from ([certificate, *above] for above in _paths(issuer, further))
    if not found:
        yield [certificate]


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:200]


def names_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> list[str]:
    """Return the DNS names and IP addresses of the subjectAltName, in lower case.

    Return an empty list without that extension.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    wanted = (each for each in extension.value if isinstance(each, x509.DNSName | x509.IPAddress))
    return [str(each.value).lower() for each in wanted]


def facts_of_der(der: bytes) -> Facts:
    """Return the facts about a certificate in DER. Raise ValueError if it cannot be read."""
    return _facts(x509.load_der_x509_certificate(der))


def _facts(leaf: x509.Certificate) -> Facts:
    return Facts(
        serial=f"{leaf.serial_number:x}",
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        issuer=name_of(leaf.issuer),
        ari_id=ari_id(leaf),
    )


def name_of(name: x509.Name) -> str:
    """Return the common name, or the whole name as RFC 4514 writes it; at most 255 characters."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return (str(common[0].value) if common else name.rfc4514_string())[:255]


def ari_id(leaf: x509.Certificate) -> str:
    """Return the certificate's identifier of RFC 9773, section 4.1; empty without an authority key.

    Format: base64url(authority key identifier) "." base64url(serial number as in DER).
    """
    try:
        authority = leaf.extensions.get_extension_for_class(
            x509.AuthorityKeyIdentifier
        ).value.key_identifier
    except x509.ExtensionNotFound:
        authority = None
    if not authority:
        return ""
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (authority, serial)
    )


def issuers_of(chain_pem: str) -> list[str]:
    """Return the names of the issuers in a chain, leaf first (see `name_of`). Raise BadChain."""
    return [name_of(certificate.issuer) for certificate in load_chain(chain_pem)]


def key_kind(chain_pem: str) -> tuple[str, int]:
    """Return type and size (bits) of the leaf's key, as `new_key` takes them.

    For any other kind of key, the type is empty and the size is 0. Raise BadChain.
    """
    key = load_chain(chain_pem)[0].public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "ecdsa", key.key_size
    return ("rsa", key.key_size) if isinstance(key, rsa.RSAPublicKey) else ("", 0)


def same_key(pem: str, other_pem: str) -> bool:
    """Return whether two PEM texts, chains or CSRs, have the same public key."""
    return _public_key(pem) == _public_key(other_pem)


def _public_key(pem: str) -> object:
    if "CERTIFICATE REQUEST" in pem:
        return x509.load_pem_x509_csr(pem.encode()).public_key()
    return load_chain(pem)[0].public_key()


def facts(chain_pem: str) -> Facts:
    """Return the facts about a chain's leaf, without any check of the chain."""
    return _facts(load_chain(chain_pem)[0])


def cap_of(chain_pem: str) -> Cap | None:
    """Return the leaf's issuer when that certificate limits the life of the leaf.

    That is so when the leaf expires less than an hour before its issuer, or later. Return None when
    the leaf expires earlier, or when the chain lacks the issuer.
    """
    leaf, *above = load_chain(chain_pem)
    issuer = next((each for each in above if each.subject == leaf.issuer), None)
    if not issuer or issuer.not_valid_after_utc - leaf.not_valid_after_utc > CAP_TOLERANCE:
        return None
    return Cap(name_of(issuer.subject), issuer.not_valid_after_utc)


def may_be_capped(chain_pem: str, not_after: datetime) -> bool:
    """Return whether cap_of() may return an issuer for a leaf that expires at `not_after`.

    It is for lists. Most chains have the same certificates above their leaves, and these are parsed
    once. Raise BadChain.
    """
    end = _first_end(chain_pem.partition(END_OF_PEM)[2].strip())
    return end is not None and end - not_after <= CAP_TOLERANCE


@lru_cache(maxsize=100)
def _first_end(chain_pem: str) -> datetime | None:
    """Return when the first of these certificates expires, or None when there is none."""
    above = load_chain(chain_pem) if chain_pem else []
    return min((each.not_valid_after_utc for each in above), default=None)


def split_chain(chain_pem: str) -> ChainParts:
    """Split a chain into parts for export. `root` is empty when the CA did not send the root."""
    pems = [_pem(certificate) for certificate in load_chain(chain_pem)]
    last = load_chain(chain_pem)[-1]
    root = pems[-1] if len(pems) > 1 and last.subject == last.issuer else ""
    return ChainParts(leaf=pems[0], chain="".join(pems[1:]), fullchain="".join(pems), root=root)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def to_der(pem: str) -> bytes:
    """Return the first certificate of a PEM text as DER. Raise BadChain."""
    return load_chain(pem)[0].public_bytes(serialization.Encoding.DER)


def pkcs12(
    key: PrivateKey, chain_pem: str, friendly_name: str, password: str, *, legacy: bool = False
) -> bytes:
    """Return a PKCS#12 file with key and chain.

    The file uses PBES2 with AES-256 and a MAC of SHA-256. These versions and newer ones read it:
    OpenSSL 1.1, Java 8u301, Windows Server 2019, recent macOS. With `legacy` it uses PBES1 with
    triple DES and a MAC of SHA-1, for older systems.
    """
    chain = load_chain(chain_pem)
    builder = serialization.PrivateFormat.PKCS12.encryption_builder().kdf_rounds(PKCS12_ROUNDS)
    if legacy:
        builder = builder.key_cert_algorithm(p12.PBES.PBESv1SHA1And3KeyTripleDESCBC).hmac_hash(
            hashes.SHA1()  # noqa: S303  (older systems read nothing else)
        )
    else:
        builder = builder.key_cert_algorithm(p12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(
            hashes.SHA256()
        )
    encryption = builder.build(password.encode())
    return p12.serialize_key_and_certificates(
        friendly_name.encode(), key, chain[0], chain[1:], encryption
    )
