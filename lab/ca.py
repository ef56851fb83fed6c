"""The lab's ACME CA: acme2certifier under granian, on loopback, with its own root and issuing CA.

    python -m lab.ca --data DIR --listen 127.0.0.1:PORT --resolver 127.0.0.1:DNSPORT [--python PATH]

This module prepares DIR once, and then becomes the CA. acme2certifier is GPL. So it runs as a
separate process in its own environment, and is never imported here. That environment is
`.venv-lab`, made from requirements/lab.txt.

Clients trust DIR/lab-root.pem, for issued certificates and for the CA's own HTTPS.
"""

import argparse
import contextlib
import datetime
import ipaddress
import os
import sqlite3
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PROJECT = Path(__file__).resolve().parent.parent
PYTHON = PROJECT / ".venv-lab" / "bin" / "python"
SITE = PROJECT / "lab" / "a2c"
TEN_YEARS = datetime.timedelta(days=3650)

# acme2certifier appends the issuing CA itself. In ca_cert_chain_list it would appear twice.
CONFIG = """\
[DEFAULT]
debug: False
server_name: {listen}
dns_server_list: ["{resolver_host}"]

[Nonce]
nonce_check_disable: False

[DBhandler]
handler: wsgi
dbfile: {data}/acme.sqlite3

[CAhandler]
handler_module: acme2certifier.cahandlers.openssl_ca_handler
issuing_ca_key: {data}/issuing.key
issuing_ca_cert: {data}/issuing.pem
issuing_ca_crl: {data}/crl.pem
cert_save_path: {data}/issued
ca_cert_chain_list: []
cert_validity_days: 90

[Challenge]
challenge_validation_disable: False
dns_validation_pause_timer: 0

[Certificate]
revocation_reason_check_disable: False

[Order]
tnauthlist_support: False
"""


class Authority:
    """A CA certificate and its key. Without an issuer it is self-signed."""

    def __init__(self, name: str, issuer: "Authority | None" = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer or self
        usage = key_usage(key_cert_sign=True, crl_sign=True)
        self.certificate = (
            signer.draft(self.subject, self.key.public_key())
            .add_extension(
                x509.BasicConstraints(ca=True, path_length=0 if issuer else 1), critical=True
            )
            .add_extension(usage, critical=True)
            .sign(signer.key, hashes.SHA256())
        )

    def draft(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        """Return a builder with the parts that all certificates of this authority share."""
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + TEN_YEARS)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )

    def server_certificate(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """Return the certificate for the CA's own HTTPS, for localhost and 127.0.0.1."""
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        return (
            self.draft(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key.public_key()
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def key_usage(**granted: bool) -> x509.KeyUsage:
    """Return a KeyUsage with only the named usages."""
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**(dict.fromkeys(every.split(), False) | granted))


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)


def make_authorities(data: Path) -> None:
    """Create the root, the issuing CA and the TLS certificate.

    The file of the root is written last. It shows that all files exist.
    """
    root = Authority("certctrl lab root")
    issuing = Authority("certctrl lab issuing CA", issuer=root)
    server_key = ec.generate_private_key(ec.SECP256R1())
    write_key(data / "issuing.key", issuing.key)
    write_certificate(data / "issuing.pem", issuing.certificate)
    write_key(data / "tls.key", server_key)
    write_certificate(data / "tls.pem", root.server_certificate(server_key))
    write_certificate(data / "lab-root.pem", root.certificate)


def is_usable(data: Path) -> bool:
    """Return whether the CA can start with the files in the folder.

    False when a file is damaged, for example by a power loss. False when the root is not valid yet,
    because the clock was ahead when the root was made.
    """
    root = data / "lab-root.pem"
    # The first start, or one that ended before all files existed.
    if not root.exists():
        return True
    try:
        for name in ("issuing", "tls"):
            serialization.load_pem_private_key((data / f"{name}.key").read_bytes(), None)
            x509.load_pem_x509_certificate((data / f"{name}.pem").read_bytes())
        begins = x509.load_pem_x509_certificate(root.read_bytes()).not_valid_before_utc
        return begins <= datetime.datetime.now(datetime.UTC) and is_sound(data / "acme.sqlite3")
    except (OSError, ValueError, TypeError):
        return False


def is_sound(database: Path) -> bool:
    """Return whether SQLite finds no error in the database, or there is no database yet."""
    if not database.exists():
        return True
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False


def set_aside(data: Path) -> None:
    """Rename the folder.

    The next start creates another root, and accounts register again by themselves.
    """
    aside = data.with_name(
        f"{data.name}.damaged-{int(datetime.datetime.now(datetime.UTC).timestamp())}"
    )
    data.rename(aside)
    print(
        f"The lab's CA cannot start with its files. They are in {aside} now, and it starts "
        "with new ones.",
        file=sys.stderr,
    )


def prepare(data: Path, listen: str, resolver: str) -> None:
    """Create the missing files and write the configuration again.

    The ports may have changed.
    """
    if data.exists() and not is_usable(data):
        set_aside(data)
    (data / "issued").mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    if not (data / "lab-root.pem").exists():
        make_authorities(data)
    host = resolver.rpartition(":")[0]
    (data / "acme_srv.cfg").write_text(CONFIG.format(data=data, listen=listen, resolver_host=host))


def command(python: Path, data: Path, listen: str) -> list[str]:
    """Return the command that runs granian with one worker and one thread.

    That is the fastest here, because SQLite has one writer at a time.
    """
    host, _, port = listen.rpartition(":")
    return [
        *(str(python), "-m", "granian", "acme2certifier.share.acme2certifier_wsgi:application"),
        *("--interface", "wsgi", "--host", host, "--port", port),
        *("--workers", "1", "--blocking-threads", "1", "--log-level", "warning"),
        *("--ssl-certificate", str(data / "tls.pem"), "--ssl-keyfile", str(data / "tls.key")),
    ]


def environment(data: Path, resolver: str) -> dict[str, str]:
    """Return only the variables that the CA needs. It must not see the server's secrets."""
    inherited = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "LANG", "TZ", "TMPDIR")
        if name in os.environ
    }
    return inherited | {
        "ACME_SRV_CONFIGFILE": str(data / "acme_srv.cfg"),
        "ACME2CERTIFIER_BASE_DIR": str(data),
        "LAB_DNS_PORT": resolver.rpartition(":")[2],
        "PYTHONPATH": str(SITE),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The lab's ACME CA on loopback.")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder for its keys, certificates and database"
    )
    parser.add_argument(
        "--listen", required=True, help="127.0.0.1:PORT of the ACME directory (HTTPS)"
    )
    parser.add_argument(
        "--resolver", required=True, help="127.0.0.1:PORT of the name server that it validates with"
    )
    parser.add_argument(
        "--python", type=Path, default=PYTHON, help="interpreter of the lab's own environment"
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if not options.python.exists():
        sys.exit(
            f"The lab CA needs its own environment at {options.python}. Run `make lab`, or "
            "use LAB=0."
        )
    data = options.data.absolute()
    prepare(data, options.listen, options.resolver)
    run = command(options.python, data, options.listen)
    os.chdir(data)
    os.execve(run[0], run, environment(data, options.resolver))  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
