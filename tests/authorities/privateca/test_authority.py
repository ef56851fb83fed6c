"""A private CA signs during the request, with the same calls as any other CA."""

import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from accounts.models import User
from authorities import pki, privateca
from authorities.errors import Refused
from authorities.models import PrivateCA
from certctrl import clock
from certctrl.errors import Invalid, MissingField

pytestmark = pytest.mark.django_db
NAMES = ["intranet.example.com", "*.intranet.example.com"]


@pytest.fixture
def owner():
    return User.objects.create_user(email="owner@example.com", password="x" * 12)


def walk(private_ca: PrivateCA, csr_pem: str, seconds: int | None = None) -> str:
    """Make the six calls of the steps."""
    authority = privateca.PrivateAuthority(private_ca)
    assert authority.register().status == "valid"
    order = authority.new_order(NAMES)
    assert (order.status, order.authorizations) == ("ready", ())
    order = authority.finalize(authority.read_order(order.url), csr_pem)
    assert order.status == "valid"
    return authority.download(order.certificate_url, csr_pem=csr_pem, validity_seconds=seconds)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs Debian's openssl (apt-get install)")
@pytest.mark.parametrize("algorithm", ["ECDSA", "RSA"])
def test_it_signs_what_the_request_holds_and_openssl_verifies_it(owner, algorithm, tmp_path):
    private_ca = privateca.create_private_ca(
        owner, {"name": "Home", "algorithm": algorithm, "key_size": ""}
    )
    key = pki.new_key("ecdsa", 256)
    chain = walk(private_ca, pki.csr(key, NAMES), 3600)
    facts = pki.check_chain(chain, pki.csr(key, NAMES), NAMES).facts
    assert abs(facts.not_after - clock.now() - timedelta(hours=1)) < timedelta(seconds=60)
    parts = pki.split_chain(chain)
    (tmp_path / "root.pem").write_text(private_ca.certificate_pem)
    (tmp_path / "leaf.pem").write_text(parts.leaf)
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        NAMES[0],
    ]
    subprocess.run(
        [*command, "-CAfile", tmp_path / "root.pem", tmp_path / "leaf.pem"],
        check=True,
        capture_output=True,
    )


def test_orders_have_different_urls_and_certificates_different_serials(owner):
    private_ca = privateca.create_private_ca(owner, {"name": "Home"})
    authority = privateca.PrivateAuthority(private_ca)
    assert authority.new_order(NAMES).url != authority.new_order(NAMES).url
    request = pki.csr(pki.new_key("ecdsa", 256), NAMES)
    serials = {pki.facts(walk(private_ca, request)).serial for _ in range(2)}
    assert len(serials) == 2
    assert all(len(serial) > 16 for serial in serials)


def test_a_leaf_is_no_ca_and_never_outlives_it(owner):
    private_ca = privateca.create_private_ca(
        owner, {"name": "Home", "valid_days": "7", "max_path_length": 0}
    )
    key = pki.new_key("rsa", 2048)
    leaf = pki.load_chain(walk(private_ca, pki.csr(key, NAMES), 90 * 86400))[0]
    assert leaf.not_valid_after_utc == private_ca.not_after
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (
        True,
        True,
        False,
    )
    assert (
        ExtendedKeyUsageOID.SERVER_AUTH
        in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )


def test_a_ca_that_expired_signs_nothing(owner, time_machine):
    private_ca = privateca.create_private_ca(owner, {"name": "Home", "valid_days": 1})
    time_machine.move_to(clock.now() + timedelta(days=2))
    with pytest.raises(Refused, match="expired at") as caught:
        walk(private_ca, pki.csr(pki.new_key("ecdsa", 256), NAMES))
    assert caught.value.permanent


def test_revoking_is_a_mark_on_our_row_only(owner):
    private_ca = privateca.create_private_ca(owner, {"name": "Home"})
    assert privateca.PrivateAuthority(private_ca).revoke("", 1) is None


def test_every_field_of_the_contract_is_in_the_certificate(owner):
    data = {
        "name": "Root of Home",
        "algorithm": "ECDSA",
        "key_size": 384,
        "curve_name": "secp384r1",
        "country": "se",
        "state": "Skåne",
        "locality": "Lund",
        "organization": "Home",
        "organizational_unit": "Cellar",
        "common_name": "Home Root 1",
        "valid_days": 30,
        "max_path_length": 2,
        "key_usage": "keyCertSign, cRLSign,digitalSignature",
    }
    private_ca = privateca.create_private_ca(owner, data)
    certificate = pki.load_chain(private_ca.certificate_pem)[0]
    subject = certificate.subject.rfc4514_string()
    assert subject == "CN=Home Root 1,OU=Cellar,O=Home,L=Lund,ST=Skåne,C=SE"
    assert privateca.common_name_of(private_ca.certificate_pem) == "Home Root 1"
    assert (
        privateca.key_usage_of(private_ca.certificate_pem) == "digitalSignature,keyCertSign,cRLSign"
    )
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 2)
    assert certificate.public_key().key_size == private_ca.key_size == 384
    assert private_ca.key.purpose == "ca_key"
    assert private_ca.key.policy == "MASTER_ONLY"
    assert b"PRIVATE" not in bytes(private_ca.key.ciphertext)


def test_empty_strings_count_as_absent(owner):
    empty = dict.fromkeys(
        (
            "algorithm",
            "key_size",
            "curve_name",
            "country",
            "valid_days",
            "max_path_length",
            "key_usage",
        ),
        "",
    )
    private_ca = privateca.create_private_ca(owner, empty | {"name": "Home"})
    assert (private_ca.algorithm, private_ca.key_size, private_ca.max_path_length) == (
        "ECDSA",
        256,
        None,
    )
    assert private_ca.not_after - private_ca.not_before > timedelta(days=3649)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algorithm", "DSA"),
        ("key_size", 1024),
        ("key_size", "big"),
        ("key_size", True),
        ("curve_name", "secp256k1"),
        ("country", "Sweden"),
        ("country", "1x"),
        ("valid_days", 0),
        ("valid_days", -1),
        ("valid_days", 10**9),
        ("max_path_length", -1),
        ("max_path_length", 1.5),
        ("key_usage", "cRLSign"),
        ("key_usage", "keyCertSign,everything"),
        ("organization", "o" * 65),
        ("common_name", "a\x00b"),
        ("locality", 5),
        ("name", "n" * 65),
    ],
)
def test_a_wrong_field_is_refused_by_its_name_and_leaves_no_row(owner, field, value):
    with pytest.raises(Invalid) as caught:
        privateca.create_private_ca(owner, {"name": "Home", field: value})
    assert caught.value.params["field"] == field
    assert field in caught.value.what
    assert not PrivateCA.objects.exists()


@pytest.mark.parametrize(
    "extra", [{"key_size": 384, "curve_name": "prime256v1"}, {"algorithm": "RSA", "key_size": 256}]
)
def test_a_size_that_does_not_fit_its_kind_is_refused(owner, extra):
    with pytest.raises(Invalid) as caught:
        privateca.create_private_ca(owner, {"name": "Home"} | extra)
    assert caught.value.params["field"] == "key_size"


def test_a_ca_needs_a_name(owner):
    with pytest.raises(MissingField):
        privateca.create_private_ca(owner, {"name": " "})
