"""Keys, requests and chains: made as requested, and checked when the CA sends them."""

import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12 as p12
from cryptography.x509.oid import NameOID

from authorities import pki, privateca
from certctrl import clock
from tests import keytool
from tests.keytool import needs_keytool

needs_openssl = pytest.mark.skipif(
    not shutil.which("openssl"), reason="needs Debian's openssl (apt-get install)"
)
NAMES = ["example.com", "*.example.com"]


@pytest.fixture(scope="module")
def key():
    return pki.new_key("ecdsa", 256)


@pytest.fixture(scope="module")
def authority():
    """A CA certificate and its key."""
    own = pki.new_key("ecdsa", 384)
    usages = {"key_cert_sign", "crl_sign"}
    return privateca.self_signed(
        own, pki.subject_name({"common_name": "Test CA"}), 100, 0, usages
    ), own


def issued(key: bytes, authority, names=NAMES, seconds=3600) -> str:
    certificate, own = authority
    request = x509.load_pem_x509_csr(pki.csr(key, names).encode())
    return privateca.sign(request, certificate, own, seconds) + pem(certificate)


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("kind", "size"), [("ecdsa", 256), ("ecdsa", 384), ("rsa", 2048), ("rsa", 3072), ("rsa", 4096)]
)
def test_a_key_has_the_type_and_size_that_was_asked_for(kind, size):
    loaded = pki.new_key(kind, size)
    assert loaded.key_size == size
    assert ("RSA" in type(loaded).__name__) == (kind == "rsa")


@pytest.mark.parametrize(
    ("kind", "size"), [("ecdsa", 521), ("rsa", 1024), ("ed25519", 256), ("rsa", 256)]
)
def test_other_keys_are_not_made(kind, size):
    with pytest.raises(ValueError, match=r"no [a-z0-9]+ keys"):
        pki.new_key(kind, size)


def test_the_request_holds_all_names_and_no_subject(key):
    request = x509.load_pem_x509_csr(pki.csr(key, NAMES).encode())
    assert pki.names_of(request) == NAMES
    assert list(request.subject) == []
    assert names_are_critical(request)
    assert request.is_signature_valid


def names_are_critical(signed) -> bool:
    return signed.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_beside_a_subject_the_names_of_a_request_are_not_critical(key):
    request = x509.load_pem_x509_csr(pki.csr(key, NAMES, {"organization": "Home"}).encode())
    assert not names_are_critical(request)


@pytest.mark.parametrize(("kind", "size"), [("rsa", 4096), ("ecdsa", 256)])
def test_the_key_of_an_envelope_is_the_key_that_was_sealed(kind, size):
    key = pki.new_key(kind, size)
    assert pki.load_key(pki.key_der(key)).public_key() == key.public_key()


@pytest.mark.parametrize(
    ("kind", "size", "subject", "same"),
    [
        ("ecdsa", 256, {"country": "SE", "organization": "Home"}, True),
        ("ecdsa", 384, {"country": "SE", "organization": "Home"}, False),
        ("rsa", 256, {"country": "SE", "organization": "Home"}, False),
        ("ecdsa", 256, {"country": "SE"}, False),
        ("ecdsa", 256, {}, False),
    ],
)
def test_a_csr_is_compared_with_the_expected_key_and_subject(key, kind, size, subject, same):
    request = pki.csr(key, NAMES, {"country": "SE", "organization": "Home"})
    assert pki.is_csr_for(request, kind, size, subject) is same


def test_a_common_name_longer_than_64_is_left_out(key):
    long = "a" * 60 + ".example.com"
    request = x509.load_pem_x509_csr(
        pki.csr(key, [long], {"common_name": long, "organization": "Org"}).encode()
    )
    assert request.subject.get_attributes_for_oid(NameOID.COMMON_NAME) == []
    assert request.subject.rfc4514_string() == "O=Org"


def test_the_chain_that_was_asked_for_is_accepted_and_described(key, authority):
    chain = issued(key, authority)
    facts = pki.check_chain(chain, pki.csr(key, NAMES), reversed(NAMES)).facts
    leaf = pki.load_chain(chain)[0]
    assert int(facts.serial, 16) == leaf.serial_number
    assert facts.not_after == leaf.not_valid_after_utc
    assert len(facts.fingerprint) == 64
    assert pki.facts(chain) == facts


def test_a_leaf_for_another_key_is_refused(key, authority):
    with pytest.raises(pki.WrongKey):
        pki.check_chain(issued(pki.new_key("ecdsa", 256), authority), pki.csr(key, NAMES), NAMES)


def test_a_leaf_that_lacks_a_name_is_refused(key, authority):
    with pytest.raises(pki.BadChain, match=r"lacks requested names \(\*\.example\.com\)\."):
        pki.check_chain(issued(key, authority, NAMES[:1]), pki.csr(key, NAMES), NAMES)


def test_a_name_that_the_ca_added_is_accepted_and_reported(key, authority):
    chain = issued(key, authority, [*NAMES, "www.example.com"])
    assert pki.check_chain(chain, pki.csr(key, NAMES), NAMES).added == ("www.example.com",)
    assert pki.check_chain(issued(key, authority), pki.csr(key, NAMES), NAMES).added == ()


# --- chains as CAs send them ---


@pytest.fixture(scope="module")
def tree(key):
    """A leaf, its issuer, the root, a root that cross-signed that root, and an unrelated root."""
    keys = {
        name: ec.generate_private_key(ec.SECP256R1())
        for name in ("issuing", "root", "older", "stranger")
    }
    made = {
        "issuing": ca_certificate("issuing", keys["issuing"], "root", keys["root"]),
        "root": ca_certificate("root", keys["root"], "root", keys["root"]),
        "cross": ca_certificate("root", keys["root"], "older", keys["older"]),
        "older": ca_certificate("older", keys["older"], "older", keys["older"]),
        "stranger": ca_certificate("stranger", keys["stranger"], "stranger", keys["stranger"]),
    }
    request = x509.load_pem_x509_csr(pki.csr(key, NAMES).encode())
    return {"leaf": privateca.sign(request, made["issuing"], keys["issuing"], 3600)} | {
        name: pem(certificate) for name, certificate in made.items()
    }


@pytest.mark.parametrize(
    ("sent", "path", "left_out"),
    [
        ("leaf issuing", "leaf issuing", ""),
        ("leaf issuing root", "leaf issuing root", ""),
        ("leaf", "leaf", ""),
        ("leaf root issuing", "leaf issuing root", ""),
        ("root issuing leaf", "leaf issuing root", ""),
        ("issuing leaf", "leaf issuing", ""),
        ("leaf issuing stranger", "leaf issuing", "stranger"),
        ("leaf stranger issuing root", "leaf issuing root", "stranger"),
        ("stranger leaf issuing", "leaf issuing", "stranger"),
        ("leaf leaf issuing issuing", "leaf issuing", ""),
        ("leaf issuing cross", "leaf issuing cross", ""),
        ("leaf issuing cross root", "leaf issuing cross", "root"),
        ("leaf issuing root cross older", "leaf issuing cross older", "root"),
        ("leaf issuing older", "leaf issuing", "older"),
    ],
)
def test_a_chain_is_the_path_from_the_leaf_and_the_rest_is_left_out(
    key, tree, sent, path, left_out
):
    chain = pki.check_chain(
        "".join(tree[each] for each in sent.split()), pki.csr(key, NAMES), NAMES
    )
    assert chain.pem == "".join(tree[each] for each in path.split())
    assert chain.left_out == tuple(f"CN={each}" for each in left_out.split())
    assert pki.path_of("".join(tree[each] for each in sent.split())) == chain.pem


@pytest.mark.parametrize("sent", ["leaf stranger", "leaf root", "leaf leaf", "stranger leaf"])
def test_a_leaf_that_leads_nowhere_is_refused(key, tree, sent):
    with pytest.raises(pki.BadChain, match="did not sign"):
        pki.check_chain("".join(tree[each] for each in sent.split()), pki.csr(key, NAMES), NAMES)


def test_authorities_that_signed_each_other_end_a_path_once(key, tree):
    """A bridge: each of the two certified the key of the other."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in "12"]
    one = ca_certificate("one", keys[0], "two", keys[1])
    two = ca_certificate("two", keys[1], "one", keys[0])
    request = x509.load_pem_x509_csr(pki.csr(key, NAMES).encode())
    leaf = privateca.sign(request, one, keys[0], 3600)
    assert pki.check_chain(
        leaf + pem(two) + pem(one), pki.csr(key, NAMES), NAMES
    ).pem == leaf + pem(one) + pem(two)


def ca_certificate(name, own, signed_by, signer) -> x509.Certificate:
    subject, issuer = (pki.subject_name({"common_name": each}) for each in (name, signed_by))
    start = clock.now() - timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(own.public_key())
    )
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    builder = builder.not_valid_after(start + timedelta(days=99)).add_extension(
        x509.BasicConstraints(True, None), True
    )
    own_id = x509.SubjectKeyIdentifier.from_public_key(own.public_key())
    return builder.add_extension(own_id, False).sign(signer, hashes.SHA256())


def test_a_leaf_that_has_expired_is_refused(key, authority):
    with pytest.raises(pki.BadChain, match="expired"):
        pki.check_chain(
            issued(key, authority), pki.csr(key, NAMES), NAMES, at=clock.now() + timedelta(hours=2)
        )


def test_a_chain_whose_issuer_did_not_sign_is_refused(key, authority):
    other = privateca.self_signed(
        pki.new_key("ecdsa", 256),
        pki.subject_name({"common_name": "Test CA"}),
        9,
        0,
        {"key_cert_sign"},
    )
    chain = pki.split_chain(issued(key, authority)).leaf + pem(other)
    with pytest.raises(pki.BadChain, match="did not sign"):
        pki.check_chain(chain, pki.csr(key, NAMES), NAMES)


@pytest.mark.parametrize(
    "text", ["", "<html>", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_pem_without_certificates_is_refused(key, text):
    with pytest.raises(pki.BadChain, match="not PEM"):
        pki.check_chain(text, pki.csr(key, NAMES), NAMES)


def test_an_endless_chain_is_refused(key, authority):
    with pytest.raises(pki.BadChain, match="The limit is 10"):
        pki.check_chain(issued(key, authority) + pem(authority[0]) * 10, pki.csr(key, NAMES), NAMES)


def test_the_parts_of_a_chain_add_up(key, authority):
    chain = issued(key, authority)
    parts = pki.split_chain(chain)
    assert parts.leaf + parts.chain == parts.fullchain == chain
    assert parts.root == pem(authority[0])
    assert pki.split_chain(parts.leaf).root == ""
    assert x509.load_der_x509_certificate(pki.to_der(chain)) == pki.load_chain(chain)[0]


@needs_openssl
@pytest.mark.parametrize(
    ("legacy", "cipher", "digest"),
    [
        (False, "PBES2, PBKDF2, AES-256-CBC", "sha256"),
        (True, "pbeWithSHA1And3-KeyTripleDES-CBC", "sha1"),
    ],
)
def test_the_pkcs12_file_has_the_algorithms_that_were_asked_for(
    key, authority, tmp_path, legacy, cipher, digest
):
    bundle = pki.pkcs12(
        key, issued(key, authority), "example.com", "a one-time word", legacy=legacy
    )
    assert p12.load_pkcs12(bundle, b"a one-time word").cert.friendly_name == b"example.com"
    path = tmp_path / "bundle.p12"
    path.write_bytes(bundle)
    command = [
        "openssl",
        "pkcs12",
        "-legacy",
        "-in",
        path,
        "-info",
        "-noenc",
        "-passin",
        "pass:a one-time word",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert f"MAC: {digest}, Iteration 2048" in shown
    assert f"Shrouded Keybag: {cipher}" in shown
    assert f"PKCS7 Encrypted data: {cipher}" in shown
    assert (
        subprocess.run([*command[:-1], "pass:wrong"], capture_output=True, check=False).returncode
        != 0
    )


@pytest.mark.slow
@needs_keytool
@pytest.mark.parametrize(("kind", "size"), [("rsa", 2048), ("ecdsa", 384)])
@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["10.0.0.7", "fd00::7"], "IPAddress: 10.0.0.7"),
        ([".".join(["a" * 30] * 3)], "SubjectAlternativeName [\n  DNSName: aaaa"),
    ],
    ids=["addresses", "no room for a common name"],
)
def test_java_reads_the_pkcs12_file_of_a_private_ca(authority, tmp_path, kind, size, names, shown):
    key = pki.new_key(kind, size)
    for legacy in (False, True):
        bundle = pki.pkcs12(
            key, issued(key, authority, names), names[0], "a one-time word", legacy=legacy
        )
        said = keytool.listed(bundle, "a one-time word", tmp_path)
        assert "Entry type: PrivateKeyEntry" in said
        assert shown in said
