"""Opening the materials of a certificate, and the files that are made of them."""

import base64
import json
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from nacl.public import PrivateKey

from certctrl_agent.errors import MaterialError
from certctrl_agent.materials import CERTIFICATE_FILES, Chain, Material, ca_files
from tests.agent.pki import b64

DEVICE = PrivateKey.generate()
PK = bytes(DEVICE.public_key)


def test_a_sealed_key_is_opened_and_matches(authority) -> None:
    issued = authority.issue()
    material = Material.of(issued.detail, issued.sealed(PK), DEVICE)
    assert material.files()["private.key"].decode() == issued.key_pem
    assert material.chain.serial == issued.serial


@pytest.mark.parametrize("scheme", ["plaintext", 0])
def test_a_plaintext_bundle_is_accepted(authority, scheme) -> None:
    issued = authority.issue()
    bundle = issued.plain() | {"enc_scheme": scheme}
    assert (
        Material.of(issued.detail, bundle, DEVICE).files()["private.key"] == issued.key_pem.encode()
    )


def test_a_plaintext_key_may_be_pem(authority) -> None:
    issued = authority.issue(is_rsa=True)
    bundle = {"enc_scheme": "plaintext", "private_key_pem": issued.key_pem}
    assert Material.of({"certificate": issued.detail}, bundle, DEVICE).chain.leaf == issued.leaf


def test_a_key_of_another_certificate_is_refused(authority) -> None:
    issued, other = authority.issue(), authority.issue()
    with pytest.raises(MaterialError, match="does not match") as caught:
        Material.of(issued.detail, other.sealed(PK), DEVICE)
    assert "BEGIN" not in str(caught.value)


def test_a_bundle_for_another_device_key_is_refused(authority) -> None:
    issued = authority.issue()
    other = bytes(PrivateKey.generate().public_key)
    with pytest.raises(MaterialError, match="another key than that of this device"):
        Material.of(issued.detail, issued.sealed(other), DEVICE)


def test_a_bundle_without_fingerprint_is_opened(authority) -> None:
    issued = authority.issue()
    bundle = issued.sealed(PK)
    del bundle["device_keyfp_b64"]
    assert Material.of(issued.detail, bundle, DEVICE).chain.serial == issued.serial


@pytest.mark.parametrize(
    "name", ["enc_data_key_b64", "enc_privkey_b64", "privkey_nonce_b64", "privkey_tag_b64"]
)
def test_a_bundle_with_a_changed_bit_never_opens(authority, name) -> None:
    issued = authority.issue()
    bundle = issued.sealed(PK)
    raw = bytearray(base64.b64decode(bundle[name]))
    raw[0] ^= 1
    with pytest.raises(MaterialError, match="cannot be opened"):
        Material.of(issued.detail, bundle | {name: b64(bytes(raw))}, DEVICE)


@pytest.mark.parametrize(
    "changes",
    [
        {"enc_scheme": "rot13"},
        {"enc_data_key_b64": b64(bytes(48))},
        {"privkey_tag_b64": b64(bytes(12))},
        {"privkey_nonce_b64": "%"},
        {"enc_privkey_b64": None},
    ],
)
def test_a_malformed_bundle_is_refused(authority, changes) -> None:
    issued = authority.issue()
    with pytest.raises(MaterialError):
        Material.of(issued.detail, issued.sealed(PK, **changes), DEVICE)


@pytest.mark.parametrize("detail", [{}, [], {"cert": "no PEM"}, {"cert": 7}, None])
def test_a_detail_without_certificate_is_refused(detail) -> None:
    with pytest.raises(MaterialError):
        Chain.of(detail)


def test_the_chain_may_be_in_its_own_member(authority) -> None:
    issued = authority.issue()
    detail = {"certificate_pem": issued.pem, "chain_pem": issued.fullchain[len(issued.pem) :]}
    assert Chain.of(detail).certificates == (issued.leaf, issued.root)


def test_every_file_is_made_on_the_device(authority) -> None:
    issued = authority.issue()
    files = Material.of(issued.detail, issued.sealed(PK), DEVICE).files()
    assert tuple(files) == CERTIFICATE_FILES
    assert files["fullchain.pem"].decode() == issued.fullchain
    assert files["certificate.pem"] + files["chain.pem"] == files["fullchain.pem"]
    assert x509.load_der_x509_certificate(files["certificate.der"]) == issued.leaf
    assert json.loads(files["meta.json"])["names"] == ["www.example.com"]
    key, leaf, issuers = pkcs12.load_key_and_certificates(files["bundle.pfx"], None)
    assert (leaf, issuers) == (issued.leaf, [issued.root])
    assert key.public_key() == issued.key.public_key()


def test_openssl_reads_the_pfx_with_its_password(authority, tmp_path) -> None:
    issued = authority.issue()
    files = Material.of(issued.detail, issued.sealed(PK), DEVICE).files(b"pfx secret")
    path = tmp_path / "bundle.pfx"
    path.write_bytes(files["bundle.pfx"])
    call = ["openssl", "pkcs12", "-in", path, "-nodes", "-nocerts", "-passin", "pass:pfx secret"]
    printed = subprocess.run(call, check=True, capture_output=True).stdout
    key = serialization.load_pem_private_key(printed, None)
    assert key.public_key() == issued.key.public_key()


def test_the_files_of_a_ca(authority) -> None:
    pem = authority.root.public_bytes(serialization.Encoding.PEM)
    files = ca_files({"ca_certificate_pem": pem.decode()})
    assert files["ca.pem"] == pem
    assert x509.load_der_x509_certificate(files["ca.der"]) == authority.root
